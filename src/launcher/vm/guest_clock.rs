//! Sets the guest's clock after a pause (contract/cmd-server.md 4.4), in the background.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::AbortHandle;

use crate::libvirt::{Connection, code};

/// How often, and for how long, the guest agent is asked before it is left alone.
const ATTEMPTS: u32 = 60;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// The guest's clock, which stands still in each pause. Clones share the attempts to set it.
#[derive(Debug, Clone, Default)]
pub struct GuestClock(Arc<Mutex<Option<AbortHandle>>>);

impl GuestClock {
    /// Starts the attempts after a pause, in place of those that are still made for an earlier one.
    pub fn synchronise(&self, connection: Connection, domain: String) {
        let attempts = tokio::spawn(set(connection.in_background(), domain));
        self.replace(Some(attempts.abort_handle()));
    }

    /// A guest that is paused cannot be asked.
    pub fn stop(&self) {
        self.replace(None);
    }

    fn replace(&self, attempts: Option<AbortHandle>) {
        // The place is whole at every step, so a panic elsewhere cannot have torn it.
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = std::mem::replace(&mut *current, attempts) {
            former.abort();
        }
    }
}

async fn set(connection: Connection, domain: String) {
    for _ in 0..ATTEMPTS {
        tokio::time::sleep(PAUSE).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanoseconds = i32::try_from(now.subsec_nanos()).unwrap_or_default();
        match connection.set_time(&domain, now.as_secs().cast_signed(), nanoseconds).await {
            Ok(()) => return tracing::info!("guest clock set after the pause"),
            Err(error) => match error.code() {
                Some(code::OPERATION_UNSUPPORTED | code::ARGUMENT_UNSUPPORTED | code::NO_DOMAIN) | None => return,
                Some(_) => tracing::debug!("guest clock not set yet: {error}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_is_one_series_of_attempts_at_a_time_and_none_in_a_pause() {
        let clock = GuestClock::default();
        let (events, _) = tokio::sync::mpsc::unbounded_channel();
        let connection = Connection::new("test:///default".to_owned(), crate::libvirt::Deadlines::default(), events);
        let current = || clock.0.lock().unwrap().clone();
        clock.synchronise(connection.clone(), "vm".to_owned());
        let first = current().unwrap();
        clock.clone().synchronise(connection, "vm".to_owned());
        let second = current().unwrap();
        clock.stop();
        while !(first.is_finished() && second.is_finished()) {
            tokio::task::yield_now().await;
        }
        assert!(current().is_none());
    }
}
