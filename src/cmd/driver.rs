//! What the command service needs of the launcher.

use std::pin::Pin;
use std::sync::Arc;

use super::{Action, Failure, GuestCommand, GuestOutput, Measures};

/// An answer that takes its time.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

/// The launcher as the command service sees it: one door for changes, published state for everything else.
///
/// The reads answer at once from what was last published and never wait for libvirt, so that virt-handler's probes get
/// through whatever the VM is doing.
pub trait Driver: Measures {
    /// Carries out one action; the answer comes when it has taken effect.
    ///
    /// The answer is dropped when the caller has gone away (its deadline passed, its connection broke). Work that has
    /// begun must go on then; work that has not begun should be left, since the caller will ask again.
    fn perform(&self, action: Action) -> Answer<()>;

    /// The GetDomain document (contract/cmd-server.md 9.1), `None` if no domain is defined, an error while the launcher
    /// does not know.
    fn domain(&self) -> Result<Option<Arc<str>>, Failure>;

    /// The hypervisor's name and version, such as `QEMU 10.0.13`.
    fn hypervisor_version(&self) -> Result<String, Failure>;

    // What follows may be left to refuse: not every driver has a guest with an agent.

    /// The document of GetGuestInfo (contract/cmd-server.md 9.3).
    fn guest_info(&self) -> Result<String, Failure> {
        Err(Failure::NotImplemented("GetGuestInfo"))
    }

    /// The document of GetUsers (contract/cmd-server.md 9.4).
    fn users(&self) -> Result<String, Failure> {
        Err(Failure::NotImplemented("GetUsers"))
    }

    /// The document of GetFilesystems (contract/cmd-server.md 9.4).
    fn filesystems(&self) -> Result<String, Failure> {
        Err(Failure::NotImplemented("GetFilesystems"))
    }

    /// Runs a command in the guest.
    fn exec(&self, _command: GuestCommand) -> Answer<GuestOutput> {
        Box::pin(async { Err(Failure::NotImplemented("Exec")) })
    }

    /// Whether the agent of the domain's guest answers, or has a good reason not to.
    fn guest_ping(&self, _domain: String) -> Answer<()> {
        Box::pin(async { Err(Failure::NotImplemented("GuestPing")) })
    }
}
