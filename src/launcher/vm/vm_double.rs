//! Double of the VM for unit tests: without a hypervisor, and with a libvirt that cannot be reached.

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
use crate::launcher::guest::Guest;
use crate::libvirt::{Connection, Deadlines, DomainSnapshot, Error};
use crate::notify::Outbox;

/// A VM that is running and answers every order with `refusal`.
pub(crate) fn running(refusal: Error) -> Vm {
    let running = DomainSnapshot { state: DomainState::RUNNING, xml: None };
    let (events, _) = tokio::sync::mpsc::unbounded_channel();
    let connection = Connection::new("test:///default".to_owned(), Deadlines::default(), events);
    let identity = Identity { domain: "d".into(), namespace: "n".into(), name: "d".into(), uid: "u".into() };
    let outbox = Outbox::start("/nowhere/notify.sock".into(), crate::notify::Timings::default());
    let search = Search { pid_file: "/nowhere/d.pid".into(), command_prefixes: Vec::new() };
    Vm {
        domain: "d".into(),
        control: Arc::new(ControlDouble::new(running, refusal.into())),
        metadata: MetadataCache::default(),
        paused: PausedSet::default(),
        guest: Guest::new(&identity, connection.clone(), outbox, "/nowhere".into(), &Restored::default()),
        asked_agent: AskedAgent::default(),
        clock: GuestClock::default(),
        tracker: Tracker::new("d".into(), search, &Restored::default()),
        hotplug: Hotplug::default(),
        migration_progress: MigrationProgress::default(),
        connection,
    }
}
