//! Waiting until a socket accepts connections.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

use super::watch::PathWatch;

/// A socket file exists from bind(2) on, but connections are refused until listen(2), of which the kernel tells nobody.
/// Only in that short while the socket is tried again and again, with pauses from the first to the second.
const BETWEEN_BIND_AND_LISTEN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// Returns once somebody accepts connections at `socket`. `watch` was armed before the daemon was started; `obstacle` is what
/// the last attempt failed on, for the message when this takes too long.
pub(super) async fn accepts(socket: &Path, watch: &mut PathWatch, obstacle: &mut Option<io::Error>) {
    let (first, longest) = BETWEEN_BIND_AND_LISTEN;
    let mut pause = first;
    loop {
        let Err(error) = UnixStream::connect(socket).await else { return };
        // EAGAIN: it listens, and its queue is full.
        let soon = matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock);
        *obstacle = Some(error);
        if soon {
            // Late is early enough: the timeout is the point.
            let _ = tokio::time::timeout(pause, watch.changed()).await;
            pause = (pause * 2).min(longest);
        } else {
            watch.changed().await;
            pause = first;
        }
    }
}
