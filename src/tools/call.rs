//! Calls of the launcher in the same pod, each with a deadline.

use std::time::Duration;

use tonic::{Response as Reply, Status};

use crate::cmd::client::ConnectError;
use crate::proto::cmd_v1::Response;

/// A call did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no launcher to call.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// gRPC says no.
    #[error("{call}: {code:?}: {message}")]
    Status {
        /// The call.
        call: &'static str,
        /// gRPC's code.
        code: tonic::Code,
        /// The launcher's words.
        message: String,
    },
    /// The launcher says no.
    #[error("{call}: {message}")]
    Refused {
        /// The call.
        call: &'static str,
        /// The launcher's words.
        message: String,
    },
    /// No answer came.
    #[error("{call}: no answer within {within:?}")]
    Late {
        /// The call.
        call: &'static str,
        /// The deadline.
        within: Duration,
    },
    /// The answer makes no sense.
    #[error("{call}: the answer cannot be read: {source}")]
    Unreadable {
        /// The call.
        call: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

/// Waits for the answer to a call.
pub(super) async fn answer<T>(
    call: &'static str,
    within: Duration,
    reply: impl Future<Output = Result<Reply<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(within, reply).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(CallError::Status { call, code: status.code(), message: status.message().to_owned() }),
        Err(_) => Err(CallError::Late { call, within }),
    }
}

/// An answer is a refusal if it has no success and a message; virt-handler reads it the same way.
pub(super) fn check(call: &'static str, response: Option<Response>) -> Result<(), CallError> {
    match response {
        Some(Response { success: false, message }) if !message.is_empty() => Err(CallError::Refused { call, message }),
        Some(_) | None => Ok(()),
    }
}
