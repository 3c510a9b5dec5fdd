//! Why a launcher does not start.

use super::directories::DirectoryError;
use crate::cmd::SocketError;
use crate::daemon::{DaemonError, FileError};
use crate::hooks::HookError;
use crate::hypervisor::{CatalogueError, RuntimeError};
use crate::libvirt;

/// Why the launcher could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The catalogue, or the hypervisor's name.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The image lacks something.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// A directory cannot be made.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A configuration file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The command socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The daemon does not come up.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// libvirt does not answer.
    #[error("cannot connect to libvirt at {uri}: {error}")]
    Connect {
        /// The URI.
        uri: String,
        /// Why.
        error: libvirt::Error,
    },
    /// Hook sidecars are missing or cannot be used.
    #[error(transparent)]
    Hooks(#[from] HookError),
    /// Signals cannot be received.
    #[error("cannot receive signals: {0}")]
    Signals(std::io::Error),
    /// `STANDALONE_VMI` cannot be used.
    #[error("STANDALONE_VMI: {0}")]
    Standalone(String),
    /// `--simulate-crash`.
    #[error("crashing because --simulate-crash asks for it")]
    SimulatedCrash,
}
