//! Live migration (contract/migration.md): [`outgoing`] sends the VM to another node, [`incoming`] receives it, [`policy`] decides
//! meanwhile.

pub mod document;
pub mod finalize;
pub mod hook;
pub mod incoming;
mod monitor;
pub mod options;
pub mod outgoing;
pub mod parameters;
pub mod policy;
pub mod progress;
pub mod saved;
pub mod sockets;
pub mod volumes;

use std::sync::Arc;

use crate::launcher::config::Config;
use crate::launcher::publish::domain_log::DomainLog;
use crate::launcher::vm::Vm;
use crate::launcher::vm::state_file::{Restored, StateFile};
use incoming::Incoming;
use outgoing::Outgoing;
use saved::SavedMigration;

/// The VM's migrations, both ways. Clones share everything.
#[derive(Clone)]
pub struct Migrations {
    pub outgoing: Outgoing,
    pub incoming: Incoming,
    file: StateFile,
}

impl Migrations {
    /// Those of `vm`; what an earlier launcher began waits for [`Migrations::go_on`]. libvirt's `log` of the domain tells what a
    /// daemon that began anew does not know.
    pub fn new(vm: &Vm, config: &Arc<Config>, restored: &Restored, log: DomainLog) -> Self {
        let file = restored.file.clone();
        Migrations {
            outgoing: Outgoing::new(vm.clone(), config, file.clone(), log),
            incoming: Incoming::new(vm.clone(), Arc::clone(config), file.clone()),
            file,
        }
    }

    /// Goes on with what an earlier launcher began.
    pub fn go_on(&self) {
        match SavedMigration::read(self.file.kept_migration().as_deref()) {
            Some(SavedMigration::Outgoing(order)) => self.outgoing.go_on(Some(*order)),
            Some(SavedMigration::Incoming(saved)) => self.incoming.go_on(Some(*saved)),
            None if self.file.state().incoming => self.incoming.go_on(None),
            None => self.outgoing.go_on(None),
        }
    }
}
