//! The connection to virt-handler, and what its answers mean (contract/notify.md 2).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::Timings;
use crate::process::may_belong_to;
use crate::proto::notify_info::NotifyInfoRequest;
use crate::proto::notify_info::notify_info_client::NotifyInfoClient;
use crate::proto::notify_v1::notify_client::NotifyClient;
use crate::proto::notify_v1::{DomainEventRequest, K8sEventRequest, Response};
use crate::proto::unix::{self, DialError};

/// Versions of the notify protocol that this launcher speaks.
const VERSIONS: &[u32] = &[1];

/// What is sent.
pub(super) enum Message {
    /// A domain document and its `eventType`.
    Domain { wire_type: &'static str, json: Arc<str> },
    /// A Kubernetes event.
    K8s { json: Arc<str> },
}

/// How sending ended, when virt-handler decided.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CallOutcome {
    /// Taken.
    Taken,
    /// Refused for good; saying it again would not help.
    Refused(String),
}

/// How sending ended, when it is worth another try.
#[derive(Debug, thiserror::Error)]
pub(super) enum GrpcError {
    /// virt-handler has not made its socket yet, or took it away.
    #[error("there is no socket")]
    Absent,
    /// No usable connection.
    #[error("{0}")]
    NotConnected(String),
    /// The connection broke, or the answer did not come in time.
    #[error("{0}")]
    NoAnswer(String),
}

/// One connection for all senders, made when it is needed.
pub(super) struct Link {
    pub(super) path: PathBuf,
    pub(super) timings: Timings,
    /// The pod's first process, none of whose descendants is virt-handler.
    monitor: Option<i32>,
    connection: Mutex<Connection>,
}

#[derive(Default)]
struct Connection {
    /// Counts connections, so that a sender only discards the one it has seen break.
    number: u64,
    channel: Option<Channel>,
}

impl Link {
    pub(super) fn new(path: PathBuf, timings: Timings, monitor: Option<i32>) -> Self {
        Link { path, timings, monitor, connection: Mutex::default() }
    }

    /// Sends one message once.
    pub(super) async fn send(&self, message: &Message) -> Result<CallOutcome, GrpcError> {
        let (number, channel) = self.channel().await?;
        let mut client = NotifyClient::new(channel);
        let call = async {
            match message {
                Message::Domain { wire_type, json } => {
                    let request = DomainEventRequest {
                        domain_json: json.as_bytes().to_vec(),
                        status_json: Vec::new(),
                        event_type: (*wire_type).to_owned(),
                    };
                    client.handle_domain_event(request).await
                }
                Message::K8s { json } => {
                    client.handle_k8s_event(K8sEventRequest { event_json: json.as_bytes().to_vec() }).await
                }
            }
        };
        let answer = match tokio::time::timeout(self.timings.call, call).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(Status::deadline_exceeded(format!("no answer within {:.1} s", self.timings.call.as_secs_f32())))
            }
        };
        match answer {
            Ok(reply) => Ok(judge(reply.into_inner())),
            Err(status) if is_transient(&status) => {
                self.discard(number).await;
                Err(GrpcError::NoAnswer(describe(&status)))
            }
            Err(status) => Ok(CallOutcome::Refused(describe(&status))),
        }
    }

    async fn channel(&self) -> Result<(u64, Channel), GrpcError> {
        let mut connection = self.connection.lock().await;
        if let Some(channel) = &connection.channel {
            return Ok((connection.number, channel.clone()));
        }
        let monitor = self.monitor;
        let check = move |pid| match monitor {
            // The kernel knows who called `listen`.
            Some(monitor) if pid > 0 && may_belong_to(pid, monitor) => {
                Err(format!("a process of this pod listens there, pid {pid}, in virt-handler's place"))
            }
            Some(_) | None => Ok(()),
        };
        let dialled = unix::dial_checked(&self.path, self.timings.connect, check).await;
        let channel = dialled.map_err(|error| match error {
            DialError::Connect(error) if error.kind() == io::ErrorKind::NotFound => GrpcError::Absent,
            error @ (DialError::Connect(_) | DialError::Peer(_) | DialError::Http2(_) | DialError::Late(_)) => {
                GrpcError::NotConnected(error.to_string())
            }
        })?;
        let mut info = NotifyInfoClient::new(channel.clone());
        let server = tokio::time::timeout(self.timings.call, info.info(NotifyInfoRequest {}))
            .await
            .map_err(|_| {
                GrpcError::NotConnected(format!("no versions within {:.1} s", self.timings.call.as_secs_f32()))
            })?
            .map_err(|status| GrpcError::NotConnected(describe(&status)))?
            .into_inner()
            .supported_notify_versions;
        if !server.iter().any(|version| VERSIONS.contains(version)) {
            return Err(GrpcError::NotConnected(format!(
                "no compatible version found, server: {server:?}, client: {VERSIONS:?}"
            )));
        }
        connection.number += 1;
        connection.channel = Some(channel.clone());
        Ok((connection.number, channel))
    }

    async fn discard(&self, number: u64) {
        let mut connection = self.connection.lock().await;
        if connection.number == number {
            connection.channel = None;
        }
    }
}

/// A reply without success is one only if it says why; so virt-handler's own client library reads it.
fn judge(Response { success, message }: Response) -> CallOutcome {
    if success || message.is_empty() { CallOutcome::Taken } else { CallOutcome::Refused(message) }
}

/// Whether the same message may get through on a new connection. A status with a source was made on this side: the
/// connection broke.
fn is_transient(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled)
        || std::error::Error::source(status).is_some()
}

fn describe(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_read_as_the_original_reads_them() {
        let reply = |success, message: &str| judge(Response { success, message: message.to_owned() });
        assert_eq!(reply(true, ""), CallOutcome::Taken);
        assert_eq!(reply(false, ""), CallOutcome::Taken);
        assert_eq!(reply(false, "VMI not found"), CallOutcome::Refused("VMI not found".to_owned()));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert!(is_transient(&Status::unavailable("")));
        assert!(is_transient(&Status::deadline_exceeded("")));
        assert!(is_transient(&Status::aborted("")));
        assert!(is_transient(&Status::from_error(Box::new(io::Error::other("broken pipe")))));
        assert!(!is_transient(&Status::unimplemented("")));
        assert!(!is_transient(&Status::unknown("")));
    }
}
