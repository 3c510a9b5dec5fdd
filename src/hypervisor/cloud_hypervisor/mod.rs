//! Cloud Hypervisor under libvirt's `ch` driver, and what that driver leaves undone (contract/cloud-hypervisor.md 2, 11):
//! it sends no events of pause, power-off, reboot and crash, stops a VM by pulling the plug, leaves processes behind, hangs
//! on a device that it may not open, keeps the reason of a failed start to itself, and forgets all when it restarts.
//!
//! What the reader can rely on: a VMM that was started is watched through a pidfd until it is gone, whatever libvirt says;
//! libvirt's own events go on, and those that it lacks are put into the same queue within a second; a VM whose daemon was
//! restarted stays under control through its API socket.

mod checks;
mod control;
mod reboot;
mod rest;
mod serial;
mod stats;
#[cfg(test)]
mod tests;
mod vmm;

pub use vmm::VmPaths;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use rest::Rest;
use serial::{Serial, SerialPaths};

use super::control::{ControlError, LibvirtControl};
use crate::domain::{DomainState, LifeCycle, StateReason};
use crate::libvirt::{self, Connection, DomainEvent, DomainSnapshot, Event, Lifecycle};
use crate::process::PidFd;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// An answer of the VMM's API.
    pub rest: Duration,
    /// From SIGTERM to SIGKILL. The VMM ends within about a second.
    pub terminate: Duration,
    /// Between two looks at libvirt's state.
    pub look: Duration,
    /// From the VMM's end to libvirt's word that it was a power-off; without, it was a crash.
    pub settle: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            rest: Duration::from_secs(3),
            terminate: Duration::from_secs(3),
            look: Duration::from_millis(500),
            settle: Duration::from_millis(600),
        }
    }
}

/// The state of a VM whose VMM has ended.
fn shut_off(reason: StateReason) -> DomainState {
    DomainState::new(LifeCycle::Shutoff, reason)
}

/// What was asked of the VM that is to end it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum StopRequest {
    #[default]
    Nothing,
    Shutdown,
    Destroy,
}

#[derive(Debug, Default)]
struct VmmState {
    /// The VMM while it lives.
    pid: Option<i32>,
    /// How the last one ended; libvirt's own word does not count from then on.
    ended: Option<StateReason>,
    asked: StopRequest,
    /// libvirt does not know the domain any more.
    orphan: bool,
    /// The live XML.
    xml: Option<String>,
    /// The serial port, if there is one.
    serial: Option<SerialPaths>,
    /// The state that was reported last.
    told: LifeCycle,
}

struct Shared {
    connection: Connection,
    /// What libvirt's driver does as well as any.
    libvirt: LibvirtControl,
    events: UnboundedSender<Event>,
    place: VmPaths,
    timings: Timings,
    rest: Rest,
    known: Mutex<VmmState>,
    /// Whether a VMM lives, for those who wait for its end.
    alive: watch::Sender<bool>,
    /// Whether the serial port is served.
    console: watch::Sender<bool>,
}

/// The one VM under Cloud Hypervisor. Clones share it.
#[derive(Clone)]
pub struct CloudHypervisor(Arc<Shared>);

impl CloudHypervisor {
    /// A VM that is not started yet. `events` is the queue that libvirt's own events go to.
    pub fn new(connection: Connection, events: UnboundedSender<Event>, place: VmPaths, timings: Timings) -> Self {
        let rest = Rest { socket: place.api_socket(), deadline: timings.rest };
        let known = VmmState::default();
        let alive = watch::Sender::new(false);
        let libvirt = LibvirtControl { connection: connection.clone(), domain: place.domain.clone() };
        CloudHypervisor(Arc::new(Shared {
            connection,
            libvirt,
            events,
            place,
            timings,
            rest,
            known: Mutex::new(known),
            alive,
            console: watch::Sender::new(false),
        }))
    }

    fn vmm_state(&self) -> MutexGuard<'_, VmmState> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serial(&self) -> Option<SerialPaths> {
        self.vmm_state().serial.clone()
    }

    fn domain(&self) -> &str {
        &self.0.place.domain
    }

    fn tell(&self, event: Lifecycle) {
        // Without a driver the event has no receiver.
        let _ = self.0.events.send(Event::Domain(self.domain().to_owned(), DomainEvent::Lifecycle(event)));
    }

    /// Reports a change between running and paused once, from whatever source.
    fn tell_state(&self, now: LifeCycle) {
        let before = std::mem::replace(&mut self.vmm_state().told, now);
        match (before, now) {
            (LifeCycle::Running, LifeCycle::Paused) => self.tell(Lifecycle::Suspended),
            (LifeCycle::Paused, LifeCycle::Running) => self.tell(Lifecycle::Resumed),
            _ => {}
        }
    }

    /// State of a VM that libvirt cannot be asked about.
    async fn own_state(&self, error: libvirt::Error) -> Result<DomainState, ControlError> {
        let (ended, pid) = {
            let known = self.vmm_state();
            (known.ended, known.pid)
        };
        match (ended, pid) {
            // However often the daemon was replaced since.
            (Some(ended), _) => Ok(shut_off(ended)),
            (_, Some(_)) => {
                let state = match self.0.rest.get("vm.info").await {
                    Ok(info) => info.get("state").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned(),
                    // The process is there all the same.
                    Err(error) => {
                        tracing::debug!("{error}");
                        String::new()
                    }
                };
                Ok(match state.as_str() {
                    "Paused" => DomainState::new(LifeCycle::Paused, StateReason::User),
                    "Shutdown" => shut_off(StateReason::Shutdown),
                    _ => DomainState::RUNNING,
                })
            }
            (_, None) => Err(error.into()),
        }
    }

    async fn state_now(&self) -> Result<DomainState, ControlError> {
        match self.0.connection.state(self.domain()).await {
            Ok(state) => Ok(self.vmm_state().ended.map_or(state, shut_off)),
            Err(error) => self.own_state(error).await,
        }
    }

    async fn snapshot_now(&self) -> Result<DomainSnapshot, ControlError> {
        match self.0.connection.snapshot(self.domain()).await {
            Ok(mut snapshot) => {
                let mut known = self.vmm_state();
                if known.pid.is_some() && snapshot.xml.is_some() {
                    known.xml.clone_from(&snapshot.xml);
                }
                if let Some(ended) = known.ended {
                    snapshot.state = shut_off(ended);
                }
                Ok(snapshot)
            }
            Err(error) => {
                let state = self.own_state(error).await?;
                Ok(DomainSnapshot { state, xml: self.vmm_state().xml.clone() })
            }
        }
    }

    /// Whether the VMM runs and libvirt has forgotten it.
    fn is_orphan(&self) -> bool {
        let known = self.vmm_state();
        known.orphan && known.pid.is_some()
    }

    async fn start_now(&self, paused: bool) -> Result<(), ControlError> {
        let place = &self.0.place;
        let xml = self.0.connection.xml(self.domain(), 0).await?;
        checks::before_start(place, &xml).await.map_err(ControlError::Hypervisor)?;
        // One that a failed start or a daemon's end left behind would run beside the new one.
        self.end_leaked().await;
        let serial = SerialPaths::of(&xml, place.private());
        serial.iter().for_each(SerialPaths::clear);
        *self.vmm_state() = VmmState { serial, told: LifeCycle::Running, ..VmmState::default() };
        let said = checks::LogMark::at_end_of(place.log.as_deref());
        self.serve_console();
        if let Err(error) = self.0.connection.create(self.domain(), 0).await {
            self.0.console.send_replace(false);
            if matches!(error, libvirt::Error::Deadline { .. }) {
                checks::release_daemon(&place.run_dir.join(place.fifo_name()));
            }
            self.end_leaked().await;
            self.serial().iter().for_each(SerialPaths::clear);
            let reason = said.reason().unwrap_or_else(|| "it gave no reason".to_owned());
            return Err(ControlError::Hypervisor(format!("Cloud Hypervisor did not start the VM: {reason} ({error})")));
        }
        if let Err(error) = self.take_up_started(xml).await {
            // libvirt would not notice its end, and would call it running for ever.
            let ended = self.cause(None).await;
            self.end_leaked().await;
            self.vmm_ended(ended).await;
            if ended == StateReason::Shutdown {
                // A guest that was through with its work that soon has run all the same.
                return Ok(());
            }
            let reason = said.reason().unwrap_or_else(|| "it gave no reason".to_owned());
            return Err(ControlError::Hypervisor(format!("{error}; {reason}")));
        }
        self.unlock_first_sectors().await;
        if paused {
            self.suspend_now().await?;
        }
        Ok(())
    }

    /// Finds the VMM that libvirt has just started, and takes it up.
    async fn take_up_started(&self, xml: String) -> Result<(), ControlError> {
        let gone = || ControlError::Hypervisor("Cloud Hypervisor ended as soon as it had started".to_owned());
        // The domain's id is the VMM's pid.
        let pid = match self.0.connection.id(self.domain()).await {
            Ok(Some(id)) => id,
            Ok(None) | Err(_) => self.0.place.find_vmms().first().copied().ok_or_else(gone)?,
        };
        let live = self.0.connection.xml(self.domain(), 0).await.unwrap_or(xml);
        self.vmm_state().xml = Some(live.clone());
        self.take_up(pid, Some(live), false)
    }

    /// From now on this VMM is the VM's. A VM without its XML has neither console nor statistics.
    fn take_up(&self, pid: i32, xml: Option<String>, orphan: bool) -> Result<(), ControlError> {
        let pidfd = PidFd::open(pid).map_err(|error| {
            ControlError::Hypervisor(format!("Cloud Hypervisor ended as soon as it had started: {error}"))
        })?;
        if let Some(xml) = &xml {
            self.0.place.keep_xml(xml);
        }
        {
            let mut known = self.vmm_state();
            (known.pid, known.xml, known.orphan) = (Some(pid), xml, orphan);
        }
        self.0.alive.send_replace(true);
        self.serve_console();
        tokio::spawn(self.clone().watch(pidfd));
        Ok(())
    }

    /// From before the VMM starts until after its end.
    fn serve_console(&self) {
        let Some(serial) = self.serial() else { return };
        if !self.0.console.send_replace(true) {
            Serial::serve(&serial, self.0.place.owner, self.0.console.subscribe());
        }
    }

    /// Ends what a start that failed, or a daemon, left behind.
    async fn end_leaked(&self) {
        for pid in self.0.place.find_vmms() {
            tracing::info!("ending the VMM with pid {pid} that was left behind");
            vmm::end(pid, self.0.timings.terminate).await;
        }
    }

    async fn gone(&self) {
        let mut alive = self.0.alive.subscribe();
        let within = self.0.timings.terminate + self.0.timings.settle * 2;
        if tokio::time::timeout(within, alive.wait_for(|alive| !alive)).await.is_err() {
            tracing::error!("the VMM does not end");
        }
    }

    async fn put(&self, action: &str) -> Result<(), ControlError> {
        self.0.rest.put(action).await.map_err(|error| ControlError::Hypervisor(error.to_string()))
    }

    /// From now on the VM is handled by the VMM's own API alone.
    fn forgotten(&self) {
        if !std::mem::replace(&mut self.vmm_state().orphan, true) {
            tracing::warn!("libvirt's daemon has forgotten the VM, which runs on under its own API");
        }
    }

    /// By libvirt while it knows the VM, else by the VMM's own API.
    async fn ask(
        &self,
        of_libvirt: impl Future<Output = Result<(), libvirt::Error>>,
        action: &str,
    ) -> Result<(), ControlError> {
        if !self.is_orphan() {
            match of_libvirt.await {
                // The daemon may have been replaced a moment ago.
                Err(error) if error.is_no_domain() && self.vmm_state().pid.is_some() => self.forgotten(),
                result => return Ok(result?),
            }
        }
        self.put(action).await
    }

    async fn suspend_now(&self) -> Result<(), ControlError> {
        self.ask(self.0.connection.suspend(self.domain()), "vm.pause").await?;
        self.tell_state(LifeCycle::Paused);
        Ok(())
    }
}
