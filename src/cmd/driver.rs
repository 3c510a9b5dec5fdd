//! What the command service needs of the launcher.

use std::pin::Pin;
use std::sync::Arc;

use super::{Action, Failure, Measures};

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
}
