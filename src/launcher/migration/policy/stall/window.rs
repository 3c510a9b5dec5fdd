//! When a migration stalls, and what it can still reach (contract/migration.md 7.4, rows "stall" and "target value").

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::Settings;

/// What remained when an iteration began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Milliseconds since the job began.
    pub elapsed: u64,
    /// Bytes.
    pub remaining: u64,
}

/// What the iterations so far say.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    /// Strictly falling minima of the last seconds, oldest first.
    minima: VecDeque<Record>,
    /// The least of what was before them.
    best_before: Option<u64>,
    target: Option<Target>,
}

/// The value at which a stalled migration switches over. It is relaxed while it is not reached.
#[derive(Debug, Clone)]
struct Target {
    value: u64,
    /// Milliseconds; each relaxation makes it shorter.
    patience: u64,
    /// On the job's clock.
    deadline: u64,
    /// What remained since the stall.
    seen: BinaryHeap<Reverse<u64>>,
}

/// `value · factor`, without its fraction.
pub(super) fn scaled(value: u64, factor: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
    let scaled = (value as f64 * factor) as u64;
    scaled
}

impl Window {
    /// Takes in an iteration's record. The target value, if the migration stalls.
    pub fn stalled(&mut self, record: Record, settings: &Settings) -> Option<u64> {
        self.keep(record, settings);
        if let Some(target) = &mut self.target {
            target.relax(record, settings);
            return Some(target.value);
        }
        let best = self.best_before?;
        if record.remaining < scaled(best, 1.0 - settings.margin) {
            return None;
        }
        let value = self.minima.iter().map(|minimum| minimum.remaining).fold(best, u64::min);
        let deadline = record.elapsed.saturating_add(settings.window);
        self.target = Some(Target { value, patience: settings.window, deadline, seen: BinaryHeap::new() });
        Some(value)
    }

    fn keep(&mut self, record: Record, settings: &Settings) {
        while let Some(oldest) = self.minima.front()
            && record.elapsed.saturating_sub(oldest.elapsed) >= settings.window
        {
            self.best_before = Some(self.best_before.map_or(oldest.remaining, |best| best.min(oldest.remaining)));
            self.minima.pop_front();
        }
        let above = |limit: Option<u64>| limit.is_some_and(|limit| record.remaining > limit);
        let no_minimum = self.minima.back().is_some_and(|last| record.remaining >= last.remaining);
        if !above(self.best_before) && !no_minimum {
            self.minima.push_back(record);
        }
    }
}

impl Target {
    fn relax(&mut self, record: Record, settings: &Settings) {
        self.seen.push(Reverse(record.remaining));
        if record.elapsed < self.deadline {
            return;
        }
        if let Some(Reverse(least)) = self.seen.pop() {
            self.value = least;
        }
        self.patience = scaled(self.patience, settings.decay);
        self.deadline = record.elapsed.saturating_add(self.patience);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launcher::migration::options::StallDetectorOptions;

    fn window(records: &[(u64, u64)]) -> Vec<Option<u64>> {
        let settings = Settings::new(&StallDetectorOptions::default());
        let mut window = Window::default();
        let record = |(seconds, remaining): &(u64, u64)| Record { elapsed: seconds * 1000, remaining: *remaining };
        records.iter().map(|entry| window.stalled(record(entry), &settings)).collect()
    }

    #[test]
    fn migration_stalls_when_the_window_brought_no_less_than_before() {
        // Margin 4 %, window 40 s.
        for (records, last) in [
            // Nothing is outside the window yet.
            (vec![(0, 1000), (39, 2000)], None),
            // 960 is 4 % below 1000.
            (vec![(0, 1000), (40, 959)], None),
            (vec![(0, 1000), (40, 960)], Some(960)),
            (vec![(0, 1000), (40, 5000)], Some(1000)),
            // The least value inside the window is the target.
            (vec![(0, 1000), (10, 990), (20, 980), (41, 970)], Some(970)),
            (vec![(0, 1000), (10, 990), (20, 980), (41, 1200)], Some(980)),
            // A minimum that is old enough becomes what is compared with.
            (vec![(0, 1000), (20, 500), (59, 490)], None),
            (vec![(0, 1000), (20, 500), (60, 479)], None),
            (vec![(0, 1000), (20, 500), (60, 480)], Some(480)),
            // Only a new minimum is a candidate.
            (vec![(0, 1000), (5, 2000), (50, 1500)], Some(1000)),
        ] {
            assert_eq!(window(&records).pop().unwrap(), last, "{records:?}");
        }
    }

    #[test]
    fn target_is_relaxed_when_patience_runs_out_and_ever_faster() {
        let records = [
            (0, 1000),
            (40, 1100), // stalled: target 1000 until 80
            (60, 1300),
            (79, 1200),
            (80, 1400), // 1200, the least since the stall; patience 20, until 100
            (99, 1500),
            (100, 1600), // 1300; patience 10, until 110
            (109, 1050),
            (110, 1700), // 1050
            (115, 1700), // 1400
        ];
        let targets: Vec<u64> = window(&records).into_iter().flatten().collect();
        assert_eq!(targets, [1000, 1000, 1000, 1200, 1200, 1300, 1300, 1050, 1400]);
    }
}
