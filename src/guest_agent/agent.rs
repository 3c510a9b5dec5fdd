//! An agent, and what it says.

use super::data::{AgentInfo, Filesystem};
use super::error::AgentError;
use super::poll_schedule::Question;
use crate::domain::FsFreeze;
use crate::libvirt::{Params, guest_info};

/// What the agent calls frozen file systems.
pub const FROZEN: &str = "frozen";
/// What the agent calls the others.
pub const THAWED: &str = "thawed";

/// Which command of the agent libvirt needs for what it asks.
pub(super) const COMMANDS: [(u32, &str); 6] = [
    (guest_info::INTERFACES, "guest-network-get-interfaces"),
    (guest_info::OS, "guest-get-osinfo"),
    (guest_info::HOSTNAME, "guest-get-host-name"),
    (guest_info::TIMEZONE, "guest-get-timezone"),
    (guest_info::USERS, "guest-get-users"),
    (guest_info::LOAD, "guest-get-load"),
];

/// What the agent answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To [`Question::Info`] of these kinds.
    Info(u32, Params),
    /// To [`Question::FreezeStatus`].
    FreezeStatus(FsFreeze),
    /// To [`Question::Agent`].
    Agent(AgentInfo),
    /// To [`Question::Filesystems`].
    Filesystems(Vec<Filesystem>),
}

/// Whom the poller asks.
pub trait Agent: Send + Sync + 'static {
    /// Asks one question; ends by itself after a while.
    fn ask(&self, question: Question) -> impl Future<Output = Result<Answer, AgentError>> + Send;
}
