//! The libvirt daemons: their files, arguments, restarts and logs.
//!
//! What the reader can rely on: a daemon is a direct child of the launcher, with nothing between them, and dies with it;
//! one that exits is started again by a policy that is data; its log never blocks it, whatever it writes.

mod files;
mod libvirt_log;
mod process_log;
mod restart;
mod supervisor;

pub use files::{FileError, write_files};
pub use libvirt_log::{LibvirtLine, parse_libvirt_line};
pub use process_log::follow_process_log;
pub use restart::{RestartPolicy, Restarts};
pub use supervisor::{DaemonState, Supervisor, Timings};
