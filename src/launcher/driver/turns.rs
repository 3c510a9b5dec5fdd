//! Who may change the VM: one at a time, in order of arrival, and nobody waits without an answer.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// One turn and those who wait for it. `R` is a request.
#[derive(Debug)]
pub struct Turns<R> {
    /// How long one may wait.
    limit: Duration,
    /// The operation that has the turn, and since when.
    holder: Option<(&'static str, Instant)>,
    waiting: VecDeque<Waiting<R>>,
}

#[derive(Debug)]
struct Waiting<R> {
    rpc: &'static str,
    since: Instant,
    request: R,
}

impl<R> Turns<R> {
    /// Nobody has the turn; a request waits for `limit` at most.
    pub fn new(limit: Duration) -> Self {
        Turns { limit, holder: None, waiting: VecDeque::new() }
    }

    /// Gives the request back if it has the turn now; keeps it otherwise.
    pub fn ask(&mut self, rpc: &'static str, request: R) -> Option<R> {
        let now = Instant::now();
        if self.holder.is_some() {
            self.waiting.push_back(Waiting { rpc, since: now, request });
            return None;
        }
        self.holder = Some((rpc, now));
        Some(request)
    }

    /// The turn is over: whose is it now?
    pub fn pass_on(&mut self) -> Option<R> {
        let next = self.waiting.pop_front();
        self.holder = next.as_ref().map(|next| (next.rpc, Instant::now()));
        next.map(|next| next.request)
    }

    /// Those who wait, in order.
    pub fn waiting(&self) -> impl Iterator<Item = &R> {
        self.waiting.iter().map(|waiting| &waiting.request)
    }

    /// Waits until somebody has waited too long, and takes them out, with what to tell them; for ever if nobody waits.
    pub async fn late(&mut self) -> (R, String) {
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
    async fn turns_go_in_order_of_arrival() {
        let mut turns = Turns::new(LIMIT);
        assert_eq!(turns.ask("a", 1), Some(1));
        assert_eq!(turns.ask("b", 2), None);
        assert_eq!(turns.ask("c", 3), None);
        assert_eq!(turns.waiting().collect::<Vec<_>>(), [&2, &3]);
        assert_eq!(turns.pass_on(), Some(2));
        assert_eq!(turns.pass_on(), Some(3));
        assert_eq!(turns.pass_on(), None);
        assert_eq!(turns.ask("d", 4), Some(4));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_for_whom() {
        let mut turns = Turns::new(LIMIT);
        turns.ask("SyncVirtualMachine", 1);
        tokio::time::sleep(Duration::from_secs(5)).await;
        turns.ask("PauseVirtualMachine", 2);
        turns.ask("UnpauseVirtualMachine", 3);
        // Somebody else's news may cut the wait short.
        assert!(tokio::time::timeout(LIMIT / 2, turns.late()).await.is_err());
        let (late, why) = turns.late().await;
        assert_eq!(late, 2);
        assert_eq!(
            why,
            "PauseVirtualMachine did not get its turn within 18.0 s: SyncVirtualMachine is under way for 23.0 s"
        );
        assert_eq!(turns.late().await.0, 3);
        assert!(tokio::time::timeout(LIMIT * 2, turns.late()).await.is_err(), "nobody waits");
        assert_eq!(turns.pass_on(), None);
    }
}
