//! `ctl events`: the notify server that a virt-handler would run, for a person to watch.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response as Reply, Status};

use super::CtlError;
use super::output::{self, Format};
use crate::notify::socket_below;
use crate::proto::notify_info::notify_info_server::{NotifyInfo, NotifyInfoServer};
use crate::proto::notify_info::{NotifyInfoRequest, NotifyInfoResponse};
use crate::proto::notify_v1::notify_server::{Notify, NotifyServer};
use crate::proto::notify_v1::{DomainEventRequest, K8sEventRequest, Response};
use crate::proto::pair::Pair;

/// Where the launcher of this container looks for its virt-handler.
const SHARE_DIR: &str = "/var/run/kubevirt";
/// Events that may wait for a slow stdout before the launcher is made to wait.
const BACKLOG: usize = 100;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The socket to make; a stale one is replaced. Default: domain-notify-pipe.sock below /var/run/kubevirt.
    #[arg(long, value_name = "PATH")]
    listen: Option<PathBuf>,
    /// End after this many events.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End when a domain event has this status (such as `Running`), or is that of the deletion (`deleted`).
    #[arg(long, value_name = "STATUS")]
    until: Option<String>,
}

/// Prints events until enough came. With a timeout, too few events by then are a failure.
pub(super) async fn run(options: Options, format: Format, timeout: Option<Duration>) -> Result<(), CtlError> {
    let Options { listen, count, until } = options;
    let path = listen.unwrap_or_else(|| socket_below(Path::new(SHARE_DIR)));
    let listener = listen_at(&path).await?;
    let (events, mut arriving) = mpsc::channel(BACKLOG);
    let service = Pair::new(NotifyInfoServer::new(Receiver(events.clone())), NotifyServer::new(Receiver(events)));
    let served = tokio::spawn(Server::builder().serve_with_incoming(service, UnixListenerStream::new(listener)));

    let printing = async {
        let mut seen = 0;
        while count.is_none_or(|count| seen < count) {
            let Some(event) = arriving.recv().await else { return Ok(()) };
            output::line(&render(&event, format)?)?;
            seen += 1;
            if until.as_deref().is_some_and(|until| event.has_status(until)) {
                return Ok(());
            }
        }
        Ok(())
    };
    let limited = async {
        match timeout {
            None => printing.await,
            Some(within) => tokio::time::timeout(within, printing).await.unwrap_or_else(|_| {
                if count.is_none() && until.is_none() {
                    return Ok(());
                }
                Err(CtlError::Refused(format!("what was waited for did not come within {} s", within.as_secs_f32())))
            }),
        }
    };
    let result = tokio::select! {
        // What was acknowledged before the signal is printed before the end.
        biased;
        result = limited => result,
        result = told_to_end() => result,
    };
    served.abort();
    // A launcher that looks for virt-handler should not find a socket without a server.
    let _ = std::fs::remove_file(&path);
    result
}

/// Completes with SIGINT or SIGTERM: how a watch without `--count` ends, and how a migration is aborted.
pub(super) async fn told_to_end() -> Result<(), CtlError> {
    let failed = |error: std::io::Error| CtlError::Usage(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        interrupt = tokio::signal::ctrl_c() => interrupt.map_err(failed),
        _ = terminate.recv() => Ok(()),
    }
}

async fn listen_at(path: &Path) -> Result<UnixListener, CtlError> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(CtlError::Unreachable(format!("{}: somebody listens there already", path.display())));
    }
    let failed = |error: std::io::Error| CtlError::Unreachable(format!("cannot listen on {}: {error}", path.display()));
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // The launcher may run as another user than this command; virt-handler gives its socket to that user.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}

/// What arrived.
enum Event {
    Domain { event_type: String, domain: Value, status: Value },
    K8s(Value),
}

impl Event {
    fn has_status(&self, wanted: &str) -> bool {
        match self {
            Event::Domain { domain, .. } => {
                if wanted.eq_ignore_ascii_case("deleted") {
                    return is_deleted(domain);
                }
                text(domain, "/Status/Status").eq_ignore_ascii_case(wanted)
            }
            Event::K8s(_) => false,
        }
    }
}

fn is_deleted(domain: &Value) -> bool {
    domain.pointer("/ObjectMeta/deletionTimestamp").is_some_and(|at| !at.is_null())
}

fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn render(event: &Event, format: Format) -> Result<String, CtlError> {
    let document = match event {
        Event::Domain { event_type, domain, status } => {
            json!({ "call": "HandleDomainEvent", "eventType": event_type, "domain": domain, "status": status })
        }
        Event::K8s(event) => json!({ "call": "HandleK8sEvent", "event": event }),
    };
    match format {
        // One line each, so that a script can read them as they come.
        Format::Json => Ok(document.to_string()),
        Format::Yaml => serde_norway::to_string(&document)
            .map(|text| format!("---\n{}", text.trim_end()))
            .map_err(|error| CtlError::Refused(format!("the event cannot be printed: {error}"))),
        Format::Table => Ok(one_line(event)),
    }
}

fn one_line(event: &Event) -> String {
    match event {
        Event::Domain { event_type, domain, status } => {
            let mut line = format!(
                "{event_type:8} {}/{} {} {}",
                text(domain, "/ObjectMeta/namespace"),
                text(domain, "/ObjectMeta/name"),
                text(domain, "/Status/Status"),
                text(domain, "/Status/Reason"),
            );
            let grace = "/Spec/Metadata/KubeVirt/GracePeriod/MarkedForGracefulShutdown";
            if domain.pointer(grace) == Some(&Value::Bool(true)) {
                line.push_str(" marked-for-graceful-shutdown");
            }
            if is_deleted(domain) {
                line.push_str(" deleted");
            }
            if !status.is_null() {
                line.push_str(&format!(" error: {}", text(status, "/message")));
            }
            line
        }
        Event::K8s(event) => format!(
            "{:8} {}/{} {}: {}",
            text(event, "/type"),
            text(event, "/involvedObject/namespace"),
            text(event, "/involvedObject/name"),
            text(event, "/reason"),
            text(event, "/message"),
        ),
    }
}

struct Receiver(mpsc::Sender<Event>);

impl Receiver {
    async fn take(&self, event: Result<Event, serde_json::Error>) -> Reply<Response> {
        let message = match event {
            Ok(event) => match self.0.send(event).await {
                Ok(()) => return Reply::new(Response { success: true, message: String::new() }),
                Err(_) => "the reader of the events has ended".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        Reply::new(Response { success: false, message })
    }
}

#[tonic::async_trait]
impl NotifyInfo for Receiver {
    async fn info(&self, _: Request<NotifyInfoRequest>) -> Result<Reply<NotifyInfoResponse>, Status> {
        Ok(Reply::new(NotifyInfoResponse { supported_notify_versions: vec![1] }))
    }
}

#[tonic::async_trait]
impl Notify for Receiver {
    async fn handle_domain_event(&self, request: Request<DomainEventRequest>) -> Result<Reply<Response>, Status> {
        let DomainEventRequest { domain_json, status_json, event_type } = request.into_inner();
        let document = |json: &[u8]| if json.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(json) };
        let event = document(&domain_json)
            .and_then(|domain| document(&status_json).map(|status| Event::Domain { event_type, domain, status }));
        Ok(self.take(event).await)
    }

    async fn handle_k8s_event(&self, request: Request<K8sEventRequest>) -> Result<Reply<Response>, Status> {
        let event = serde_json::from_slice(&request.into_inner().event_json).map(Event::K8s);
        Ok(self.take(event).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_says_what_matters() {
        let domain = json!({
            "ObjectMeta": { "name": "vm", "namespace": "ns", "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "Spec": { "Metadata": { "KubeVirt": { "GracePeriod": { "MarkedForGracefulShutdown": true } } } },
            "Status": { "Status": "NoState", "Reason": "NonExistent" },
        });
        let event = Event::Domain { event_type: "MODIFIED".into(), domain, status: Value::Null };
        assert_eq!(one_line(&event), "MODIFIED ns/vm NoState NonExistent marked-for-graceful-shutdown deleted");
        assert!(event.has_status("deleted") && event.has_status("nostate") && !event.has_status("Running"));
        let event = Event::K8s(json!({
            "type": "Warning", "reason": "IOerror", "message": "no space",
            "involvedObject": { "namespace": "ns", "name": "vm" },
        }));
        assert_eq!(one_line(&event), "Warning  ns/vm IOerror: no space");
        assert!(!event.has_status("deleted"));
    }
}
