//! Errors of calls, and the one place where they become replies (contract/cmd-server.md 3.2).

use tonic::Status;

use crate::libvirt::VirError;
use crate::proto::cmd_v1::Response;

/// Why a call did not do what was asked, as virt-handler reads it. The launcher's own error is `launcher::error::Error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The launcher's own words, sent as they are.
    #[error("{0}")]
    Text(String),
    /// What libvirt said, and nothing around it.
    #[error("{0}")]
    Libvirt(VirError),
    /// What libvirt said while the launcher was busy with `context`.
    #[error("{context}: {error}")]
    Wrapped {
        /// What was being done.
        context: String,
        /// What libvirt said.
        error: VirError,
    },
    /// There is no VMI in the request, or it cannot be read.
    #[error("No valid vmi object present in command server request")]
    NoVmi,
    /// A field of the request's VMI has a value that cannot be read. The original says no more than [`Failure::NoVmi`] does;
    /// virt-handler passes the text on to the VMI's events, so the field is added for the VMI's author.
    #[error("No valid vmi object present in command server request: {0}")]
    VmiField(String),
    /// Pause and Unpause of a domain that does not exist.
    #[error("Domain not found.")]
    DomainNotFound,
    /// A checkpoint that the domain's images do not have, or not usably.
    #[error("{0}")]
    InvalidCheckpoint(String),
}

impl Failure {
    /// A failure in the launcher's own words.
    pub fn text(text: impl Into<String>) -> Self {
        Failure::Text(text.into())
    }

    /// The text of a normal reply: a bare libvirt error has the form `LibvirtError(…)` there, a wrapped one `virError(…)`.
    pub fn message(&self) -> String {
        let text = match self {
            Failure::Libvirt(VirError { code, domain, message }) => {
                format!("LibvirtError(Code={code}, Domain={domain}, Message='{message}')")
            }
            Failure::Text(_)
            | Failure::InvalidCheckpoint(_)
            | Failure::Wrapped { .. }
            | Failure::NoVmi
            | Failure::VmiField(_)
            | Failure::DomainNotFound => self.to_string(),
        };
        // The client takes an empty message for success.
        if text.is_empty() { "failed for a reason that was not given".to_owned() } else { text }
    }
}

/// The `Response` of any call: gRPC OK, success or a message.
pub(super) fn response(result: Result<(), Failure>) -> Response {
    match result {
        Ok(()) => Response { success: true, message: String::new() },
        Err(failure) => Response { success: false, message: failure.message() },
    }
}

/// The gRPC error that `Exec`, `GuestPing` and a `GetVMStats` that is switched off end with: code Unknown, raw text.
pub(super) fn status(failure: &Failure) -> Status {
    Status::unknown(failure.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_domain() -> VirError {
        VirError {
            code: 42,
            domain: 10,
            message: "Domain not found: no domain with matching name 'default_testvmi'".to_owned(),
        }
    }

    #[test]
    fn libvirt_errors_have_two_forms() {
        let bare = Failure::Libvirt(no_domain());
        assert_eq!(
            bare.message(),
            "LibvirtError(Code=42, Domain=10, Message='Domain not found: no domain with matching name 'default_testvmi'')"
        );
        assert_eq!(
            status(&bare).message(),
            "virError(Code=42, Domain=10, Message='Domain not found: no domain with matching name 'default_testvmi'')"
        );
    }

    #[test]
    fn failure_never_reads_as_success() {
        let reply = response(Err(Failure::text("")));
        assert!(!reply.success);
        assert!(!reply.message.is_empty());
    }
}
