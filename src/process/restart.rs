//! When what ended is begun again, a daemon, a launcher or a connection: data and a pure function.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// How restarts are paced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RestartPolicy {
    /// The pause after the first failure.
    pub first: Duration,
    /// What each further failure in a row multiplies the pause by.
    pub factor: f64,
    /// The longest pause, before jitter.
    pub longest: Duration,
    /// The part of the pause that chance may add, from 0 to 1, so that many VMs of a node do not restart in step.
    pub jitter: f64,
    /// After this many failures in a row there is no further attempt; none: attempts never end. For a daemon only starts count
    /// that never came as far as a socket: one that serves for a while, however often it dies, is worth another start.
    pub limit: Option<u32>,
    /// A daemon that was ready for this long has shown its health: its failures so far are forgotten.
    pub healthy_after: Duration,
}

/// What to do about what ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Restart {
    /// Start it after this pause.
    After(Duration),
    /// Leave it.
    GiveUp,
}

impl RestartPolicy {
    /// How many failures in a row there are once a daemon has failed after `failures` of them, having been ready for
    /// `ready_for` before.
    pub fn count(&self, failures: u32, ready_for: Duration) -> u32 {
        if ready_for >= self.healthy_after { 1 } else { failures.saturating_add(1) }
    }

    /// What follows `failures` failures in a row, at least one. `chance` lies between 0 and 1.
    pub fn next(&self, failures: u32, chance: f64) -> Restart {
        if self.limit.is_some_and(|limit| failures >= limit) {
            return Restart::GiveUp;
        }
        let longest = self.longest.as_secs_f64();
        let growth = self.factor.max(1.0).powf(f64::from(failures.saturating_sub(1)));
        // Infinity and beyond end here too.
        let pause = (self.first.as_secs_f64() * growth).min(longest);
        let pause = pause * (1.0 + self.jitter.clamp(0.0, 1.0) * chance.clamp(0.0, 1.0));
        Restart::After(Duration::try_from_secs_f64(pause).unwrap_or(self.longest))
    }
}

/// A number from 0 to 1, good enough to spread restarts.
pub fn chance() -> f64 {
    // The seed of each hasher is random; no generator is needed for so little.
    let random = RandomState::new().hash_one(0_u8) >> 32;
    random as f64 / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        first: Duration::from_millis(100),
        factor: 2.0,
        longest: Duration::from_secs(1),
        jitter: 0.0,
        limit: Some(7),
        healthy_after: Duration::from_secs(30),
    };

    #[test]
    fn pauses_grow_to_the_longest_and_end_at_the_limit() {
        let pauses: Vec<Restart> = (1..=7).map(|failures| POLICY.next(failures, 0.5)).collect();
        let after = |millis| Restart::After(Duration::from_millis(millis));
        assert_eq!(pauses, [after(100), after(200), after(400), after(800), after(1000), after(1000), Restart::GiveUp]);
        let jittery = RestartPolicy { jitter: 0.5, ..POLICY };
        assert_eq!(jittery.next(1, 1.0), after(150));
        assert_eq!(jittery.next(1, 0.0), after(100));
    }

    #[test]
    fn health_forgets_failures() {
        assert_eq!(POLICY.count(5, Duration::from_secs(29)), 6);
        assert_eq!(POLICY.count(5, Duration::from_secs(30)), 1);
        assert_eq!(POLICY.count(u32::MAX, Duration::ZERO), u32::MAX);
    }

    proptest! {
        #[test]
        fn a_pause_is_never_shorter_than_the_first_nor_longer_than_the_longest_with_jitter(
            failures in 1_u32.., chance in -1.0..2.0_f64, jitter in 0.0..1.0_f64, factor in 0.0..1e9_f64,
        ) {
            let policy = RestartPolicy { jitter, factor, limit: None, ..POLICY };
            let Restart::After(pause) = policy.next(failures, chance) else { panic!("gave up without a limit") };
            prop_assert!(pause >= policy.first);
            prop_assert!(pause <= policy.longest.mul_f64(1.0 + jitter) + Duration::from_nanos(1));
        }
    }
}
