//! Work on the VM that goes on after its RPC has been answered, one at a time of each kind; what becomes of it is told
//! through the metadata (contract/cmd-server.md 7.2, 7.3).

mod backup;
mod memory_dump;

pub use backup::OPERATION_BACKUP;

use std::sync::Arc;

use tokio::sync::Mutex;

use super::operations::Vm;

/// Jobs on the one VM. Clones share them.
#[derive(Clone)]
pub struct Jobs {
    vm: Vm,
    /// Held while a memory dump is made.
    dumping: Arc<Mutex<()>>,
    /// Held while a backup is begun or ended.
    backup: Arc<Mutex<()>>,
}

impl Jobs {
    /// Jobs on `vm`; none runs.
    pub fn new(vm: Vm) -> Self {
        Jobs { vm, dumping: Arc::default(), backup: Arc::default() }
    }
}
