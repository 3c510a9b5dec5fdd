//! What of a migration survives the launcher that carries it out (contract/migration.md 13.1).

use serde::{Deserialize, Serialize};

use super::options::MigrationOptions;
use super::policy::{Facts, Saved};
use crate::convert::HostFacts;
use crate::launcher::vm::state_file::StateFile;
use crate::vmi::VirtualMachineInstance;

/// The migration that is under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum SavedMigration {
    /// From here to another node.
    Outgoing(Box<SavedOutgoing>),
    /// From another node to here.
    Incoming(Box<SavedIncoming>),
}

/// The order, and how far its policy has come.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SavedOutgoing {
    pub vmi: VirtualMachineInstance,
    pub options: MigrationOptions,
    /// Absent until libvirt is about to be asked.
    pub policy: Option<(Facts, Saved)>,
}

/// What the pre-migration hook adapts the incoming domain to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedIncoming {
    pub vmi: VirtualMachineInstance,
    pub facts: HostFacts,
}

impl SavedOutgoing {
    /// Keeps it for the next launcher.
    pub fn keep(&self, file: &StateFile) {
        SavedMigration::Outgoing(Box::new(self.clone())).keep(file);
    }
}

impl SavedMigration {
    /// Keeps it for the next launcher.
    pub fn keep(&self, file: &StateFile) {
        match serde_json::to_vec(self) {
            Ok(bytes) => file.keep_migration(Some(&bytes)),
            Err(error) => tracing::warn!(reason = %error, "the next launcher will not know the migration"),
        }
    }

    /// What the previous launcher kept.
    pub fn read(kept: Option<&[u8]>) -> Option<Self> {
        let read = serde_json::from_slice(kept?);
        read.inspect_err(|error| tracing::warn!(reason = %error, "the previous launcher's migration cannot be read"))
            .ok()
    }
}
