//! A pull-mode backup for who fetches it from outside the pod (contract/cmd-server.md 7.3, Export).
//!
//! The launcher dials out, as nothing dials into a pod: TLS, HTTP/2, CONNECT. On the stream of the CONNECT it is a gRPC
//! *server*, whose one service reads what QEMU serves on a unix socket of the pod. A [`Tunnel`] makes that connection again
//! and again until the socket is gone.
#![allow(clippy::disallowed_methods, reason = "a socket of the pod, on its tmpfs")]

mod connect;
mod map;
mod nbd;
mod service;

pub use connect::{ConnectError, TargetError};
pub use nbd::{Client, Deadlines, NbdError, Part};
pub use service::NbdService;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use h2::{Ping, PingPong};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};

use connect::{Connected, Server, Tunnelled};

use crate::process::{Restart, RestartPolicy, chance};
use crate::proto::nbd::nbd_server::NbdServer;

/// Most calls at once; each has a connection to QEMU, and about a MiB on its way. Who calls more waits: that is HTTP/2's rule.
const CALLS: u32 = 16;

/// Who is to have the backup, as BackupOptions says it. It has no Debug: the key must not be logged.
#[derive(Clone)]
pub struct Target {
    /// `host:port`.
    pub address: String,
    /// The name in the server's certificate.
    pub server_name: String,
    /// The launcher's private key, in PEM.
    pub key: String,
    /// The launcher's certificate and what leads to its authority, in PEM.
    pub certificate: String,
    /// The authorities that may have signed the server's certificate, in PEM.
    pub authority: String,
}

/// How long a tunnel waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// TCP and TLS; and again HTTP/2 and the answer to CONNECT.
    pub dial: Duration,
    /// Between a connection that failed or was lost and the next.
    pub again: RestartPolicy,
    /// Between two pings of the peer, who is otherwise not missed while nothing is asked for.
    pub ping: Duration,
    /// How long its answer may take.
    pub pong: Duration,
    /// How long calls may go on once the backup has ended.
    pub farewell: Duration,
    /// QEMU.
    pub nbd: Deadlines,
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            dial: Duration::from_secs(10),
            again: RestartPolicy {
                first: Duration::from_secs(1),
                factor: 2.0,
                longest: Duration::from_secs(300),
                jitter: 0.1,
                limit: None,
                healthy_after: Duration::from_secs(30),
            },
            ping: Duration::from_secs(30),
            pong: Duration::from_secs(20),
            farewell: Duration::from_secs(10),
            nbd: Deadlines::default(),
        }
    }
}

/// There is no tunnel, as nothing is served.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct NothingServed {
    /// Where it should be.
    path: PathBuf,
    /// Why it is not.
    source: io::Error,
}

/// An export that goes on in the background. Dropping it ends it.
#[derive(Debug)]
pub struct Tunnel {
    task: JoinHandle<()>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tunnel {
    /// Exports what is served at `socket` to `target` until `gone` is done, which is when the socket has been removed.
    /// A target that cannot be used is logged and ends the tunnel: no other attempt would fare better, and who
    /// asks again with a better one must find the place free.
    pub fn start(
        target: Target,
        socket: &Path,
        timings: Timings,
        gone: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Self, NothingServed> {
        std::fs::symlink_metadata(socket).map_err(|source| NothingServed { path: socket.to_owned(), source })?;
        let service = NbdService::new(socket.to_owned(), timings.nbd);
        let task = tokio::spawn(async move {
            match Server::new(&target) {
                Ok(server) => run(server, service, timings, gone).await,
                Err(error) => tracing::error!(reason = %error, "backup tunnel cannot be made"),
            }
        });
        Ok(Tunnel { task })
    }

    /// Whether it has ended by itself.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

async fn run(server: Server, service: NbdService, timings: Timings, gone: impl Future<Output = ()>) {
    let mut failures = 0;
    let mut gone = pin!(gone);
    let at = server.authority();
    loop {
        // Connecting is given up when the backup ends; serving ends by itself then.
        let connected = tokio::select! {
            biased;
            () = &mut gone => break,
            connected = server.connect(&timings) => connected,
        };
        let lasted = match connected {
            Ok(Connected { engine: connection, pings, stream }) => {
                tracing::info!("backup tunnel: connected via CONNECT to {at}, serving NBD");
                let begun = Instant::now();
                let mut engine = JoinSet::new();
                engine.spawn(connection);
                match serve(stream, pings, &service, &timings, gone.as_mut()).await {
                    Served::Ended => {
                        // What was said last is still to be written.
                        let _ = timeout(timings.farewell, engine.join_next()).await;
                        break;
                    }
                    Served::Lost(why) => tracing::warn!(reason = why, "backup tunnel connection lost, retrying"),
                }
                begun.elapsed()
            }
            Err(error) => {
                tracing::warn!(reason = %error, "backup tunnel cannot be made, retrying");
                Duration::ZERO
            }
        };
        failures = timings.again.count(failures, lasted);
        let Restart::After(pause) = timings.again.next(failures, chance()) else { break };
        tokio::select! {
            biased;
            () = &mut gone => break,
            () = tokio::time::sleep(pause) => {}
        }
    }
    tracing::info!("backup tunnel to {at}: NBD socket removed, the export has ended");
}

/// Returns when the server does not answer pings any more: a connection on which nothing is asked for is not missed, and
/// gRPC's own pings begin only once a client has spoken.
async fn silence(pings: Option<PingPong>, timings: &Timings) -> String {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(timings.ping).await;
        match timeout(timings.pong, pings.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_late) => return format!("no answer to a ping within {:.1} s", timings.pong.as_secs_f32()),
        }
    }
}

/// How serving came to an end.
enum Served {
    /// The backup has ended.
    Ended,
    /// The connection has.
    Lost(String),
}

async fn serve(
    stream: Tunnelled,
    pings: Option<PingPong>,
    service: &NbdService,
    timings: &Timings,
    mut gone: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> Served {
    let service = TowerToHyperService::new(NbdServer::new(service.clone()));
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(timings.ping)
            .keep_alive_timeout(timings.pong)
            .max_concurrent_streams(CALLS)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        biased;
        () = &mut gone => {
            connection.as_mut().graceful_shutdown();
            if timeout(timings.farewell, connection).await.is_err() {
                tracing::warn!("calls for a backup that has ended go on; their connection is cut");
            }
            Served::Ended
        }
        why = silence(pings, timings) => Served::Lost(why),
        outcome = &mut connection => Served::Lost(match outcome {
            Ok(()) => "the server has closed it".to_owned(),
            Err(error) => error.to_string(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let (again, second) = (Timings::default().again, Duration::from_secs(1));
        for (failures, nominal) in (1..).zip([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]) {
            let nominal = second * nominal;
            let Restart::After(pause) = again.next(failures, chance()) else { panic!("it gave up") };
            assert!(pause >= nominal && pause <= nominal.mul_f64(1.1), "{pause:?} for {nominal:?}");
        }
    }
}
