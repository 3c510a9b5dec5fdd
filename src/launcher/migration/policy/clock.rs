//! The clock that time-outs go by (contract/migration.md 7.1).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Seconds by which the clock is held back at least, so that its state seldom changes.
const HOLD_STEP: u64 = 30;

/// Time since the job's first statistics; before them since the monitor's start, so that a job that never begins is over some
/// time too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Clock {
    /// Seconds that the migration may take; absent without a limit.
    pub acceptable: Option<u64>,
    /// Since the monitor's start.
    first_job: Option<Duration>,
    /// Seconds that do not count.
    held: u64,
}

impl Clock {
    pub fn new(acceptable: Option<u64>) -> Self {
        Clock { acceptable, ..Clock::default() }
    }

    /// Whether the job has begun.
    pub fn has_begun(&self) -> bool {
        self.first_job.is_some()
    }

    /// The job is there; true the first time.
    pub fn begin(&mut self, elapsed: Duration) -> bool {
        let first = self.first_job.is_none();
        self.first_job.get_or_insert(elapsed);
        first
    }

    fn seconds(&self, elapsed: Duration) -> u64 {
        elapsed.saturating_sub(self.first_job.unwrap_or_default()).as_secs()
    }

    /// Whole seconds that count.
    pub fn now(&self, elapsed: Duration) -> u64 {
        self.seconds(elapsed).saturating_sub(self.held)
    }

    /// Whether the migration has had its time.
    pub fn is_over(&self, elapsed: Duration) -> bool {
        self.acceptable.is_some_and(|acceptable| self.now(elapsed) > acceptable)
    }

    /// Holds the clock back so that at least `rest` seconds of the acceptable time are left.
    pub fn leave(&mut self, rest: u64, elapsed: Duration) {
        let Some(acceptable) = self.acceptable else { return };
        let needed = self.seconds(elapsed).saturating_add(rest).saturating_sub(acceptable);
        if needed > self.held {
            self.held = needed.div_ceil(HOLD_STEP).saturating_mul(HOLD_STEP);
        }
    }

    /// A paused guest has the acceptable time twice.
    pub fn double(&mut self) {
        self.acceptable = self.acceptable.map(|seconds| seconds.saturating_mul(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn clock_starts_again_with_the_job() {
        let mut clock = Clock::new(Some(10));
        assert!(!clock.is_over(at(10)) && clock.is_over(at(11)));
        assert!(clock.begin(at(11)) && !clock.begin(at(12)));
        assert_eq!(clock.now(at(20)), 9);
        assert!(!clock.is_over(Duration::from_millis(21_999)) && clock.is_over(at(22)));
        assert!(!Clock::new(None).is_over(Duration::MAX));
    }

    #[test]
    fn clock_is_held_back_in_coarse_steps() {
        let mut clock = Clock::new(Some(100));
        clock.begin(at(0));
        clock.leave(40, at(60));
        assert_eq!(clock.now(at(60)), 60);
        clock.leave(40, at(61));
        assert_eq!(clock.now(at(61)), 31);
        let before = clock.clone();
        clock.leave(40, at(90));
        assert_eq!(clock, before);
        clock.leave(40, at(91));
        assert_eq!(clock.now(at(91)), 31);
        clock.leave(u64::MAX, Duration::MAX);
        assert!(!clock.is_over(Duration::MAX));
        clock.double();
        assert_eq!(clock.acceptable, Some(200));
    }
}
