//! Double of the VM for unit tests: without a hypervisor, and with a libvirt that cannot be reached.

use std::path::Path;
use std::sync::Arc;

use super::Vm;
use super::control_double::ControlDouble;
use super::guest_clock::GuestClock;
use super::hotplug::Hotplug;
use super::identity::Identity;
use super::metadata::MetadataCache;
use super::migration_progress::MigrationProgress;
use super::paused::PausedSet;
use super::power_off::AskedAgent;
use super::process::{Search, Tracker};
use super::state_file::Restored;
use crate::domain::DomainState;
use crate::hypervisor::VmControl;
use crate::launcher::guest::Guest;
use crate::libvirt::{Connection, Deadlines, DomainSnapshot, Error};
use crate::notify::Outbox;

/// A VM that is running and answers every order with `refusal`.
pub(crate) fn running(refusal: Error) -> Vm {
    let running = DomainSnapshot { state: DomainState::RUNNING, xml: None };
    let identity = Identity { domain: "d".into(), namespace: "n".into(), name: "d".into(), uid: "u".into() };
    let folder = Path::new("/nowhere");
    let outbox = Outbox::start(folder.join("notify.sock"), crate::notify::Timings::default());
    controlled(&identity, Arc::new(ControlDouble::new(running, refusal.into())), outbox, folder, &Restored::default())
}

/// A VM that is handled by `control`; its files would be in `folder`.
pub(crate) fn controlled(
    identity: &Identity,
    control: Arc<dyn VmControl>,
    outbox: Outbox,
    folder: &Path,
    restored: &Restored,
) -> Vm {
    let (events, _) = tokio::sync::mpsc::unbounded_channel();
    let connection = Connection::new("test:///default".to_owned(), Deadlines::default(), events);
    let search = Search { pid_file: folder.join("pid"), command_prefixes: Vec::new() };
    Vm {
        domain: identity.domain.clone(),
        control,
        metadata: MetadataCache::default(),
        paused: PausedSet::default(),
        guest: Guest::new(identity, connection.clone(), outbox, folder.join("tpm"), restored),
        asked_agent: AskedAgent::default(),
        clock: GuestClock::default(),
        tracker: Tracker::new(identity.domain.clone(), search, restored),
        hotplug: Hotplug::default(),
        migration_progress: MigrationProgress::default(),
        connection,
    }
}
