//! The libvirt daemons: their files, arguments, restarts and logs.
//!
//! What the reader can rely on: a daemon is a direct child of the launcher, with nothing between them, and dies with it,
//! or is adopted by the next launcher, as its spec says;
//! one that ends is started again by a policy that is data; its log never blocks it, whatever it writes; what it, the
//! hypervisor and the firmware print becomes log records.
#![allow(
    clippy::disallowed_methods,
    reason = "configuration, sockets and logs of the pod's own daemons, not on a claim"
)]

mod child;
mod error;
mod files;
mod held;
pub mod logs;
mod ready;
mod supervisor;

pub use error::DaemonError;
pub use files::{FileError, write_files};
pub use supervisor::{DaemonState, Settings, Supervisor, Watchdog};
