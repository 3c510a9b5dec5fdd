//! Looks at files on threads that may wait: the storage behind a claim can stop to answer, and the launcher must not.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::cmd::Failure;

/// How long a look may take; virt-handler waits 20 s for a sync (contract/cmd-server.md 1).
const PATIENCE: Duration = Duration::from_secs(10);

/// A look that the storage does not answer keeps its thread, whoever still waits for it. So many may be kept: the other
/// threads are for libvirt's calls, without which no VM could be shut down.
static PLACES: Semaphore = Semaphore::const_new(4);

/// Runs `look` on a thread of its own. `what` names it in errors, such as "looking at the VM's volumes".
pub(super) async fn look<T: Send + 'static>(
    what: &'static str,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let late =
        |_| Failure::text(format!("{what} took longer than {} s: the storage does not answer", PATIENCE.as_secs()));
    let place = timeout(PATIENCE, PLACES.acquire()).await.map_err(late)?;
    let looked = tokio::task::spawn_blocking(move || {
        let found = look();
        drop(place);
        found
    });
    let found = timeout(PATIENCE, looked).await.map_err(late)?;
    found.map_err(|error| Failure::text(format!("{what} was cut short: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn storage_that_does_not_answer_costs_only_who_asks_it() {
        let (answer, silence) = std::sync::mpsc::channel::<()>();
        let silence = std::sync::Arc::new(std::sync::Mutex::new(silence));
        for _ in 0..6 {
            let silence = silence.clone();
            let stuck = look("looking", move || silence.lock().map(|silence| silence.recv().is_ok()).is_ok());
            // Time stands still while a blocking task runs: it is moved on by hand.
            let stuck = tokio::spawn(stuck);
            while !stuck.is_finished() {
                tokio::time::advance(PATIENCE).await;
                tokio::task::yield_now().await;
            }
            let why = stuck.await.unwrap().unwrap_err();
            assert_eq!(why.message(), "looking took longer than 10 s: the storage does not answer");
        }
        assert_eq!(PLACES.available_permits(), 0, "two of the six did not even get a thread");
        drop(answer);
        assert!(look("looking", || 7).await.is_ok_and(|found| found == 7), "it answers again");
    }
}
