//! Whether a migration moves data, and whether it comes nearer to its end.

use std::time::Duration;

use crate::domain::JobSample;

/// What the samples so far say. Nothing of it is saved: the next launcher begins with its first look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Movement {
    /// The last amount that was processed, which only grows.
    processed: Option<u64>,
    /// The least amount that remained.
    least: Option<u64>,
    moved_at: Option<Duration>,
    least_at: Option<Duration>,
    disks_first: bool,
}

impl Movement {
    /// Takes a look at `elapsed`, whether or not it has statistics.
    pub fn observe(&mut self, elapsed: Duration, job: Option<&JobSample>) {
        self.moved_at.get_or_insert(elapsed);
        self.least_at.get_or_insert(elapsed);
        let Some(job) = job else { return };
        if self.disks_first && !job.copies_disks_first() {
            // The memory comes on top of what remained.
            self.least = None;
        }
        self.disks_first = job.copies_disks_first();
        let fell = job.data_remaining.is_some_and(|remaining| self.least.is_none_or(|least| remaining < least));
        if fell {
            (self.least, self.least_at) = (job.data_remaining, Some(elapsed));
        }
        // What remains also falls when the guest frees memory, and rises and falls with each iteration.
        let moved = match (job.data_processed, self.processed) {
            (Some(now), Some(before)) => now > before,
            (Some(_), None) => true,
            (None, _) => fell,
        };
        if moved {
            self.moved_at = Some(elapsed);
        }
        self.processed = job.data_processed.or(self.processed);
    }

    /// The job has just begun: what was waited for it does not count.
    pub fn begin(&mut self, elapsed: Duration) {
        (self.moved_at, self.least_at) = (Some(elapsed), Some(elapsed));
    }

    /// Whether disks are copied and memory has not been begun yet, as far as is known.
    pub fn copies_disks_first(&self) -> bool {
        self.disks_first
    }

    /// Whole seconds without any data moved.
    pub fn still_for(&self, elapsed: Duration) -> u64 {
        elapsed.saturating_sub(self.moved_at.unwrap_or(elapsed)).as_secs()
    }

    /// Whole seconds since the least amount remained.
    pub fn no_nearer_for(&self, elapsed: Duration) -> u64 {
        elapsed.saturating_sub(self.least_at.unwrap_or(elapsed)).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(look: usize) -> Duration {
        Duration::from_secs(look as u64)
    }

    fn after(samples: &[(Option<u64>, Option<u64>)]) -> (u64, u64) {
        let mut movement = Movement::default();
        for (look, (data_processed, data_remaining)) in samples.iter().enumerate() {
            let job =
                JobSample { data_processed: *data_processed, data_remaining: *data_remaining, ..JobSample::default() };
            movement.observe(seconds(look), Some(&job));
        }
        let end = seconds(samples.len());
        (movement.still_for(end), movement.no_nearer_for(end))
    }

    #[test]
    fn data_moves_while_what_was_processed_grows() {
        let (one, two, three) = (Some(1), Some(2), Some(3));
        for (samples, still, no_nearer) in [
            (vec![(one, three), (two, two), (three, one)], 1, 1),
            // Iterations: what remains goes up and down.
            (vec![(one, two), (two, three), (three, two)], 1, 3),
            // A link that is dead, while the guest writes and frees memory.
            (vec![(one, two), (one, three), (one, two), (one, three)], 4, 4),
            (vec![(one, three), (one, two), (one, one)], 3, 1),
            // Without the amount that was processed.
            (vec![(None, two), (None, three), (None, two), (None, one)], 1, 1),
            (vec![(None, two), (None, three), (None, two), (None, three)], 4, 4),
            // A counter that begins again.
            (vec![(three, two), (one, two), (two, two)], 1, 3),
            (vec![(None, None), (None, None)], 2, 2),
        ] {
            assert_eq!(after(&samples), (still, no_nearer), "{samples:?}");
        }
    }

    #[test]
    fn memory_is_measured_anew_after_the_disks() {
        let disks = JobSample { disk_total: Some(9), data_remaining: Some(1), ..JobSample::default() };
        let memory = JobSample { memory_total: Some(9), data_remaining: Some(8), ..disks };
        let mut movement = Movement::default();
        movement.observe(seconds(0), Some(&disks));
        assert!(movement.copies_disks_first());
        movement.observe(seconds(5), Some(&memory));
        assert!(!movement.copies_disks_first());
        assert_eq!(movement.no_nearer_for(seconds(6)), 1);
        movement.observe(seconds(7), None);
        assert_eq!(movement.still_for(seconds(7)), 2);
    }
}
