//! The publisher with a VM whose state the test says.

use std::path::Path;

use tokio::time::timeout;

use super::*;
use crate::domain::{FsFreeze, GuestOsInfo, InterfaceStatus};
use crate::guest_agent::{AgentInfo, Introduction};
use crate::hypervisor::ControlError;
use crate::launcher::guest::has_agent;
use crate::launcher::vm::control_double::ControlDouble;
use crate::launcher::vm::migration_record as record;
use crate::launcher::vm::vm_double;
use crate::libvirt::DiskError;
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
    state_file: StateFile,
    outbox: Outbox,
    publications: Publications,
    /// Until it runs.
    publisher: Option<Publisher>,
}

impl World {
    /// Of a launcher whose files are in `folder`.
    fn new(folder: &Path, adopts: bool) -> Self {
        let restored = Restored::open(folder, adopts);
        let identity = Identity { domain: DOMAIN.into(), namespace: "ns".into(), name: "vm".into(), uid: "u".into() };
        let outbox = Outbox::start(folder.join("notify.sock"), Timings::default());
        let snapshot = DomainSnapshot { state: DomainState::RUNNING, xml: Some(XML.into()) };
        let shown = Arc::new(ControlDouble::new(snapshot, ControlError::Hypervisor("the publisher only looks".into())));
        let control = Arc::clone(&shown) as Arc<dyn VmControl>;
        let vm = vm_double::controlled(&identity, control, outbox.clone(), folder, &restored);
        let guest = vm.guest.clone();
        let retry = Duration::from_millis(10);
        let (publisher, publications) =
            Publisher::new(identity, &vm, outbox.clone(), DomainLog::default(), retry, &restored);
        let state_file = restored.file;
        World { shown, guest, state_file, outbox, publications, publisher: Some(publisher) }
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

fn told() -> DomainStatus {
    DomainStatus {
        interfaces: vec![InterfaceStatus { ip: "10.0.2.2".into(), ..InterfaceStatus::default() }],
        os_info: GuestOsInfo { name: "Debian".into(), ..GuestOsInfo::default() },
        ..DomainStatus::default()
    }
}

/// The poller asks nothing of a guest that is paused, and virt-handler takes what is not told for gone.
#[tokio::test]
async fn next_launcher_tells_what_the_agent_and_the_panics_have_told_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = World::new(folder.path(), false);
    let own = identify(i32::try_from(std::process::id()).unwrap()).unwrap();
    first.state_file.change(|state| state.process = Some(own));
    first.run();
    let shown = Domain { status: told(), ..Domain::default() };
    let agent = Introduction { agent: Some(AgentInfo::default()), hostname: "guest".into(), ..Introduction::default() };
    first.guest.restore(Some(&shown), FsFreeze { status: "frozen".into() }, agent);
    first.publications.request_refresh(Trigger::Lifecycle(Lifecycle::Crashed { panicked: false }));
    first.shown.set(PAUSED, Some(XML));
    timeout(WAIT, async {
        let mut published = first.publications.published.clone();
        published
            .wait_for(|now| now.domain.as_ref().is_some_and(|domain| domain.status.os_info.name == "Debian"))
            .await
            .unwrap();
        while first.state_file.state().freeze.status.is_empty() || first.state_file.state().panics.count == 0 {
            first.publications.refreshed().await;
        }
    })
    .await
    .unwrap();

    let mut next = World::new(folder.path(), true);
    next.shown.set(PAUSED, Some(XML));
    let publisher = next.publisher.as_ref().unwrap();
    {
        let known = publisher.guest_data.borrow();
        assert_eq!((known.freeze.status.as_str(), known.hostname.as_str()), ("frozen", "guest"));
        assert!(known.is_introduced() && known.restored, "no agent that was supported is so no more");
    }
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
    let mut world = World::new(folder.path(), false);
    world.run();
    let seen = world.domain().await;
    assert_eq!(seen.spec.devices.channels.len(), 1);
    world.shown.set(PAUSED, None);
    let unread = world.domain().await;
    assert_eq!((unread.status.status, &unread.spec), (LifeCycle::Paused, &seen.spec));
    world.shown.set(DomainState::RUNNING, Some("<domain>"));
    let unread = world.domain().await;
    assert_eq!((unread.status.status, &unread.spec), (LifeCycle::Running, &seen.spec));
}

/// A paused VM gives no other cause to look than the first.
#[tokio::test]
async fn failing_disks_are_asked_for_until_libvirt_answers() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), false);
    world.run();
    world.shown.set(DomainState::new(LifeCycle::Paused, StateReason::IoError), Some(XML));
    assert_eq!(world.domain().await.status.reason, StateReason::IoError);
    assert_eq!(world.told_events().await, 0);
    world.shown.set_disk_errors(Ok(vec![("vda".to_owned(), DiskError::NoSpace)]));
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

/// The document that was made for virt-handler last, as (state, reason, whether it shows an agent).
fn told_by(last: &watch::Receiver<Option<Arc<str>>>) -> (String, String, bool) {
    let Some(told) = last.borrow().clone() else { return Default::default() };
    let domain: Domain = serde_json::from_str(&told).unwrap();
    let text = |value: Result<serde_json::Value, _>| value.unwrap().as_str().unwrap_or_default().to_owned();
    let status = &domain.status;
    let (state, reason) = (text(serde_json::to_value(status.status)), text(serde_json::to_value(status.reason)));
    (state, reason, has_agent(&domain.spec))
}

fn says(state: &str, reason: &str, agent: bool) -> (String, String, bool) {
    (state.to_owned(), reason.to_owned(), agent)
}

const FAILED: DomainState = DomainState::new(LifeCycle::Shutoff, StateReason::Failed);
const STARTING: DomainState = DomainState::new(LifeCycle::Paused, StateReason::StartingUp);
const PAUSED: DomainState = DomainState::new(LifeCycle::Paused, StateReason::User);
const DEFINED: Trigger = Trigger::Lifecycle(Lifecycle::Defined { added: true });

#[tokio::test(start_paused = true)]
async fn operations_end_is_looked_at_whatever_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), false);
    let mut last = world.publisher.as_ref().unwrap().last.subscribe();
    world.run();
    // libvirt tells of the define; by the time of the look the start is under way.
    world.shown.set(STARTING, Some(XML));
    world.publications.request_refresh(DEFINED);
    world.publications.refreshed().await;
    assert_eq!(told_by(&last), says("Paused", "StartingUp", false));
    // The start fails, and libvirt sends no event.
    world.shown.set(FAILED, Some(XML));
    world.publications.settled().await;
    assert_eq!(told_by(&last), says("Shutoff", "Failed", false));
    assert_eq!(world.domain().await.status.reason, StateReason::Failed);

    // What virt-handler knows is not told again.
    last.mark_unchanged();
    let leftover = world.outbox.acknowledged();
    world.publications.settled().await;
    assert_eq!((told_by(&last), *leftover.borrow()), (says("Shutoff", "Failed", false), 0));

    // While libvirt cannot be asked the look is due, with its news.
    world.shown.fail(ControlError::Hypervisor("the daemon died during the operation".into()));
    world.publications.settled().await;
    world.shown.set(PAUSED, Some(XML));
    timeout(WAIT, last.wait_for(|told| told.as_ref().is_some_and(|told| told.contains("Paused"))))
        .await
        .unwrap()
        .unwrap();
}

/// A start whose caller was told of a time-out goes on in libvirt, and may fail there.
#[tokio::test(start_paused = true)]
async fn start_that_nobody_waits_for_is_looked_at_until_it_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), false);
    let mut last = world.publisher.as_ref().unwrap().last.subscribe();
    world.run();
    world.shown.set(ENDED_WITHOUT_REASON, Some(XML));
    world.publications.request_refresh(DEFINED);
    world.publications.refreshed().await;
    world.shown.set(STARTING, Some(XML));
    world.publications.settled().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(told_by(&last), says("Shutoff", "Unknown", false), "a moment in the middle is not news");
    world.shown.set(FAILED, Some(XML));
    timeout(WAIT, last.wait_for(|told| told.as_ref().is_some_and(|told| told.contains("Failed"))))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn document_that_says_the_domain_is_down_shows_nothing_live() {
    let folder = tempfile::tempdir().unwrap();
    for state in [
        DomainState::CRASHED,
        DomainState::new(LifeCycle::Shutoff, StateReason::Shutdown),
        DomainState::new(LifeCycle::Shutoff, StateReason::Destroyed),
        FAILED,
        DomainState::new(LifeCycle::Crashed, StateReason::Panicked),
    ] {
        // libvirt still shows the live XML, or none can be read, and the last one was live.
        for spec in [Some(DomainSpec::from_xml(XML).unwrap()), None] {
            let world = World::new(folder.path(), false);
            let mut publisher = world.publisher.unwrap();
            let last = publisher.last.subscribe();
            let mut show = |state, spec| {
                publisher.publish(Audience::Always(NotificationKind::default()), Some(Observation { state, spec }));
            };
            world.guest.restore(None, FsFreeze::default(), known());
            show(DomainState::RUNNING, Some(DomainSpec::from_xml(XML).unwrap()));
            assert!(told_by(&last).2, "virt-handler asks for the agent");
            show(state, spec);
            assert!(!told_by(&last).2, "{state:?}");
            let shown = world.publications.published.borrow().domain.clone().unwrap();
            let channel = shown.spec.devices.channels[0].target.clone().unwrap();
            assert_eq!((channel.name.as_str(), channel.state.as_str()), ("org.qemu.guest_agent.0", ""));
            assert_eq!(shown.spec.devices.disks.len(), 1, "what is configured stays");
        }
    }
}

fn known() -> Introduction {
    Introduction { agent: Some(AgentInfo::default()), ..Introduction::default() }
}

#[tokio::test(start_paused = true)]
async fn agent_is_shown_once_it_has_told_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), false);
    let last = world.publisher.as_ref().unwrap().last.subscribe();
    world.run();
    world.publications.request_refresh(Trigger::Changed);
    world.publications.refreshed().await;
    assert_eq!(told_by(&last), says("Running", "Unknown", false));
    // What cannot be read now neither shows nor loses it.
    world.shown.set(DomainState::RUNNING, None);
    world.publications.request_refresh(Trigger::Changed);
    world.publications.refreshed().await;
    assert!(!told_by(&last).2);
    world.shown.set(DomainState::RUNNING, Some(XML));
    world.guest.restore(None, FsFreeze::default(), known());
    let mut told = last.clone();
    timeout(WAIT, told.wait_for(|told| told.as_ref().is_some_and(|told| told.contains("\"connected\""))))
        .await
        .unwrap()
        .unwrap();
    assert!(has_agent(&world.domain().await.spec), "GetDomain shows it, too");
}

#[tokio::test(start_paused = true)]
async fn agent_that_says_nothing_is_shown_after_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), false);
    let last = world.publisher.as_ref().unwrap().last.subscribe();
    world.run();
    world.publications.request_refresh(Trigger::Changed);
    tokio::time::sleep(introduction::PATIENCE - Duration::from_millis(100)).await;
    assert_eq!(told_by(&last), says("Running", "Unknown", false));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(told_by(&last), says("Running", "Unknown", true));
    // One that comes back is a new one.
    world.shown.set(DomainState::RUNNING, Some(&XML.replace("'connected'", "'disconnected'")));
    world.publications.request_refresh(Trigger::Changed);
    world.publications.refreshed().await;
    world.shown.set(DomainState::RUNNING, Some(XML));
    world.publications.request_refresh(Trigger::Changed);
    world.publications.refreshed().await;
    assert!(!told_by(&last).2);
}

/// Of a VM whose daemon ended during its migration libvirt was told to destroy what was left.
#[tokio::test]
async fn vm_that_has_left_is_reported_as_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), false);
    world.run();
    let destroyed = DomainState::new(LifeCycle::Shutoff, StateReason::Destroyed);
    for (left, reason) in [(false, StateReason::Destroyed), (true, StateReason::Migrated)] {
        world.state_file.change(|state| state.left = left);
        world.shown.set(destroyed, Some(XML));
        let domain = world.domain().await;
        assert_eq!((domain.status.status, domain.status.reason), (LifeCycle::Shutoff, reason));
    }
}

/// virt-handler would end the pod of the target, where the guest may run.
#[tokio::test]
async fn vm_that_ended_in_its_migration_stands_still_until_the_record_has_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(folder.path(), false);
    let metadata = world.publisher.as_ref().unwrap().metadata.clone();
    world.run();
    record::begin(&metadata, "m1").unwrap();
    world.shown.set(DomainState::CRASHED, Some(XML));
    let domain = world.domain().await;
    assert_eq!((domain.status.status, domain.status.reason), (LifeCycle::Paused, StateReason::Migration));
    record::end(&metadata, "m1", Some("cut off".into()));
    let domain = world.domain().await;
    assert_eq!((domain.status.status, domain.status.reason), (LifeCycle::Shutoff, StateReason::Crashed));
}
