//! Processes as the kernel shows them: search by command prefix, pidfd, wait status.

mod outcome;
mod pidfd;
mod table;

pub use outcome::Outcome;
pub use pidfd::{PidFd, ProcessError};
pub use table::{Found, PidFileError, command_matches, find_by_command_prefix, read_pid_file};
