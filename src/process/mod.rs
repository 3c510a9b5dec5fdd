//! Processes as the kernel shows them: search by command prefix, pidfd, wait status; and the pace at which what ends is begun
//! again.
#![allow(clippy::disallowed_methods, reason = "the kernel's own file systems, which do not hang")]

pub mod adoption;
mod capability;
mod faults;
mod footprint;
mod outcome;
mod pidfd;
mod pipes;
mod restart;
mod table;
#[cfg(test)]
#[path = "../../tests/it/support/programs.rs"]
pub mod testing;
mod vcpu;

pub use capability::{keep_only_access_to_files, raise_ambient_net_bind_service};
pub use faults::restore_default_crash_signals;
pub use footprint::{keep_heap_small, map_in_pieces, release_text_pages};
pub use outcome::Outcome;
pub use pidfd::{PidFd, ProcessError};
pub use pipes::{HeldPipe, PipeEnd, read_pipes, written_pipes};
pub use restart::{Restart, RestartPolicy, chance};
pub use table::{
    Found, PidFileError, ProcessId, command_matches, find_by_command_prefix, find_descendants_by_command_prefix,
    identify, may_belong_to, read_pid_file,
};
pub use vcpu::vcpu_threads;
