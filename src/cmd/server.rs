//! Listening, and stopping to listen.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tracing::{error, warn};

use super::activity::Counted;
use super::dispatch::Dispatch;
use super::{Activity, Driver};

/// How long the server waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// Between two attempts to accept when the kernel refuses (no more file descriptors).
    pub accept_pause: Duration,
    /// For calls in progress once the server has to stop; then they are cut.
    pub stop: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Timings { accept_pause: Duration::from_millis(100), stop: Duration::from_secs(1) }
    }
}

/// Serves `CmdInfo` and `Cmd` on `listener` until `stop` is done, then gives calls in progress [`Timings::stop`].
///
/// A connection that is closed without a call costs one accept and leaves no trace. The socket file stays: the launcher
/// removes it if it wants to.
pub async fn serve(listener: UnixListener, driver: Arc<dyn Driver>, timings: Timings, stop: impl Future<Output = ()>) {
    serve_watched(listener, driver, timings, Activity::default(), stop).await;
}

/// [`serve`], with `activity` noting who calls.
pub async fn serve_watched(
    listener: UnixListener,
    driver: Arc<dyn Driver>,
    timings: Timings,
    activity: Activity,
    stop: impl Future<Output = ()>,
) {
    // Room for one: a connection waits in the kernel's backlog, not here.
    let (accepted, incoming) = mpsc::channel::<Counted>(1);
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let incoming = ReceiverStream::new(incoming).map(Ok::<_, std::io::Error>);
    let served = Server::builder().serve_with_incoming_shutdown(Dispatch::new(driver), incoming, async {
        // Either a stop order, or the end of its sender.
        let _ = stopped.await;
    });
    let accept = accept(&listener, &accepted, &activity, timings.accept_pause);
    let stop_then_grace = async {
        tokio::select! {
            () = stop => {}
            () = accept => {}
        }
        let _ = stopping.send(());
        tokio::time::sleep(timings.stop).await;
    };
    tokio::select! {
        ended = served => if let Err(error) = ended {
            error!("the command server ended: {error}");
        },
        () = stop_then_grace => warn!("calls to the command server were still in progress when it stopped"),
    }
}

/// Hands over connections for as long as somebody takes them.
async fn accept(listener: &UnixListener, accepted: &mpsc::Sender<Counted>, activity: &Activity, pause: Duration) {
    let mut refused = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                refused = false;
                if accepted.send(activity.connection(stream)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Once per streak: a client that exhausts the file descriptors must not fill the log as well.
                if !std::mem::replace(&mut refused, true) {
                    warn!("cannot accept connections on the command socket: {error}");
                }
                tokio::time::sleep(pause).await;
            }
        }
    }
}
