//! The publisher with a VM whose state the test says, and libvirt's own in-process test driver for what else it asks.

use std::path::Path;

use tokio::time::timeout;

use super::*;
use crate::domain::{GuestOsInfo, InterfaceStatus};
use crate::hypervisor::ControlError;
use crate::launcher::control_double::ControlDouble;
use crate::launcher::guest_time::GuestClock;
use crate::launcher::hypervisor_process::Search;
use crate::launcher::operations::PausedSet;
use crate::launcher::power_off::AskedAgent;
use crate::launcher::sync::Hotplug;
use crate::libvirt::{Deadlines, event};
use crate::notify::Timings;
use crate::process::identify;

const DOMAIN: &str = "ns_vm";
const XML: &str = "<domain type='test'><name>ns_vm</name><memory>8</memory><os><type>hvm</type></os><devices>\
    <disk type='file'><source file='/a'/><target dev='vda'/></disk>\
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>\
    </devices></domain>";
const WAIT: Duration = Duration::from_secs(10);

/// One launcher's publisher, with nobody who takes its notifications.
struct World {
    shown: Arc<ControlDouble>,
    guest: Guest,
    saved: SavedStore,
    outbox: Outbox,
    publications: Publications,
    /// Until it runs.
    publisher: Option<Publisher>,
}

impl World {
    /// Of a launcher whose files are in `folder`; `connection` need not be open.
    fn new(folder: &Path, adopts: bool, connection: Connection) -> Self {
        let saved = SavedStore::open(folder, adopts);
        let identity = Identity { domain: DOMAIN.into(), namespace: "ns".into(), name: "vm".into(), uid: "u".into() };
        let outbox = Outbox::start(folder.join("notify.sock"), Timings::default());
        let guest = Guest::new(&identity, connection.clone(), outbox.clone(), folder.join("tpm"), saved.clone());
        let snapshot = DomainSnapshot { state: state::RUNNING, reason: state::RUNNING_BOOTED, xml: Some(XML.into()) };
        let shown = Arc::new(ControlDouble::new(snapshot, ControlError::Hypervisor("the publisher only looks".into())));
        let search = Search { pid_file: folder.join("pid"), command_prefixes: Vec::new() };
        let vm = Vm {
            domain: DOMAIN.into(),
            connection,
            control: Arc::clone(&shown) as Arc<dyn VmControl>,
            metadata: MetadataCache::default(),
            paused: PausedSet::default(),
            guest: guest.clone(),
            asked_agent: AskedAgent::default(),
            clock: GuestClock::default(),
            tracker: Tracker::new(DOMAIN.into(), search, saved.clone()),
            hotplug: Hotplug::default(),
        };
        let retry = Duration::from_millis(10);
        let (publisher, publications) =
            Publisher::new(identity, &vm, outbox.clone(), DomainLog::default(), retry, saved.clone());
        World { shown, guest, saved, outbox, publications, publisher: Some(publisher) }
    }

    fn run(&mut self) {
        tokio::spawn(self.publisher.take().unwrap().run());
    }

    /// Kubernetes events that nobody has taken.
    async fn told_events(&self) -> usize {
        self.outbox.close(Duration::ZERO).await.k8s_events
    }

    async fn domain(&self) -> Arc<Domain> {
        timeout(WAIT, self.publications.refreshed()).await.unwrap();
        self.publications.published.borrow().domain.clone().unwrap()
    }
}

fn closed() -> Connection {
    Connection::new("test:///default".into(), Deadlines::default(), mpsc::unbounded_channel().0)
}

fn told() -> DomainStatus {
    DomainStatus {
        interfaces: vec![InterfaceStatus { ip: "10.0.2.2".into(), ..InterfaceStatus::default() }],
        os_info: GuestOsInfo { name: "Debian".into(), ..GuestOsInfo::default() },
        ..DomainStatus::default()
    }
}

/// The poller asks nothing of a guest that is paused, and virt-handler takes what is not told for gone.
#[tokio::test]
async fn the_next_launcher_tells_what_the_agent_and_the_panics_have_told_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = World::new(folder.path(), false, closed());
    let own = identify(i32::try_from(std::process::id()).unwrap()).unwrap();
    first.saved.change(|state| state.process = Some(own));
    first.run();
    let shown = Domain { status: told(), ..Domain::default() };
    first.guest.inherit(Some(&shown), crate::domain::FsFreeze { status: "frozen".into() });
    first.publications.look(Cause::Lifecycle(Lifecycle { event: event::CRASHED, detail: 1 }));
    first.shown.set(state::PAUSED, state::PAUSED_USER, Some(XML));
    timeout(WAIT, async {
        let mut published = first.publications.published.clone();
        published
            .wait_for(|now| now.domain.as_ref().is_some_and(|domain| domain.status.os_info.name == "Debian"))
            .await
            .unwrap();
        while first.saved.state().freeze.status.is_empty() || first.saved.state().panics.count == 0 {
            first.publications.refreshed().await;
        }
    })
    .await
    .unwrap();

    let mut next = World::new(folder.path(), true, closed());
    next.shown.set(state::PAUSED, state::PAUSED_USER, Some(XML));
    let publisher = next.publisher.as_ref().unwrap();
    assert_eq!(publisher.guest_data.borrow().freeze.status, "frozen");
    let mut status = DomainStatus::default();
    publisher.faults.show(&mut status);
    assert_eq!((status.panic_count, status.guest_panic_info.unwrap().type_.as_str()), (1, "unknown"));
    next.run();
    let status = &next.domain().await.status;
    assert_eq!((status.status, &status.interfaces), (LifeCycle::Paused, &told().interfaces));
    assert_eq!(status.os_info, told().os_info);
    assert_eq!((status.panic_count, status.fs_freeze_status.status.as_str()), (0, ""), "these are for notifications");
}

#[tokio::test]
async fn without_xml_the_domain_keeps_the_devices_that_were_seen_last() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), false, closed());
    world.run();
    let seen = world.domain().await;
    assert_eq!(seen.spec.devices.channels.len(), 1);
    world.shown.set(state::PAUSED, state::PAUSED_USER, None);
    let unread = world.domain().await;
    assert_eq!((unread.status.status, &unread.spec), (LifeCycle::Paused, &seen.spec));
    world.shown.set(state::RUNNING, 5, Some("<domain>"));
    let unread = world.domain().await;
    assert_eq!((unread.status.status, &unread.spec), (LifeCycle::Running, &seen.spec));
}

/// The test driver lets every disk fail. A paused VM gives no other cause to look than the first.
#[tokio::test]
async fn failing_disks_are_asked_for_until_libvirt_answers() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.xml");
    std::fs::write(&file, format!("<node>{XML}</node>")).unwrap();
    let uri = format!("test://{}", file.display());
    let connection = Connection::new(uri, Deadlines::default(), mpsc::unbounded_channel().0);
    let mut world = World::new(folder.path(), false, connection.clone());
    world.run();
    world.shown.set(state::PAUSED, state::PAUSED_IO_ERROR, Some(XML));
    assert_eq!(world.domain().await.status.reason, StateReason::IoError);
    if let Err(error) = connection.connect().await {
        // The static client is built without the test driver.
        assert_eq!(error.code(), Some(5), "{error}");
        return;
    }
    timeout(WAIT, async {
        while world.told_events().await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    for _ in 0..3 {
        world.domain().await;
    }
    assert_eq!(world.told_events().await, 1, "once");
}
