//! The QEMU guest agent: what is asked, when, and what the answers say (contract/notify.md 6, cmd-server.md 7.1, 8).
//!
//! What the reader can rely on: a guest owns its agent, so every answer is bounded in size, in the number of entries and in
//! the length of texts, and one that makes no sense changes nothing; nothing is asked while the guest is paused or its
//! agent away; questions are asked one after another.

mod agent;
mod commands;
mod data;
mod documents;
mod error;
mod exec;
mod file;
mod freeze;
mod libvirt_agent;
mod parse;
mod poll_schedule;
mod poller;

pub use agent::{Agent, Answer, FROZEN, THAWED};
pub use data::{AgentCommand, AgentInfo, Filesystem, FilesystemDisk, GuestData, Introduction, Load, Timezone, User};
pub use documents::{filesystem_list, guest_info, user_list};
pub use error::AgentError;
pub use exec::{Command, Finished, exec, ping};
pub use file::{read_file, write_file};
pub use freeze::{freeze, status, thaw, thaw_frozen};
pub use libvirt_agent::LibvirtAgent;
pub use poll_schedule::{Intervals, Question};
pub use poller::{Interest, Presence, poll};
