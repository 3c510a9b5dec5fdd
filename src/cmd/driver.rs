//! What the command service needs of the launcher.

use std::pin::Pin;
use std::sync::Arc;

use super::{Action, AgentStats, Failure, GuestCommand, GuestOutput};
use crate::libvirt::Screenshot;

/// An answer that takes its time.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

/// The answers to several questions, when they are there.
pub type AgentAnswers = Pin<Box<dyn Future<Output = Vec<Result<Arc<str>, Failure>>> + Send>>;

/// What the launcher can measure of its VM. Several who ask for the same at the same time get one measurement; none of
/// it holds up published state or changes. Each answer comes before the deadline of its client.
pub trait Measures: Send + Sync + 'static {
    /// The GetDomainStats document (contract/cmd-server.md 9.2).
    fn domain_stats(&self) -> Answer<Arc<str>>;

    /// Whether GetVMStats is served (`--vm-stats-collector`).
    fn collects_vm_stats(&self) -> bool;

    /// The version of the guest's agent, empty if it is not known.
    fn agent_version(&self) -> String;

    /// The agent's raw answers, one for each question in their order; all together before the client's deadline.
    fn agent_stats(&self, questions: Vec<AgentStats>) -> AgentAnswers;

    /// A picture of the guest's first screen.
    fn screenshot(&self) -> Answer<Screenshot>;

    /// What the platform says about its memory encryption, as JSON (contract/cmd-server.md 9.6).
    fn sev_info(&self) -> Answer<String>;

    /// What the guest's owner needs to trust the started guest, as JSON (contract/cmd-server.md 9.6).
    fn launch_measurement(&self) -> Answer<String>;

    /// MiB of memory that the guest writes per second.
    fn dirty_rate(&self) -> Answer<i64>;
}

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

    /// The document of GetGuestInfo (contract/cmd-server.md 9.3).
    fn guest_info(&self) -> Result<String, Failure>;

    /// The document of GetUsers (contract/cmd-server.md 9.4).
    fn users(&self) -> Result<String, Failure>;

    /// The document of GetFilesystems (contract/cmd-server.md 9.4).
    fn filesystems(&self) -> Result<String, Failure>;

    /// Runs a command in the guest.
    fn exec(&self, command: GuestCommand) -> Answer<GuestOutput>;

    /// Whether the agent of the domain's guest answers, or has a good reason not to.
    fn guest_ping(&self, domain: String) -> Answer<()>;
}
