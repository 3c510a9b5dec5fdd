//! The one VM as the launcher sees it, and what orders do to it.

#[cfg(test)]
pub(crate) mod control_double;
pub mod domain_xml;
pub mod guest_clock;
pub mod hotplug;
pub mod identity;
pub mod metadata;
pub mod migration_progress;
pub mod migration_record;
pub mod milestones;
pub mod operations;
pub mod paused;
pub mod power_off;
pub mod process;
pub mod sev;
pub mod state_file;
#[cfg(test)]
pub(crate) mod vm_double;

use std::sync::Arc;

use crate::hypervisor::VmControl;
use crate::launcher::guest::Guest;
use crate::libvirt::Connection;
use guest_clock::GuestClock;
use hotplug::Hotplug;
use metadata::MetadataCache;
use migration_progress::MigrationProgress;
use paused::PausedSet;
use power_off::AskedAgent;
use process::Tracker;

impl Vm {
    /// Whether the VM comes here from another node, and has not arrived.
    pub fn is_incoming(&self) -> bool {
        self.hotplug.state_file.state().incoming
    }
}

/// The one VM, as operations see it. Clones share everything.
#[derive(Clone)]
pub struct Vm {
    /// libvirt's name.
    pub domain: String,
    /// The connection to libvirt.
    pub connection: Connection,
    /// How the VM is handled, with all that its hypervisor's driver lacks.
    pub control: Arc<dyn VmControl>,
    /// What is remembered of the VM.
    pub metadata: MetadataCache,
    /// VMIs paused on purpose.
    pub paused: PausedSet,
    /// The guest, by its agent.
    pub guest: Guest,
    /// What its agent was asked to do.
    pub asked_agent: AskedAgent,
    /// The guest's clock.
    pub clock: GuestClock,
    /// The hypervisor's process.
    pub tracker: Tracker,
    /// What later syncs remember of its devices.
    pub hotplug: Hotplug,
    /// How far a migration to another node has come.
    pub migration_progress: MigrationProgress,
}
