//! Work on the VM that goes on after its RPC has been answered, one at a time of each kind; what becomes of it is told
//! through the metadata (contract/cmd-server.md 7.2, 7.3).

mod backup;
mod backup_begin;
mod backup_documents;
mod exports;
mod memory_dump;

use std::sync::Arc;

use tokio::sync::Mutex;

use exports::Exports;

use crate::files::Watcher;
use crate::launcher::vm::Vm;

/// Where QEMU serves a backup that is to be fetched.
const NBD_SOCKET: &str = "/var/run/kubevirt/sockets/backup-nbd-sock";

/// Jobs on the one VM. Clones share them.
#[derive(Clone)]
pub struct Jobs {
    vm: Vm,
    /// Held while a memory dump is made.
    dumping: Arc<Mutex<()>>,
    /// Held from the decision to begin a backup until libvirt has said what came of it, and while it is asked whether one
    /// goes on. What it says by itself needs no turn: the record of a backup that has ended does not change any more.
    backup: Arc<Mutex<()>>,
    /// The backup that is exported.
    exports: Exports,
}

impl Jobs {
    /// Jobs on `vm`; none runs.
    pub fn new(vm: Vm, watcher: Watcher) -> Self {
        let exports = Exports::new(NBD_SOCKET.into(), watcher, crate::export::Timings::default());
        Jobs { vm, dumping: Arc::default(), backup: Arc::default(), exports }
    }
}
