//! Why the launcher could not do what it was asked: the one error of the core. What virt-handler reads of it is in [`wire`].

mod wire;

use crate::hypervisor::ControlError;
use crate::libvirt::{self, VirError};

/// Why an operation on the VM failed. Whoever can mend it is in the variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// libvirt, in its own words.
    #[error("{0}")]
    Libvirt(VirError),
    /// libvirt, while the launcher was busy with `context`.
    #[error("{context}: {error}")]
    During {
        /// What was being done.
        context: String,
        /// What libvirt said.
        error: VirError,
    },
    /// The VMI asks for what cannot be: its author can change it.
    #[error("{0}")]
    Vmi(String),
    /// A file, an image or a volume cannot be used: who provides the storage can mend it.
    #[error("{0}")]
    Storage(String),
    /// Something else comes first; the same order may succeed later.
    #[error("{0}")]
    NotNow(String),
    /// The hypervisor does not do this, whatever the VMI says.
    #[error("{0}")]
    Unsupported(String),
    /// The order is for a domain that libvirt does not have.
    #[error("Domain not found.")]
    DomainNotFound,
    /// The images do not have a checkpoint, or not usably.
    #[error("{0}")]
    InvalidCheckpoint(String),
    /// Anything else: the text is all there is to know.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// `error` with what was being done before it: `context: virError(…)`.
    pub fn during(context: impl Into<String>, error: impl Into<ControlError>) -> Self {
        let context = context.into();
        match error.into() {
            ControlError::Libvirt(libvirt::Error::Libvirt(error)) => Error::During { context, error },
            error @ ControlError::Unsupported { .. } => Error::Unsupported(format!("{context}: {error}")),
            error @ (ControlError::Libvirt(_) | ControlError::Hypervisor(_)) => {
                Error::Other(format!("{context}: {error}"))
            }
        }
    }

    /// The same failure with what it was part of before its text: `context: text`. Who can mend it does not change.
    pub fn within(self, context: &str) -> Self {
        let text = format!("{context}: {}", self.message());
        match self {
            Error::Vmi(_) => Error::Vmi(text),
            Error::Storage(_) => Error::Storage(text),
            Error::NotNow(_) => Error::NotNow(text),
            Error::Unsupported(_) => Error::Unsupported(text),
            // These have a form, or a field of the reply, that a context takes away.
            Error::Libvirt(_)
            | Error::During { .. }
            | Error::DomainNotFound
            | Error::InvalidCheckpoint(_)
            | Error::Other(_) => Error::Other(text),
        }
    }

    /// [`Error::Vmi`] with this text.
    pub fn vmi(text: impl Into<String>) -> Self {
        Error::Vmi(text.into())
    }

    /// [`Error::Storage`] with this text.
    pub fn storage(text: impl Into<String>) -> Self {
        Error::Storage(text.into())
    }

    /// [`Error::NotNow`] with this text.
    pub fn not_now(text: impl Into<String>) -> Self {
        Error::NotNow(text.into())
    }

    /// [`Error::Other`] with this text.
    pub fn other(text: impl Into<String>) -> Self {
        Error::Other(text.into())
    }
}

impl From<libvirt::Error> for Error {
    fn from(error: libvirt::Error) -> Self {
        match error {
            libvirt::Error::Libvirt(error) => Error::Libvirt(error),
            error @ libvirt::Error::AgentBusy { .. } => Error::NotNow(error.to_string()),
            error @ (libvirt::Error::Deadline { .. }
            | libvirt::Error::Disconnected { .. }
            | libvirt::Error::Aborted { .. }) => Error::Other(error.to_string()),
        }
    }
}

impl From<ControlError> for Error {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Libvirt(error) => error.into(),
            error @ ControlError::Unsupported { .. } => Error::Unsupported(error.to_string()),
            error @ ControlError::Hypervisor(_) => Error::Other(error.to_string()),
        }
    }
}
