//! libvirt's event loop and the callbacks that the launcher registers (contract/notify.md 4.1).
//!
//! Callbacks run in the event-loop thread; they only copy numbers into an unbounded queue, so that none is dropped. The
//! driver drains the queue faster than a guest can make events, and folds those that mean the same.
#![allow(unsafe_code, reason = "callbacks of libvirt's C API")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc::UnboundedSender;
use virt::connect::Connect;

use super::error::{VirError, last_error};
use super::numbers;
use super::params::Params;
use super::types::{JobStats, Lifecycle};

/// The guest agent's channel changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentChange {
    /// State 1.
    Connected,
    /// State 2, and whatever else libvirt may say.
    Disconnected,
}

/// An event of a domain.
#[derive(Debug, Clone, PartialEq)]
pub enum DomainEvent {
    /// Event 0.
    Lifecycle(Lifecycle),
    /// Event 18.
    Agent(AgentChange),
    /// Event 19.
    DeviceAdded,
    /// Event 15, with the device's alias.
    DeviceRemoved(String),
    /// Event 21, with what it says about the job; the job's type is not part of it.
    JobCompleted(Box<JobStats>),
    /// Event 26.
    MemoryDeviceSize,
    /// Event 20: an outgoing migration begins to send the guest's memory again.
    MigrationIteration,
}

/// An event of libvirt.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Of the domain with this name, which is libvirt's.
    Domain(String, DomainEvent),
    /// The connection with this generation is dead, with the close reason's meaning.
    Closed(u64, &'static str),
    /// This call, which may have changed the domain, was given up at its deadline and has now ended.
    Late(&'static str),
}

/// Where the events of one connection go.
#[derive(Clone)]
pub(super) struct Target {
    queue: UnboundedSender<Event>,
    generation: u64,
    /// The generation of the newest connection that delivers events. One that was given up may deliver the same for as long
    /// as its daemon keeps it from being closed.
    newest: Arc<AtomicU64>,
}

impl Target {
    /// The `queue` for the connection of `generation`; all connections share `newest`.
    pub(super) fn new(queue: UnboundedSender<Event>, generation: u64, newest: Arc<AtomicU64>) -> Self {
        Target { queue, generation, newest }
    }

    fn is_outdated(&self) -> bool {
        self.generation < self.newest.load(Ordering::Relaxed)
    }
}

const LIFECYCLE: c_int = 0;
const DEVICE_REMOVED: c_int = 15;
const AGENT_LIFECYCLE: c_int = 18;
const DEVICE_ADDED: c_int = 19;
const MIGRATION_ITERATION: c_int = 20;
const JOB_COMPLETED: c_int = 21;
const MEMORY_DEVICE_SIZE_CHANGE: c_int = 26;

extern "C" fn ignore_error(_data: *mut c_void, _error: virt_sys::virErrorPtr) {}

/// Stops libvirt from printing its errors on stderr: ours carry them.
fn silence_error_handler() {
    // SAFETY: the handler ignores its arguments and lives for ever.
    unsafe { virt_sys::virSetErrorFunc(std::ptr::null_mut(), Some(ignore_error)) }
}

/// Registers the default event loop and starts its thread, once per process and before any connection.
pub(super) fn start_loop() -> Result<(), VirError> {
    static STARTED: OnceLock<Result<(), VirError>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            silence_error_handler();
            virt::event::event_register_default_impl().map_err(VirError::from)?;
            std::thread::Builder::new()
                .name("libvirt-events".into())
                .stack_size(256 * 1024)
                .spawn(run_loop)
                .map(drop)
                .map_err(|error| VirError {
                    code: 0,
                    domain: 0,
                    message: format!("cannot start the event thread: {error}"),
                })
        })
        .clone()
}

fn run_loop() {
    loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            tracing::error!(reason = %error, "libvirt event loop failed, retrying");
            // The loop fails only for want of a resource (contract/lifecycle.md 3.1 step 13).
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
}

/// What is registered on a connection. Each callback holds a reference on it: libvirt's `virConnectClose` closes nothing
/// while one is left.
#[derive(Default)]
pub(super) struct Callbacks {
    events: Vec<c_int>,
    close: bool,
}

impl Callbacks {
    /// Registers every callback on `connect`; those of an earlier connection are not listened to from then on.
    pub(super) fn register(&mut self, connect: &Connect, target: &Target) -> Result<(), VirError> {
        type Generic = unsafe extern "C" fn(virt_sys::virConnectPtr, virt_sys::virDomainPtr, *mut c_void);
        // SAFETY: libvirt calls each callback with the argument list that belongs to its event id; the C API itself asks
        // for this cast (VIR_DOMAIN_EVENT_CALLBACK). The types below match libvirt-domain.h.
        let callbacks: [(c_int, Generic); 7] = unsafe {
            [
                (LIFECYCLE, std::mem::transmute::<*const (), Generic>(on_lifecycle as *const ())),
                (DEVICE_ADDED, std::mem::transmute::<*const (), Generic>(on_device_added as *const ())),
                (DEVICE_REMOVED, std::mem::transmute::<*const (), Generic>(on_device_removed as *const ())),
                (
                    MEMORY_DEVICE_SIZE_CHANGE,
                    std::mem::transmute::<*const (), Generic>(on_memory_device_size as *const ()),
                ),
                (MIGRATION_ITERATION, std::mem::transmute::<*const (), Generic>(on_migration_iteration as *const ())),
                (JOB_COMPLETED, std::mem::transmute::<*const (), Generic>(on_job_completed as *const ())),
                (AGENT_LIFECYCLE, std::mem::transmute::<*const (), Generic>(on_agent as *const ())),
            ]
        };
        for (event, callback) in callbacks {
            let opaque = Box::into_raw(Box::new(target.clone()));
            // SAFETY: `opaque` is released by free_target, when libvirt drops the callback, or below when it never took it.
            let id = unsafe {
                virt_sys::virConnectDomainEventRegisterAny(
                    connect.as_ptr(),
                    std::ptr::null_mut(),
                    event,
                    Some(callback),
                    opaque.cast(),
                    Some(free_target),
                )
            };
            if id < 0 {
                let error = last_error();
                // SAFETY: registration failed, so libvirt has not kept the pointer.
                drop(unsafe { Box::from_raw(opaque) });
                // A driver without this event (Cloud Hypervisor knows few) is not an error of ours.
                if event == LIFECYCLE || error.code != NO_SUPPORT {
                    return Err(error);
                }
                continue;
            }
            self.events.push(id);
        }
        let opaque = Box::into_raw(Box::new(target.clone()));
        // SAFETY: as above.
        let registered = unsafe {
            virt_sys::virConnectRegisterCloseCallback(
                connect.as_ptr(),
                Some(on_close),
                opaque.cast(),
                Some(free_target),
            )
        };
        if registered < 0 {
            let error = last_error();
            // SAFETY: as above.
            drop(unsafe { Box::from_raw(opaque) });
            return Err(error);
        }
        self.close = true;
        // Only now: until here an earlier connection may be the one that hears of an event.
        target.newest.fetch_max(target.generation, Ordering::Relaxed);
        Ok(())
    }

    /// Takes every callback off `connect`, which each time asks the daemon: only for a thread that may wait. On a connection
    /// that is dead libvirt forgets the callbacks all the same, and released the close callback's reference when it
    /// called it.
    ///
    /// The close callback goes last. An event may be on its way in the event loop's thread, which then keeps that callback's
    /// reference until the event is delivered; had it the last one, it would close the connection, and wait for the daemon.
    ///
    /// # Safety
    ///
    /// `connect` is the open connection of `register`.
    pub(super) unsafe fn deregister(self, connect: virt_sys::virConnectPtr) {
        for id in self.events {
            // SAFETY: the connection is alive, and libvirt checks the number.
            if unsafe { virt_sys::virConnectDomainEventDeregisterAny(connect, id) } < 0 {
                tracing::debug!("libvirt did not take back an event's callback: {}", last_error().message);
            }
        }
        // SAFETY: the connection is alive; this is the callback that was registered on it.
        if self.close && unsafe { virt_sys::virConnectUnregisterCloseCallback(connect, Some(on_close)) } < 0 {
            tracing::debug!("libvirt did not take back the close callback: {}", last_error().message);
        }
    }
}

/// `VIR_ERR_NO_SUPPORT`.
const NO_SUPPORT: i32 = 3;

// All functions from here on are libvirt's callbacks or their parts. What they rely on: `opaque` is the `Target` of `register`,
// alive until `free_target`; libvirt's pointers are valid for the call, and texts are null or end with NUL.

unsafe fn tell(opaque: *mut c_void, event: impl FnOnce(&Target) -> Event) {
    // SAFETY: what every callback relies on.
    let target = unsafe { &*opaque.cast::<Target>() };
    // A closed queue means that the launcher is ending.
    let _ = target.queue.send(event(target));
}

unsafe fn tell_of(domain: virt_sys::virDomainPtr, event: DomainEvent, opaque: *mut c_void) {
    // SAFETY: what every callback relies on.
    if unsafe { &*opaque.cast::<Target>() }.is_outdated() {
        return;
    }
    // SAFETY: libvirt's domain, and its name, are valid for the call.
    let name = unsafe { text(virt_sys::virDomainGetName(domain)) };
    // SAFETY: what every callback relies on.
    unsafe { tell(opaque, |_| Event::Domain(name, event)) };
}

unsafe fn text(text: *const c_char) -> String {
    match text.is_null() {
        true => String::new(),
        // SAFETY: libvirt's text, which is valid for the call.
        false => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
    }
}

unsafe extern "C" fn free_target(opaque: *mut c_void) {
    // SAFETY: libvirt calls this once, when it drops the callback.
    drop(unsafe { Box::from_raw(opaque.cast::<Target>()) });
}

unsafe extern "C" fn on_lifecycle(
    _: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: what every callback relies on.
    unsafe { tell_of(domain, DomainEvent::Lifecycle(numbers::lifecycle(event, detail)), opaque) };
    0
}

unsafe extern "C" fn on_agent(
    _: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    state: c_int,
    _reason: c_int,
    opaque: *mut c_void,
) {
    let change = if state == 1 { AgentChange::Connected } else { AgentChange::Disconnected };
    // SAFETY: what every callback relies on.
    unsafe { tell_of(domain, DomainEvent::Agent(change), opaque) };
}

unsafe extern "C" fn on_device_added(
    _: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    _alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: what every callback relies on.
    unsafe { tell_of(domain, DomainEvent::DeviceAdded, opaque) };
}

unsafe extern "C" fn on_device_removed(
    _: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: what every callback relies on.
    unsafe { tell_of(domain, DomainEvent::DeviceRemoved(text(alias)), opaque) };
}

unsafe extern "C" fn on_job_completed(
    _: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    params: virt_sys::virTypedParameterPtr,
    count: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt's list, which is valid for the call.
    let stats = JobStats::new(0, &unsafe { Params::copy(params, count) });
    // SAFETY: what every callback relies on.
    unsafe { tell_of(domain, DomainEvent::JobCompleted(Box::new(stats)), opaque) };
}

unsafe extern "C" fn on_migration_iteration(
    _: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    _iteration: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: what every callback relies on.
    unsafe { tell_of(domain, DomainEvent::MigrationIteration, opaque) };
}

unsafe extern "C" fn on_memory_device_size(
    _: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    _alias: *const c_char,
    _size: u64,
    opaque: *mut c_void,
) {
    // SAFETY: what every callback relies on.
    unsafe { tell_of(domain, DomainEvent::MemoryDeviceSize, opaque) };
}

unsafe extern "C" fn on_close(_: virt_sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    let reason = match reason {
        1 => "the daemon closed the connection",
        2 => "the daemon did not answer keepalives",
        3 => "closed by the launcher",
        _ => "an input/output error",
    };
    // SAFETY: what every callback relies on.
    unsafe { tell(opaque, |target| Event::Closed(target.generation, reason)) };
}
