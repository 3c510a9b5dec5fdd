//! Why a command of `ctl` ends without success.

use crate::cmd::client::ConnectError;

/// Why a command did not succeed; decides the exit code.
#[derive(Debug, thiserror::Error)]
pub(super) enum CtlError {
    /// The launcher said no, in its own words.
    #[error("{0}")]
    Refused(String),
    /// Something on this side cannot be used.
    #[error("{0}")]
    Usage(String),
    /// No launcher answers.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No server answers at another socket than the launcher's.
    #[error("{0}")]
    Unreachable(String),
}

impl CtlError {
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            CtlError::Refused(_) => 1,
            CtlError::Usage(_) => 2,
            CtlError::Connect(_) | CtlError::Unreachable(_) => 3,
        }
    }
}
