//! Looks at files on threads that may wait: the storage behind a claim can stop to answer, and whoever asks must not.

use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

/// A look that the storage does not answer keeps its thread, whoever still waits for it. So many may be kept.
static PLACES: Semaphore = Semaphore::const_new(4);

/// Runs `look` on a thread of its own (those of the runtime are few, and libvirt's calls need them) and waits for it no longer
/// than `deadline`. The error says why there is no result.
pub async fn with_deadline<T: Send + 'static>(
    deadline: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    in_one_of(&PLACES, deadline, look).await
}

async fn in_one_of<T: Send + 'static>(
    places: &'static Semaphore,
    deadline: Duration,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let end = Instant::now() + deadline;
    let late = |_| format!("the storage does not answer within {deadline:?}");
    let place = timeout_at(end, places.acquire()).await.map_err(late)?;
    let (tell, told) = oneshot::channel();
    let work = move || {
        // Whoever asked may be told already that it took too long.
        let _ = tell.send(look());
        drop(place);
    };
    std::thread::Builder::new().name("look".to_owned()).spawn(work).map_err(|error| error.to_string())?;
    let found = timeout_at(end, told).await.map_err(late)?;
    found.map_err(|_| "the look ended without a result".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn storage_that_does_not_answer_costs_only_who_asks_it() {
        static OWN: Semaphore = Semaphore::const_new(4);
        let (answer, silence) = mpsc::channel::<()>();
        let silence = Arc::new(Mutex::new(silence));
        for _ in 0..6 {
            let silence = Arc::clone(&silence);
            let stuck = in_one_of(&OWN, SHORT, move || silence.lock().map(|silence| silence.recv().is_ok()).is_ok());
            assert_eq!(stuck.await, Err("the storage does not answer within 20ms".to_owned()));
        }
        assert_eq!(OWN.available_permits(), 0, "two of the six did not even get a thread");
        drop(answer);
        assert_eq!(in_one_of(&OWN, Duration::from_secs(20), || 7).await, Ok(7), "it answers again");
    }
}
