//! Pauses that double.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A pause is longer than its nominal length by up to a tenth, by chance: many launchers lose one server at once.
const JITTER: f64 = 0.1;

/// The pauses between attempts.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// Begins with `first`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Backoff { next: first.min(longest), longest }
    }

    /// How long to wait now.
    pub fn next_pause(&mut self) -> Duration {
        let nominal = self.next;
        self.next = nominal.saturating_mul(2).min(self.longest);
        // The seed of each hasher is random; no generator is needed for so little.
        let chance = RandomState::new().hash_one(0u8) as f64 / u64::MAX as f64;
        nominal.mul_f64(1.0 + JITTER * chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, second * 300);
        for nominal in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let pause = backoff.next_pause();
            let nominal = second * nominal;
            assert!(pause >= nominal && pause <= nominal.mul_f64(1.0 + JITTER), "{pause:?} for {nominal:?}");
        }
    }
}
