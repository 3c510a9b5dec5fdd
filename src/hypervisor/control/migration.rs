//! Moving a VM to another node.

use std::time::Duration;

use super::{Answer, LibvirtControl, unsupported};
use crate::libvirt::{JobStats, Migration};

/// The source's part of a migration.
pub trait MigrationControl: Send + Sync {
    /// Migrates the domain; returns when the guest runs at the target, or stays here.
    fn migrate(&self, _migration: Migration) -> Answer<'_, ()> {
        unsupported("a migration")
    }
    /// Statistics of the migration that goes on. The hypervisor may be busy: the wait has no deadline but the migration's own.
    fn migration_stats(&self) -> Answer<'_, JobStats> {
        unsupported("a migration")
    }
    /// How long the guest may stand still at the switch to the target.
    fn set_max_downtime(&self, _downtime: Duration) -> Answer<'_, ()> {
        unsupported("a migration")
    }
    /// The guest goes on at the target at once, and fetches what memory it lacks.
    fn start_post_copy(&self) -> Answer<'_, ()> {
        unsupported("a migration")
    }
}

impl MigrationControl for LibvirtControl {
    fn migrate(&self, migration: Migration) -> Answer<'_, ()> {
        self.answer(self.connection.migrate(&self.domain, migration))
    }

    fn migration_stats(&self) -> Answer<'_, JobStats> {
        self.answer(self.connection.migration_stats(&self.domain))
    }

    fn set_max_downtime(&self, downtime: Duration) -> Answer<'_, ()> {
        self.answer(self.connection.set_max_downtime(&self.domain, downtime))
    }

    fn start_post_copy(&self) -> Answer<'_, ()> {
        self.answer(self.connection.start_post_copy(&self.domain))
    }
}
