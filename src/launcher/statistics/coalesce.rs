//! One piece of work for all who ask at the same time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Work under way, or its result and when it came.
type Flight<T> = watch::Receiver<Option<(T, Instant)>>;

/// A caller that comes while the work is under way shares its result, and so does one while the result is younger than
/// `keep`. The work goes on when its callers have gone.
#[derive(Debug)]
pub struct Coalesced<T> {
    flight: Mutex<Option<Flight<T>>>,
    keep: Duration,
}

impl<T: Clone + Send + Sync + 'static> Coalesced<T> {
    /// Results count for `keep`; zero means only for those who asked before.
    pub fn new(keep: Duration) -> Self {
        Coalesced { flight: Mutex::new(None), keep }
    }

    /// The result of the work under way, or of new work. `None`: the work panicked.
    ///
    /// `counts` says of a finished result whether it may be kept; failures usually may not.
    pub async fn get<F>(self: &Arc<Self>, counts: fn(&T) -> bool, work: impl FnOnce() -> F) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut flight = self.join(counts).unwrap_or_else(|| self.begin(work()));
        let landed = flight.wait_for(Option::is_some).await.ok()?;
        landed.as_ref().map(|(value, _)| value.clone())
    }

    fn join(&self, counts: fn(&T) -> bool) -> Option<Flight<T>> {
        let flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let usable = match &*flight.borrow() {
            // A closed channel without a value is work that panicked.
            None => flight.has_changed().is_ok(),
            Some((value, landed)) => counts(value) && landed.elapsed() < self.keep,
        };
        usable.then_some(flight)
    }

    fn begin(&self, work: impl Future<Output = T> + Send + 'static) -> Flight<T> {
        let (sender, flight) = watch::channel(None);
        *self.flight.lock().unwrap_or_else(PoisonError::into_inner) = Some(flight.clone());
        tokio::spawn(async move {
            let value = work.await;
            sender.send_replace(Some((value, Instant::now())));
        });
        flight
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    struct Work {
        begun: AtomicUsize,
        may_end: Semaphore,
    }

    impl Work {
        fn new() -> Arc<Self> {
            Arc::new(Work { begun: AtomicUsize::new(0), may_end: Semaphore::new(0) })
        }

        async fn run(self: Arc<Self>) -> usize {
            let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
            self.may_end.acquire().await.unwrap().forget();
            number
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hundred_callers_share_one_piece_of_work() {
        let (shared, work) = (Arc::new(Coalesced::new(Duration::ZERO)), Work::new());
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (shared, work) = (Arc::clone(&shared), Arc::clone(&work));
            callers.spawn(async move { shared.get(|_| true, || work.run()).await });
        }
        while work.begun.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        work.may_end.add_permits(2);
        while let Some(answer) = callers.join_next().await {
            assert_eq!(answer.unwrap(), Some(1));
        }
        assert_eq!(shared.get(|_| true, || Arc::clone(&work).run()).await, Some(2), "nothing is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn result_is_kept_as_long_as_told_and_only_if_it_counts() {
        let (shared, work) = (Arc::new(Coalesced::new(Duration::from_secs(3))), Work::new());
        work.may_end.add_permits(9);
        assert_eq!(shared.get(|_| true, || Arc::clone(&work).run()).await, Some(1));
        assert_eq!(shared.get(|_| true, || Arc::clone(&work).run()).await, Some(1));
        assert_eq!(shared.get(|_| false, || Arc::clone(&work).run()).await, Some(2));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(shared.get(|_| true, || Arc::clone(&work).run()).await, Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn work_outlives_its_caller_and_a_panic_is_not_for_ever() {
        let (shared, work) = (Arc::new(Coalesced::new(Duration::from_secs(3))), Work::new());
        let first = tokio::time::timeout(Duration::from_secs(1), shared.get(|_| true, || Arc::clone(&work).run()));
        assert!(first.await.is_err());
        work.may_end.add_permits(1);
        assert_eq!(shared.get(|_| true, || Arc::clone(&work).run()).await, Some(1));

        let broken = Arc::new(Coalesced::new(Duration::from_secs(3)));
        assert_eq!(broken.get(|_| true, || async { panic!("broken") }).await, None);
        assert_eq!(broken.get(|_| true, || async { 7 }).await, Some(7));
    }
}
