//! Downtime tuning (contract/migration.md 7.3): the longest downtime begins low and is raised while memory goes round.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::step::{Purpose, Step};
use crate::domain::JobSample;
use crate::launcher::migration::options::{DowntimeTuning, QEMU_DEFAULT_DOWNTIME_MS};

const DEFAULT_INITIAL_MS: u64 = 150;
const DEFAULT_STEPS: u64 = 7;
const DEFAULT_START_AFTER_ITERATION: u64 = 3;
const DEFAULT_COOLDOWN_SECONDS: u64 = 10;

/// Tuning of one migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tuning {
    initial_ms: u64,
    steps: u64,
    start_after_iteration: u64,
    cooldown: Duration,
    ceiling_ms: u64,
    pub state: TuningState,
}

/// What was set last; survives the launcher.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TuningState {
    /// Milliseconds, and when; absent until the first one was set.
    set: Option<(u64, Duration)>,
}

impl Tuning {
    /// `ceiling_ms` is the longest downtime that the user accepts.
    pub fn new(asked: &DowntimeTuning, ceiling_ms: u64) -> Self {
        // A negative number is none for the first two, and too small for the others.
        let number = |asked: Option<i64>, default| asked.and_then(|asked| u64::try_from(asked).ok()).unwrap_or(default);
        let at_least_one = |asked: Option<i64>, default| match asked {
            Some(asked) => u64::try_from(asked).unwrap_or_default().max(1),
            None => default,
        };
        Tuning {
            initial_ms: number(asked.initial_ms, DEFAULT_INITIAL_MS).min(ceiling_ms),
            steps: at_least_one(asked.steps, DEFAULT_STEPS),
            start_after_iteration: number(asked.start_after_iteration, DEFAULT_START_AFTER_ITERATION),
            cooldown: Duration::from_secs(at_least_one(asked.cooldown_seconds, DEFAULT_COOLDOWN_SECONDS)),
            ceiling_ms,
            state: TuningState::default(),
        }
    }

    /// The log line before the tuning begins.
    pub fn enabled(&self) -> String {
        format!(
            "downtime tuning enabled: initial={}ms steps={} startAfterIteration={} cooldown={}s ceiling={}ms",
            self.initial_ms,
            self.steps,
            self.start_after_iteration,
            self.cooldown.as_secs(),
            self.ceiling_ms
        )
    }

    /// The next change, if it is time for one.
    pub fn look(&self, elapsed: Duration, job: Option<&JobSample>) -> Option<Step> {
        let (from, to) = match self.state.set {
            None => (QEMU_DEFAULT_DOWNTIME_MS, self.initial_ms),
            Some((current, at)) => {
                let iteration = job?.memory_iteration?;
                if iteration < self.start_after_iteration || elapsed.saturating_sub(at) < self.cooldown {
                    return None;
                }
                let step = ((self.ceiling_ms - self.initial_ms) / self.steps).max(1);
                let next = current.saturating_add(step).min(self.ceiling_ms);
                if next <= current {
                    return None;
                }
                (current, next)
            }
        };
        let reason = format!("downtime tuning, at most {} ms", self.ceiling_ms);
        Some(Step::downtime(to, Purpose::Tune(from, to), reason))
    }

    /// A change has been made; its log line (asserted by KubeVirt's tests).
    pub fn done(&mut self, (from, to): (u64, u64), elapsed: Duration) -> String {
        self.state.set = Some((to, elapsed));
        format!("downtime tuning: max_downtime {from}ms -> {to}ms (ceiling={}ms)", self.ceiling_ms)
    }
}
