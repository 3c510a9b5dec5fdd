//! How much of the log a guest may fill.

use std::time::{Duration, Instant};

/// How many lines are let through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinesPerSecond {
    /// At once, after a quiet time.
    pub burst: u32,
    /// In the long run.
    pub sustained: u32,
}

impl Default for LinesPerSecond {
    /// A verbose firmware boot and a QEMU command line pass whole; a flood costs the node some 200 lines a second.
    fn default() -> Self {
        LinesPerSecond { burst: 1000, sustained: 200 }
    }
}

/// Between two notes about suppressed lines.
const NOTE_AFTER: Duration = Duration::from_secs(1);

/// A token bucket that counts what it holds back.
#[derive(Debug)]
pub struct TokenBucket {
    rate: LinesPerSecond,
    tokens: f64,
    filled: Instant,
    suppressed: u64,
    noted: Instant,
}

impl TokenBucket {
    /// A full one.
    pub fn new(rate: LinesPerSecond, now: Instant) -> Self {
        TokenBucket { rate, tokens: f64::from(rate.burst), filled: now, suppressed: 0, noted: now }
    }

    /// Whether a line may pass.
    pub fn admit(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + since * f64::from(self.rate.sustained)).min(f64::from(self.rate.burst));
        let passes = self.tokens >= 1.0;
        if passes {
            self.tokens -= 1.0;
        } else {
            if self.suppressed == 0 {
                self.noted = now;
            }
            self.suppressed = self.suppressed.saturating_add(1);
        }
        passes
    }

    /// When a note about suppressed lines is due.
    pub fn note_due(&self) -> Option<Instant> {
        (self.suppressed > 0).then(|| self.noted + NOTE_AFTER)
    }

    /// How many lines were suppressed since the last note, if one is due.
    pub fn note(&mut self, now: Instant) -> Option<u64> {
        self.note_due().is_some_and(|due| due <= now).then(|| self.take()).flatten()
    }

    /// How many lines were suppressed since the last note, due or not.
    pub fn take(&mut self) -> Option<u64> {
        match std::mem::take(&mut self.suppressed) {
            0 => None,
            some => Some(some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_passes_then_the_sustained_rate_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(LinesPerSecond { burst: 10, sustained: 5 }, start);
        assert_eq!((0..100).filter(|_| bucket.admit(start)).count(), 10);
        assert_eq!(bucket.note(start + Duration::from_millis(999)), None);
        let later = start + Duration::from_secs(1);
        assert_eq!(bucket.note_due(), Some(later));
        assert_eq!(bucket.note(later), Some(90));
        assert_eq!(bucket.note_due(), None);
        assert_eq!((0..100).filter(|_| bucket.admit(later)).count(), 5);
        assert_eq!(bucket.take(), Some(95));
        // A long quiet time does not save up more than a burst.
        let much_later = later + Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| bucket.admit(much_later)).count(), 10);
    }

    #[test]
    fn clock_that_stands_still_or_steps_back_admits_nothing_extra() {
        let start = Instant::now() + Duration::from_secs(60);
        let mut bucket = TokenBucket::new(LinesPerSecond { burst: 1, sustained: 1000 }, start);
        assert!(bucket.admit(start));
        assert!(!bucket.admit(start - Duration::from_secs(30)));
    }
}
