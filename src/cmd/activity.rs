//! Who uses the command socket: its connections and when they called last, for a launcher that wants to leave when nobody
//! needs it any more.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::transport::server::Connected;

/// What is known of the socket's users. Clones share it.
#[derive(Debug, Clone)]
pub struct Activity {
    usage: watch::Sender<Usage>,
}

impl Default for Activity {
    fn default() -> Self {
        Activity { usage: watch::Sender::new(Usage::default()) }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    /// Connections that are open and have called.
    open: usize,
    /// The last call of anybody.
    last_call: Option<Instant>,
    /// The last deletion that was ordered on a connection that has been closed since.
    last_deletion_of_closed: Option<Instant>,
}

impl Activity {
    /// Waits until whoever ordered a deletion at or after `since` has closed its connection and no other is open, or nobody
    /// has called for `idle`, but not longer than `limit`.
    ///
    /// virt-handler deletes the domain once more at the end of its clean-up. Others, such as probes, come and go meanwhile.
    /// A connection whose calls all came before does not count as closed: virt-handler closes its connection when it has
    /// deleted the domain, and opens another one for what it does next.
    pub async fn ceases(&self, since: Instant, idle: Duration, limit: Duration) {
        let mut usage = self.usage.subscribe();
        loop {
            let Usage { open, last_call, last_deletion_of_closed } = *usage.borrow_and_update();
            if open == 0 && last_deletion_of_closed.is_some_and(|call| call >= since) {
                return;
            }
            let quiet = last_call.map_or(since, |call| call.max(since)) + idle;
            tokio::select! {
                () = sleep_until(quiet.min(since + limit)) => return,
                // Its sender is this one.
                _ = usage.changed() => {}
            }
        }
    }

    /// A connection that is counted while it lives.
    pub(super) fn connection(&self, stream: UnixStream) -> Counted {
        Counted { stream, calls: Calls(Arc::new(Connection { activity: self.clone(), calls: Mutex::default() })) }
    }
}

#[derive(Debug)]
struct Connection {
    activity: Activity,
    calls: Mutex<Called>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Called {
    ever: bool,
    last_deletion: Option<Instant>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let calls = *self.calls.get_mut().unwrap_or_else(PoisonError::into_inner);
        if calls.ever {
            self.activity.usage.send_modify(|usage| {
                usage.open = usage.open.saturating_sub(1);
                usage.last_deletion_of_closed = usage.last_deletion_of_closed.max(calls.last_deletion);
            });
        }
    }
}

/// Notes the calls of one connection; lives no longer than the connection and its calls.
#[derive(Debug, Clone)]
pub(super) struct Calls(Arc<Connection>);

impl Calls {
    /// There is a call now, which may order the domain's deletion.
    pub(super) fn note(&self, deletes: bool) {
        let now = Some(Instant::now());
        let first = {
            let mut calls = self.0.calls.lock().unwrap_or_else(PoisonError::into_inner);
            if deletes {
                calls.last_deletion = now;
            }
            !std::mem::replace(&mut calls.ever, true)
        };
        self.0.activity.usage.send_modify(|usage| {
            usage.open += usize::from(first);
            usage.last_call = now;
        });
    }
}

/// A connection to the command socket.
pub(super) struct Counted {
    stream: UnixStream,
    calls: Calls,
}

impl Connected for Counted {
    type ConnectInfo = Calls;

    fn connect_info(&self) -> Calls {
        self.calls.clone()
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(2);
    const LIMIT: Duration = Duration::from_secs(10);

    fn connection(activity: &Activity) -> Counted {
        activity.connection(UnixStream::pair().unwrap().0)
    }

    async fn after(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    async fn ceased(activity: &Activity, since: Instant) -> Duration {
        activity.ceases(since, IDLE, LIMIT).await;
        since.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn socket_that_nobody_uses_is_waited_for_a_moment() {
        assert_eq!(ceased(&Activity::default(), Instant::now()).await, IDLE);
        let activity = Activity::default();
        // It asks who listens and says nothing.
        drop(connection(&activity));
        assert_eq!(ceased(&activity, Instant::now()).await, IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_deleted_and_closed_is_not_waited_for() {
        let activity = Activity::default();
        let (since, client) = (Instant::now(), connection(&activity));
        let works = async {
            after(1).await;
            client.connect_info().note(true);
            after(1).await;
            drop(client);
        };
        let (took, ()) = tokio::join!(ceased(&activity, since), works);
        assert_eq!(took, Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn client_that_only_asked_does_not_end_the_wait() {
        let activity = Activity::default();
        let (since, probe) = (Instant::now(), connection(&activity));
        let asks = async {
            after(1).await;
            probe.connect_info().note(false);
            drop(probe);
        };
        let (took, ()) = tokio::join!(ceased(&activity, since), asks);
        assert_eq!(took, Duration::from_secs(3), "idle for 2 s from the probe on");
    }

    #[tokio::test(start_paused = true)]
    async fn connection_that_is_closed_without_another_call_says_nothing() {
        let activity = Activity::default();
        let before = connection(&activity);
        before.connect_info().note(true);
        after(1).await;
        let since = Instant::now();
        drop(before);
        let next = async {
            tokio::time::sleep(Duration::from_millis(1900)).await;
            let client = connection(&activity);
            client.connect_info().note(false);
            client
        };
        let (took, _client) = tokio::join!(ceased(&activity, since), next);
        assert_eq!(took, Duration::from_millis(3900), "from the last call on");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_calls_for_ever_cannot_hold_it() {
        let activity = Activity::default();
        let client = connection(&activity);
        let calls = async {
            loop {
                client.connect_info().note(false);
                after(1).await;
            }
        };
        let since = Instant::now();
        tokio::select! {
            () = activity.ceases(since, IDLE, LIMIT) => {}
            () = calls => {}
        }
        assert_eq!(since.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_two_clients_is_enough_to_stay() {
        let activity = Activity::default();
        let (one, other) = (connection(&activity), connection(&activity));
        let since = Instant::now();
        one.connect_info().note(true);
        other.connect_info().note(false);
        drop(one);
        assert_eq!(ceased(&activity, since).await, IDLE);
        drop(other);
        assert_eq!(ceased(&activity, since).await, IDLE, "at once");
    }
}
