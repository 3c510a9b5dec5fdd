//! gRPC over a unix socket, client side, as KubeVirt's components do it to each other: plain text, `:authority`
//! `localhost`, the connection made before the first call.

use std::io;
use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The kernel refused the connection.
    #[error("{0}")]
    Connect(io::Error),
    /// Who listens is not who is meant; nothing was said to him.
    #[error("{0}")]
    Peer(String),
    /// Somebody listens and speaks something else.
    #[error("{0}")]
    Http2(String),
    /// Nobody took the connection in time.
    #[error("no answer within {:.1} s", .0.as_secs_f32())]
    Late(Duration),
}

/// A channel over one connection to the unix socket at `path`, made within `within`.
///
/// The channel never connects a second time: when the connection breaks, its calls fail with Unavailable.
pub async fn dial(path: &Path, within: Duration) -> Result<Channel, DialError> {
    dial_checked(path, within, |_| Ok(())).await
}

/// [`dial`], if `check` has nothing against the pid of who listens: 0 for a process that this one cannot see.
pub async fn dial_checked(
    path: &Path,
    within: Duration,
    check: impl FnOnce(i32) -> Result<(), String>,
) -> Result<Channel, DialError> {
    tokio::time::timeout(within, async {
        let stream = UnixStream::connect(path).await.map_err(DialError::Connect)?;
        let peer = stream.peer_cred().map_err(DialError::Connect)?;
        check(peer.pid().unwrap_or_default()).map_err(DialError::Peer)?;
        over(stream).await
    })
    .await
    .unwrap_or(Err(DialError::Late(within)))
}

/// A channel over a connection that somebody else made.
pub async fn over<S: AsyncRead + AsyncWrite + Send + Unpin + 'static>(stream: S) -> Result<Channel, DialError> {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_| {
        let stream = stream.take().ok_or_else(|| io::Error::other("the connection is gone"));
        async { stream.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    endpoint.connect_with_connector(connector).await.map_err(|error| DialError::Http2(chain(&error)))
}

/// An error and its causes on one line; tonic's own text alone is `transport error`.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
