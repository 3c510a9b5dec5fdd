//! One connection to the daemon, re-opened by its owner; every call runs in a blocking thread under a deadline.

mod snapshot;

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use virt::connect::{Connect, ConnectAuth, ConnectCredential, ConnectCredentialType};
use virt::domain::Domain;

use super::agent_turns::{AgentOrder, AgentTurns};
use super::error::{Error, VirError, code};
use super::events::{self, Event, Target};
use super::raw::{self, Handle};
use crate::domain::DomainState;
use crate::logging::{Share, share};

pub use snapshot::DomainSnapshot;

/// How long libvirt may take, by kind of call. Tests shorten them.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Opening a connection, callbacks included.
    pub open: Duration,
    /// Reads that an order or a look at the VM needs. A slow disk makes them slow: libvirt writes its files with the
    /// domain locked.
    pub read: Duration,
    /// Questions whose client does not wait longer than 5 s: statistics, screenshots.
    pub inquiry: Duration,
    /// Pause, resume, shutdown, reset, reboot.
    pub control: Duration,
    /// Define and undefine; the first define probes the emulator, which under emulation takes seconds.
    pub define: Duration,
    /// Start and destroy.
    pub start: Duration,
    /// One question to the guest agent. libvirt gives up by itself after 10 s, 5 to find the agent awake and 5 for the
    /// answer, and says more.
    pub agent: Duration,
    /// An order to the agent that can be carried out in another way as well.
    pub agent_order: AgentOrder,
    /// A freeze of the guest's file systems, the questions before it included: the guest writes out what it has, and asks
    /// its databases to.
    pub freeze: Duration,
    /// The beginning of a backup, which is followed to its end: it may still begin after its caller has gone.
    pub backup: Duration,
    /// A memory dump, which runs in the background.
    pub dump: Duration,
    /// A migration, which its own monitor ends long before.
    pub migration: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines {
            open: Duration::from_secs(10),
            // With `control`, what one order takes: below the client's 20 s (contract/cmd-server.md 1).
            read: Duration::from_secs(7),
            // Below the client's 5 s.
            inquiry: Duration::from_secs(4),
            control: Duration::from_secs(12),
            define: Duration::from_secs(60),
            start: Duration::from_secs(120),
            agent: Duration::from_secs(12),
            agent_order: AgentOrder::default(),
            // Below the client's 60 s (contract/cmd-server.md 1).
            freeze: Duration::from_secs(50),
            backup: Duration::from_secs(3600),
            // A terabyte to storage that takes 100 MB/s, twice over.
            dump: Duration::from_secs(6 * 3600),
            // After a switch to post-copy nothing ends it but itself.
            migration: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// Keepalive probe interval in seconds, and how many may go unanswered: a hung daemon is noticed after two minutes,
/// which is longer than any pause that a healthy one takes. Each probe is a few wake-ups, for the life of the VM.
const KEEPALIVE: (i32, u32) = (60, 1);

/// So many unanswered reads in a row are a daemon that hangs: its connection is given up, well before keepalive would.
const UNANSWERED: u32 = 2;

#[derive(Clone)]
enum Link {
    Open { handle: Arc<Handle>, generation: u64 },
    Down { reason: String },
}

/// A handle on the launcher's connection. Clones share it.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
    /// Whether questions to the guest agent let orders pass.
    background: bool,
}

struct Shared {
    uri: String,
    deadlines: Deadlines,
    events: UnboundedSender<Event>,
    link: Mutex<Link>,
    /// Attempts to open one. Each has a generation of its own: one may succeed after it was given up.
    attempts: AtomicU64,
    /// The newest generation whose events count.
    newest: Arc<AtomicU64>,
    agent: AgentTurns,
    /// Reads in a row that were not answered in time.
    unanswered: AtomicU32,
}

fn credentials(wanted: &mut Vec<ConnectCredential>) {
    for credential in wanted {
        // Session daemons are asked as user `qemu` with an empty password (contract/lifecycle.md 7.4).
        credential.result = Some(match credential.typed {
            ConnectCredentialType::AuthName => "qemu".to_owned(),
            _ => String::new(),
        });
    }
}

impl Connection {
    /// A connection object that is not open yet; `connect` opens it. Events of every later connection go to `events`.
    pub fn new(uri: String, deadlines: Deadlines, events: UnboundedSender<Event>) -> Self {
        let link = Link::Down { reason: "not connected yet".into() };
        Connection {
            shared: Arc::new(Shared {
                uri,
                deadlines,
                events,
                link: Mutex::new(link),
                attempts: AtomicU64::new(0),
                newest: Arc::default(),
                agent: AgentTurns::default(),
                unanswered: AtomicU32::new(0),
            }),
            background: false,
        }
    }

    /// The same connection for background questions to the guest agent: an order never waits behind more than
    /// the one of them that is under way.
    #[must_use]
    pub fn in_background(&self) -> Self {
        Connection { background: true, ..self.clone() }
    }

    pub(super) fn is_background(&self) -> bool {
        self.background
    }

    /// The URI that `connect` opens.
    pub fn uri(&self) -> &str {
        &self.shared.uri
    }

    /// How long calls may take.
    pub fn deadlines(&self) -> &Deadlines {
        &self.shared.deadlines
    }

    pub(super) fn agent_turns(&self) -> &AgentTurns {
        &self.shared.agent
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.shared.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether calls have a connection to go to.
    pub fn is_open(&self) -> bool {
        matches!(*self.link(), Link::Open { .. })
    }

    /// Opens the connection and registers the callbacks; an open one is kept.
    pub async fn connect(&self) -> Result<(), Error> {
        if self.is_open() {
            return Ok(());
        }
        let generation = self.shared.attempts.fetch_add(1, Ordering::Relaxed) + 1;
        let target = Target::new(self.shared.events.clone(), generation, Arc::clone(&self.shared.newest));
        let uri = self.shared.uri.clone();
        let handle = blocking("virConnectOpenAuth", self.shared.deadlines.open, move || {
            events::start_loop()?;
            let mut auth =
                ConnectAuth::new(vec![ConnectCredentialType::AuthName, ConnectCredentialType::Passphrase], credentials);
            let mut handle = Handle::new(Connect::open_auth(Some(&uri), &mut auth, 0)?);
            handle.register(&target)?;
            if let Err(error) = handle.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1) {
                tracing::warn!("no keepalive on the libvirt connection: {}", error.message());
            }
            Ok(handle)
        })
        .await?;
        *self.link() = Link::Open { handle: Arc::new(handle), generation };
        self.shared.unanswered.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Marks the connection of `generation` as dead. Returns whether it was the current one.
    pub fn closed(&self, generation: u64, reason: &str) -> bool {
        let mut link = self.link();
        match &*link {
            Link::Open { generation: current, .. } if *current == generation => {
                *link = Link::Down { reason: reason.to_owned() };
                true
            }
            Link::Open { .. } | Link::Down { .. } => false,
        }
    }

    /// Closes the connection for good.
    pub fn close(&self) {
        let mut link = self.link();
        if let Link::Open { .. } = *link {
            *link = Link::Down { reason: "closed by the launcher".into() };
        }
    }

    pub(super) async fn call<T: Send + 'static>(
        &self,
        call: &'static str,
        deadline: Duration,
        work: impl FnOnce(&Handle) -> Result<T, VirError> + Send + 'static,
    ) -> Result<T, Error> {
        let link = self.link().clone();
        let (handle, generation) = match link {
            Link::Open { handle, generation } => (handle, generation),
            Link::Down { reason, .. } => {
                return Err(Error::Disconnected { call, uri: self.shared.uri.clone(), reason });
            }
        };
        let (reads, events) = ([self.shared.deadlines.read, self.shared.deadlines.inquiry], self.shared.events.clone());
        let late = move || {
            if !reads.contains(&deadline) {
                // A launcher that ends does not mind.
                let _ = events.send(Event::Late(call));
            }
        };
        let result = share(Share::Libvirt, blocking_or_late(call, deadline, late, move || work(&handle))).await;
        self.note_silence(&result, deadline, generation);
        if let Err(Error::Libvirt(error)) = &result
            && matches!(error.code, code::INVALID_CONN | code::RPC | code::SYSTEM_ERROR | code::INTERNAL_ERROR)
            && !self.still_alive().await
            && self.closed(generation, &error.message)
        {
            // The owner hears of it as it would from the close callback.
            let _ = self.shared.events.send(Event::Closed(generation, "a call failed on a dead connection"));
        }
        result
    }

    /// A daemon that was stopped gives no sign of it: its connection stays. Reads are what a healthy one always answers.
    fn note_silence<T>(&self, result: &Result<T, Error>, deadline: Duration, generation: u64) {
        match result {
            Err(Error::Deadline { .. }) if deadline == self.shared.deadlines.read => {
                let unanswered = self.shared.unanswered.fetch_add(1, Ordering::Relaxed) + 1;
                if unanswered >= UNANSWERED && self.closed(generation, "libvirt does not answer") {
                    let _ = self.shared.events.send(Event::Closed(generation, "libvirt does not answer"));
                }
            }
            Err(
                Error::Deadline { .. } | Error::AgentBusy { .. } | Error::Disconnected { .. } | Error::Aborted { .. },
            ) => {}
            Ok(_) | Err(Error::Libvirt(_)) => self.shared.unanswered.store(0, Ordering::Relaxed),
        }
    }

    /// Whether libvirt itself holds the connection for usable. Unlike the original, a failing API alone does not force
    /// a reconnect (contract/lifecycle.md 12.14).
    async fn still_alive(&self) -> bool {
        let Link::Open { handle, .. } = self.link().clone() else { return false };
        blocking("virConnectIsAlive", self.shared.deadlines.read, move || Ok(handle.is_alive()?)).await.unwrap_or(false)
    }

    pub(super) async fn on_domain<T: Send + 'static>(
        &self,
        call: &'static str,
        deadline: Duration,
        name: &str,
        work: impl FnOnce(&Domain) -> Result<T, VirError> + Send + 'static,
    ) -> Result<T, Error> {
        let name = name.to_owned();
        self.call(call, deadline, move |connect| work(&connect.lookup_domain_by_name(&name)?)).await
    }

    /// The driver's name and the hypervisor's version (`virConnectGetType`, `virConnectGetVersion`): `QEMU 10.0.13`,
    /// `CH 53.0.0`.
    pub async fn hypervisor_version(&self) -> Result<String, Error> {
        self.call("virConnectGetVersion", self.shared.deadlines.read, |connect| {
            let (name, number) = (connect.driver_type()?, connect.hyp_version()?);
            Ok(format!("{name} {}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000))
        })
        .await
    }

    /// The version of the libvirt that serves the connection: major · 1,000,000 + minor · 1000 + release
    /// (`virConnectGetLibVersion`).
    pub async fn libvirt_version(&self) -> Result<u32, Error> {
        self.call("virConnectGetLibVersion", self.shared.deadlines.read, |connect| Ok(connect.lib_version()?)).await
    }

    /// Asks the driver what it can do, which makes it probe its emulators; the answer itself is dropped.
    pub async fn warm_capabilities(&self) -> Result<(), Error> {
        self.call("virConnectGetCapabilities", self.shared.deadlines.define, |connect| {
            Ok(connect.capabilities().map(drop)?)
        })
        .await
    }

    /// Whether libvirt knows a domain of this name.
    pub async fn exists(&self, name: &str) -> Result<bool, Error> {
        match self.on_domain("virDomainLookupByName", self.shared.deadlines.read, name, |_| Ok(())).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_no_domain() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `virDomainGetID`; none for a domain that does not run.
    pub async fn id(&self, name: &str) -> Result<Option<i32>, Error> {
        self.on_domain("virDomainGetID", self.shared.deadlines.read, name, |domain| {
            Ok(domain.id().and_then(|id| i32::try_from(id).ok()))
        })
        .await
    }

    /// `virDomainGetState`.
    pub async fn state(&self, name: &str) -> Result<DomainState, Error> {
        self.on_domain("virDomainGetState", self.shared.deadlines.read, name, raw::domain_state).await
    }

    /// `virDomainGetXMLDesc` with `flags`.
    pub async fn xml(&self, name: &str, flags: u32) -> Result<String, Error> {
        self.on_domain("virDomainGetXMLDesc", self.shared.deadlines.read, name, move |domain| {
            Ok(domain.xml_desc(flags)?)
        })
        .await
    }

    /// `virDomainDefineXML`.
    pub async fn define(&self, xml: String) -> Result<(), Error> {
        self.call("virDomainDefineXML", self.shared.deadlines.define, move |connect| {
            Ok(connect.define_domain_xml(&xml).map(drop)?)
        })
        .await
    }

    /// `virDomainUndefineFlags`; without flags where the driver does not know them, and so keeps nothing that they are about.
    pub async fn undefine(&self, name: &str, flags: u32) -> Result<(), Error> {
        self.on_domain("virDomainUndefineFlags", self.shared.deadlines.define, name, move |domain| {
            with_known_flags(flags, |flags| domain.undefine_flags(flags))
        })
        .await
    }

    /// `virDomainFDAssociate`: gives libvirt a copy of `descriptor` under `name` until the connection closes.
    pub async fn associate(&self, name: &str, group: &'static CStr, descriptor: OwnedFd) -> Result<(), Error> {
        self.on_domain("virDomainFDAssociate", self.shared.deadlines.control, name, move |domain| {
            raw::associate(domain, group, descriptor.as_fd())
        })
        .await
    }

    /// `virDomainCreateWithFlags`.
    pub async fn create(&self, name: &str, flags: u32) -> Result<(), Error> {
        self.on_domain("virDomainCreateWithFlags", self.shared.deadlines.start, name, move |domain| {
            Ok(domain.create_with_flags(flags)?)
        })
        .await
    }

    /// `virDomainSuspend`.
    pub async fn suspend(&self, name: &str) -> Result<(), Error> {
        self.on_domain("virDomainSuspend", self.shared.deadlines.control, name, |domain| Ok(domain.suspend()?)).await
    }

    /// `virDomainResume`.
    pub async fn resume(&self, name: &str) -> Result<(), Error> {
        self.on_domain("virDomainResume", self.shared.deadlines.control, name, |domain| Ok(domain.resume()?)).await
    }

    /// `virDomainReset`.
    pub async fn reset(&self, name: &str) -> Result<(), Error> {
        self.on_domain("virDomainReset", self.shared.deadlines.control, name, |domain| Ok(domain.reset()?)).await
    }

    /// `virDomainReboot` with `flags`.
    pub async fn reboot(&self, name: &str, flags: u32) -> Result<(), Error> {
        self.on_domain("virDomainReboot", self.shared.deadlines.control, name, move |domain| Ok(domain.reboot(flags)?))
            .await
    }

    /// `virDomainShutdownFlags` with `flags`; without flags where the driver does not know them: it has one way only.
    pub async fn shutdown(&self, name: &str, flags: u32) -> Result<(), Error> {
        self.on_domain("virDomainShutdownFlags", self.shared.deadlines.control, name, move |domain| {
            with_known_flags(flags, |flags| domain.shutdown_flags(flags).map(drop))
        })
        .await
    }

    /// `virDomainDestroyFlags` with `flags`.
    pub async fn destroy(&self, name: &str, flags: u32) -> Result<(), Error> {
        self.on_domain("virDomainDestroyFlags", self.shared.deadlines.start, name, move |domain| {
            Ok(domain.destroy_flags(flags)?)
        })
        .await
    }

    /// `virDomainSetTime` to the host's clock (contract/cmd-server.md 4.4).
    pub async fn set_time(&self, name: &str, seconds: i64, nanoseconds: i32) -> Result<(), Error> {
        self.on_agent("virDomainSetTime", self.shared.deadlines.agent, name, move |domain| {
            Ok(domain.set_time(seconds, nanoseconds, 0)?)
        })
        .await
    }
}

/// Makes the call with `flags`, or if the driver does not know one of them, without any.
fn with_known_flags(flags: u32, call: impl Fn(u32) -> Result<(), virt::error::Error>) -> Result<(), VirError> {
    match call(flags).map_err(VirError::from) {
        Err(error) if flags != 0 && error.is_unknown_flag() => Ok(call(0)?),
        other => other,
    }
}

/// Runs `work` in a thread of its own and stops waiting at the deadline; a call that libvirt never answers keeps its
/// thread until the connection breaks, which keepalive makes sure of. A call that found no free thread until its deadline
/// is left undone: what its caller holds for failed must not happen later.
pub(super) async fn blocking<T: Send + 'static>(
    call: &'static str,
    deadline: Duration,
    work: impl FnOnce() -> Result<T, VirError> + Send + 'static,
) -> Result<T, Error> {
    blocking_or_late(call, deadline, || (), work).await
}

/// The same; `late` runs when a call ends that had begun and was given up, since it may have succeeded.
async fn blocking_or_late<T: Send + 'static>(
    call: &'static str,
    deadline: Duration,
    late: impl FnOnce() + Send + 'static,
    work: impl FnOnce() -> Result<T, VirError> + Send + 'static,
) -> Result<T, Error> {
    // tokio drops the closure of a blocking task that is aborted before it began.
    let mut task = tokio::task::spawn_blocking(work);
    match tokio::time::timeout(deadline, &mut task).await {
        Ok(Ok(result)) => result.map_err(Error::Libvirt),
        Ok(Err(gone)) => Err(Error::Aborted { call, reason: gone.to_string() }),
        Err(_) => {
            task.abort();
            tokio::spawn(async move {
                if task.await.is_ok() {
                    late();
                }
            });
            Err(Error::Deadline { call, after: deadline })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DomainEvent, Lifecycle};
    use super::*;
    use crate::domain::{LifeCycle, StateReason};

    /// All connections to it share one machine, and tests in this process run at the same time.
    static TEST_DRIVER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    /// libvirt's own in-process test driver stands in for a daemon: real library, real events, no machine.
    #[tokio::test(flavor = "multi_thread")]
    async fn drives_a_domain_of_the_test_driver() {
        let _driver = TEST_DRIVER.lock().await;
        let (queue, mut events) = tokio::sync::mpsc::unbounded_channel();
        let connection = Connection::new("test:///default".into(), Deadlines::default(), queue);
        assert!(matches!(connection.state("test").await, Err(Error::Disconnected { .. })));
        if let Err(error) = connection.connect().await {
            // The static client is built without the test driver.
            assert_eq!(error.code(), Some(5), "{error}");
            return;
        }
        assert!(connection.exists("test").await.unwrap());
        assert_eq!(connection.state("test").await.unwrap(), DomainState::RUNNING);
        connection.suspend("test").await.unwrap();
        assert_eq!(connection.state("test").await.unwrap(), DomainState::new(LifeCycle::Paused, StateReason::User));
        let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap();
        assert_eq!(event, Event::Domain("test".into(), DomainEvent::Lifecycle(Lifecycle::Suspended)));
        let missing = connection.state("nobody").await.unwrap_err();
        assert!(missing.is_no_domain(), "{missing}");
        assert!(connection.snapshot("test").await.unwrap().xml.unwrap().contains("<name>test</name>"));
        connection.resume("test").await.unwrap();
        // The driver knows neither the power button nor NVRAM.
        let xml = "<domain type='test'><name>own</name><memory>1024</memory><os><type>hvm</type></os></domain>";
        connection.define(xml.to_owned()).await.unwrap();
        connection.create("own", 0).await.unwrap();
        connection.shutdown("own", super::super::flags::DOMAIN_SHUTDOWN_ACPI).await.unwrap();
        connection.undefine("own", super::super::flags::DOMAIN_UNDEFINE).await.unwrap();
        assert!(!connection.exists("own").await.unwrap());
    }

    /// A daemon that was stopped keeps its connection from being closed; when it goes on there are two.
    #[tokio::test(flavor = "multi_thread")]
    async fn connection_that_was_given_up_tells_nothing_beside_its_successor() {
        let _driver = TEST_DRIVER.lock().await;
        let (queue, mut events) = tokio::sync::mpsc::unbounded_channel();
        let connection = Connection::new("test:///default".into(), Deadlines::default(), queue);
        if let Err(error) = connection.connect().await {
            // The static client is built without the test driver.
            assert_eq!(error.code(), Some(5), "{error}");
            return;
        }
        let lifecycle = |event| Event::Domain("test".into(), DomainEvent::Lifecycle(event));
        let lingering = connection.link().clone();
        assert!(connection.closed(1, "libvirt does not answer"));
        let Link::Open { handle, generation } = &lingering else { panic!("it was open") };
        assert_eq!(*generation, 1);
        handle.lookup_domain_by_name("test").unwrap().suspend().unwrap();
        let mut next = async || tokio::time::timeout(Duration::from_secs(10), events.recv()).await.unwrap().unwrap();
        assert_eq!(next().await, lifecycle(Lifecycle::Suspended), "no other connection delivers it");
        connection.connect().await.unwrap();
        connection.resume("test").await.unwrap();
        connection.suspend("test").await.unwrap();
        connection.resume("test").await.unwrap();
        let expected = [Lifecycle::Resumed, Lifecycle::Suspended, Lifecycle::Resumed].map(lifecycle);
        assert_eq!([next().await, next().await, next().await], expected);
        drop(lingering);
    }

    #[tokio::test]
    async fn call_that_is_not_answered_ends_at_its_deadline() {
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let (late, is_late) = tokio::sync::oneshot::channel();
        let told = move || late.send(()).unwrap();
        let result = blocking_or_late("virDomainX", Duration::from_millis(20), told, move || {
            let _ = wait.recv();
            Ok(())
        })
        .await;
        assert_eq!(result, Err(Error::Deadline { call: "virDomainX", after: Duration::from_millis(20) }));
        drop(release);
        is_late.await.unwrap();
        let (late, is_late) = tokio::sync::oneshot::channel();
        let told = move || late.send(()).unwrap();
        blocking_or_late("virDomainX", Duration::from_secs(60), told, || Ok(())).await.unwrap();
        is_late.await.unwrap_err();
    }
}
