//! Why a daemon is not there.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::process::Outcome;

/// Why a daemon is not there.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Its executable cannot be run.
    #[error("cannot start {name}: {field}: {program}: {source}")]
    CannotStart {
        /// The daemon.
        name: String,
        /// Where the catalogue names the executable.
        field: &'static str,
        /// The executable.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its socket did not accept connections in time.
    #[error("{name} did not accept connections at {socket} within {within:?}{}", obstacle(.source))]
    NotReady {
        /// The daemon.
        name: String,
        /// The socket.
        socket: PathBuf,
        /// The deadline.
        within: Duration,
        /// What the last attempt failed on.
        source: Option<io::Error>,
    },
    /// It ended.
    #[error("{name} with pid {pid} ended: {outcome}")]
    Ended {
        /// The daemon.
        name: String,
        /// Its process.
        pid: i32,
        /// How.
        outcome: Outcome,
    },
    /// It ended, and it was not this launcher's child, who alone would know how.
    #[error("{name} with pid {pid} ended")]
    Vanished {
        /// The daemon.
        name: String,
        /// Its process.
        pid: i32,
    },
    /// It ran and did not answer.
    #[error("{name} with pid {pid} did not answer")]
    Hung {
        /// The daemon.
        name: String,
        /// Its process.
        pid: i32,
    },
    /// A signal had stopped it.
    #[error("{name} with pid {pid} was stopped by a signal")]
    Halted {
        /// The daemon.
        name: String,
        /// Its process.
        pid: i32,
    },
    /// The kernel does not report it.
    #[error("cannot wait for {name} with pid {pid}: {source}")]
    CannotWait {
        /// The daemon.
        name: String,
        /// Its process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// It is not started, since nothing that it could run on is there.
    #[error("{reason}")]
    Waiting {
        /// What is missing.
        reason: String,
    },
    /// It is not going to be ready.
    #[error("{name} is not ready: {reason}")]
    Unavailable {
        /// The daemon.
        name: String,
        /// Its state.
        reason: String,
    },
}

fn obstacle(source: &Option<io::Error>) -> String {
    source.as_ref().map(|error| format!(": {error}")).unwrap_or_default()
}

impl DaemonError {
    /// Whether trying again is pointless: the image is wrong. A machine that is merely out of something recovers.
    pub(super) fn is_lasting(&self) -> bool {
        match self {
            DaemonError::CannotStart { source, .. } => matches!(
                source.raw_os_error(),
                Some(
                    libc::ENOENT
                        | libc::ENOTDIR
                        | libc::EACCES
                        | libc::EPERM
                        | libc::ENOEXEC
                        | libc::EISDIR
                        | libc::ELOOP
                )
            ),
            DaemonError::NotReady { .. }
            | DaemonError::Ended { .. }
            | DaemonError::Vanished { .. }
            | DaemonError::Hung { .. }
            | DaemonError::Halted { .. }
            | DaemonError::CannotWait { .. }
            | DaemonError::Waiting { .. }
            | DaemonError::Unavailable { .. } => false,
        }
    }
}
