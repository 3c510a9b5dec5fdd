//! SyncMigrationTarget: whether this launcher, in a pod that was made for it, can receive a VM from another node
//! (contract/cmd-server.md 6).
//!
//! virt-handler repeats a refused SyncMigrationTarget every second for as long as the pod lives, and meanwhile the migration
//! neither fails nor can be cancelled, a drain waits, and no other migration begins. Only the pod's end is an answer that
//! virt-controller understands. So a reason is of one of two classes, and one that holds for the pod's whole life ends the
//! pod.

use super::Vm;
use crate::cmd::Failure;

/// Why the VM cannot be received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing will change that in this pod: it ends, and the migration fails at once.
    Never(String),
    /// Not now: virt-handler asks again.
    NotNow(String),
}

impl Refusal {
    /// The reason, if it holds for the pod's whole life.
    pub(crate) fn never(&self) -> Option<String> {
        match self {
            Refusal::Never(why) => Some(why.clone()),
            Refusal::NotNow(_) => None,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Never(why) | Refusal::NotNow(why) => Failure::text(why),
        }
    }
}

/// Prepares for the VM. A launcher that has, or had, a VM of its own never ends for the sake of a migration; one
/// `without_daemon` cannot have one.
pub(crate) async fn receive(vm: &Vm, without_daemon: bool) -> Result<(), Refusal> {
    const RPC: &str = "SyncMigrationTarget";
    let own =
        |what: &str| Err(Refusal::NotNow(format!("{RPC}: this launcher cannot receive a virtual machine: {what}")));
    if vm.tracker.was_seen() {
        return own("it runs one itself");
    }
    if !without_daemon {
        match vm.control.exists().await {
            Ok(true) => return own("it has a domain"),
            Ok(false) => {}
            Err(error) => return own(&format!("it cannot see yet whether it has a domain: {error}")),
        }
    }
    let why = "this launcher cannot receive a virtual machine from another node yet";
    Err(Refusal::Never(format!("not implemented yet: {RPC}: {why}")))
}
