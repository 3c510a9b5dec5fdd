//! The queue of exclusive operations: one runs at a time, in order of arrival, and none waits longer than a limit.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The operation that runs and those that wait. `R` is a request.
#[derive(Debug)]
pub struct ExclusiveQueue<R> {
    /// How long a request may wait.
    limit: Duration,
    /// The operation that runs, and since when.
    holder: Option<(&'static str, Instant)>,
    waiting: VecDeque<Waiting<R>>,
}

#[derive(Debug)]
struct Waiting<R> {
    rpc: &'static str,
    since: Instant,
    request: R,
}

impl<R> ExclusiveQueue<R> {
    /// An empty queue; a request waits for `limit` at most.
    pub fn new(limit: Duration) -> Self {
        ExclusiveQueue { limit, holder: None, waiting: VecDeque::new() }
    }

    /// Returns the request if it may run now; keeps it otherwise.
    pub fn enter(&mut self, rpc: &'static str, request: R) -> Option<R> {
        let now = Instant::now();
        if self.holder.is_some() {
            self.waiting.push_back(Waiting { rpc, since: now, request });
            return None;
        }
        self.holder = Some((rpc, now));
        Some(request)
    }

    /// The operation has ended: returns the request that may run now.
    pub fn start_next(&mut self) -> Option<R> {
        let next = self.waiting.pop_front();
        self.holder = next.as_ref().map(|next| (next.rpc, Instant::now()));
        next.map(|next| next.request)
    }

    /// Requests that wait, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &R> {
        self.waiting.iter().map(|waiting| &waiting.request)
    }

    /// Waits until a request has waited too long, and takes it out, with the reason for its caller; for ever if none waits.
    pub async fn expired(&mut self) -> (R, String) {
        match self.waiting.front() {
            Some(first) => tokio::time::sleep_until(first.since + self.limit).await,
            None => std::future::pending().await,
        }
        match self.waiting.pop_front() {
            Some(Waiting { rpc, request, .. }) => (request, self.why(rpc)),
            None => std::future::pending().await,
        }
    }

    fn why(&self, rpc: &'static str) -> String {
        let limit = self.limit.as_secs_f32();
        match self.holder {
            Some((holder, since)) => format!(
                "{rpc} did not get its turn within {limit:.1} s: {holder} is under way for {:.1} s",
                since.elapsed().as_secs_f32()
            ),
            None => format!("{rpc} did not get its turn within {limit:.1} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(18);

    #[tokio::test(start_paused = true)]
    async fn requests_run_in_order_of_arrival() {
        let mut queue = ExclusiveQueue::new(LIMIT);
        assert_eq!(queue.enter("a", 1), Some(1));
        assert_eq!(queue.enter("b", 2), None);
        assert_eq!(queue.enter("c", 3), None);
        assert_eq!(queue.waiting().collect::<Vec<_>>(), [&2, &3]);
        assert_eq!(queue.start_next(), Some(2));
        assert_eq!(queue.start_next(), Some(3));
        assert_eq!(queue.start_next(), None);
        assert_eq!(queue.enter("d", 4), Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_waits_too_long_is_refused_with_the_operation_ahead() {
        let mut queue = ExclusiveQueue::new(LIMIT);
        queue.enter("SyncVirtualMachine", 1);
        tokio::time::sleep(Duration::from_secs(5)).await;
        queue.enter("PauseVirtualMachine", 2);
        queue.enter("UnpauseVirtualMachine", 3);
        // Somebody else's news may cut the wait short.
        assert!(tokio::time::timeout(LIMIT / 2, queue.expired()).await.is_err());
        let (late, why) = queue.expired().await;
        assert_eq!(late, 2);
        assert_eq!(
            why,
            "PauseVirtualMachine did not get its turn within 18.0 s: SyncVirtualMachine is under way for 23.0 s"
        );
        assert_eq!(queue.expired().await.0, 3);
        assert!(tokio::time::timeout(LIMIT * 2, queue.expired()).await.is_err(), "nobody waits");
        assert_eq!(queue.start_next(), None);
    }
}
