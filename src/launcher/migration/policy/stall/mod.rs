//! The strategy with a stall detector (contract/migration.md 7.4, contract/lifecycle.md 10.4): it looks for iterations that bring
//! no more, and switches over at one with little data.

mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::window::{Record, Window, scaled};
use super::base::Base;
use super::step::{Order, Purpose, Step};
use super::{Look, Mode};
use crate::domain::JobSample;
use crate::launcher::migration::options::{QEMU_DEFAULT_DOWNTIME_MS, QEMU_MAX_DOWNTIME_MS, StallDetectorOptions};

/// The options as numbers.
#[derive(Debug, Clone)]
struct Settings {
    /// A share of 1.
    margin: f64,
    /// Milliseconds.
    window: u64,
    decay: f64,
    alpha: f64,
    search_minima: bool,
    possible_factor: f64,
    timeout_factor: f64,
    /// Seconds.
    switchover_timeout: u64,
}

impl Settings {
    fn new(options: &StallDetectorOptions) -> Self {
        Settings {
            margin: options.stall_margin as f64 / 100.0,
            window: options.stall_progress_timeout.saturating_mul(1000),
            decay: options.patience_window_decay_factor.approximate(),
            alpha: options.ewma_alpha.approximate().clamp(0.0, 1.0),
            search_minima: options.search_local_minima,
            possible_factor: options.precopy_possible_factor.approximate(),
            timeout_factor: options.completion_timeout_factor.approximate(),
            switchover_timeout: options.switchover_timeout,
        }
    }
}

/// What was set; survives the launcher.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Switch {
    /// The first downtime is set.
    initial: bool,
    /// The switch-over was brought about.
    made: bool,
    /// By when QEMU has to switch over, in seconds of the clock.
    deadline: Option<u64>,
}

/// State that only this strategy has.
#[derive(Debug, Clone)]
pub(super) struct Stall {
    settings: Settings,
    pub switch: Switch,
    window: Window,
    /// Bytes per second, smoothed.
    bandwidth: Option<f64>,
    /// What remained at the last iteration; of later samples where each of them is exact.
    last: Option<Record>,
}

impl Stall {
    pub fn new(options: &StallDetectorOptions) -> Self {
        Stall {
            settings: Settings::new(options),
            switch: Switch::default(),
            window: Window::default(),
            bandwidth: None,
            last: None,
        }
    }

    /// What is to be done; never anything after the switch to post-copy.
    pub fn look(&mut self, base: &Base, look: &Look) -> Vec<Step> {
        if base.mode == Mode::PostCopy {
            return Vec::new();
        }
        let initial = !self.switch.initial && !self.switch.made && base.mode == Mode::PreCopy;
        let initial = initial.then(|| {
            let downtime = base.rules.ceiling_ms.min(QEMU_DEFAULT_DOWNTIME_MS);
            Step::downtime(downtime, Purpose::Initial, "the migration begins".into())
        });
        let complete = look.job.as_ref().and_then(|job| Some((job, record(job)?)));
        let decision = complete.and_then(|(job, record)| self.sample(base, look, job, record));
        let last = decision.or_else(|| self.completion(base, look));
        initial.into_iter().chain(last).collect()
    }

    fn sample(&mut self, base: &Base, look: &Look, job: &JobSample, record: Record) -> Option<Step> {
        if look.iteration {
            self.last = Some(record);
            if self.bandwidth.is_none() || self.switch.made {
                return None;
            }
            let target = self.window.stalled(record, &self.settings)?;
            return self.decide(base, look.elapsed, record, target);
        }
        if base.mode == Mode::PreCopy {
            // While disks are copied there is no speed of memory.
            if let Some(speed) = job.memory_bps.filter(|speed| *speed > 0) {
                let (speed, alpha) = (speed as f64, self.settings.alpha);
                self.bandwidth = Some(self.bandwidth.map_or(speed, |before| alpha * speed + (1.0 - alpha) * before));
            }
        } else {
            self.last = Some(record);
        }
        None
    }

    /// What to do at an iteration of a migration that stalls.
    fn decide(&self, base: &Base, elapsed: Duration, record: Record, target: u64) -> Option<Step> {
        if self.settings.search_minima && record.remaining > scaled(target, 1.0 + self.settings.margin) {
            return None;
        }
        let estimate = self.estimate(record)?;
        if !self.fits(base, elapsed, estimate) {
            return None;
        }
        let rules = &base.rules;
        let reason = |what: &str| base.with_figures(format!("stalled, the rest needs about {estimate} ms{what}"));
        if rules.disruption && rules.post_copy {
            let reason = reason("");
            return Some(Step { order: Order::StartPostCopy, reason, purpose: Purpose::SwitchOver });
        }
        if rules.disruption {
            return Some(Step::downtime(QEMU_MAX_DOWNTIME_MS, Purpose::SwitchOver, reason("")));
        }
        if estimate <= scaled(rules.ceiling_ms, self.settings.possible_factor) {
            return Some(Step::downtime(rules.ceiling_ms, Purpose::SwitchOver, reason("")));
        }
        // Without a limit no abort is wanted.
        base.clock.acceptable?;
        Some(Step::cancel(reason(&format!(", at most {} ms are allowed", rules.ceiling_ms))))
    }

    /// What to do when the time is over.
    fn completion(&self, base: &Base, look: &Look) -> Option<Step> {
        let acceptable = base.clock.acceptable?;
        let limit = match (base.mode, self.switch.deadline) {
            (Mode::PreCopy, Some(deadline)) => deadline,
            (Mode::PreCopy | Mode::PostCopy | Mode::Paused, _) => acceptable,
        };
        if base.clock.now(look.elapsed) <= limit || self.waits_for_memory(base, look.elapsed) {
            return None;
        }
        if self.bandwidth.is_none() {
            let reason = format!("{}; the speed is not known", base.over(look.elapsed));
            return (!base.is_new_here(look.elapsed)).then(|| Step::cancel(reason));
        }
        let estimate = self.last.or_else(|| record(look.job.as_ref()?)).and_then(|last| self.estimate(last));
        let fits = estimate.is_none_or(|estimate| self.fits(base, look.elapsed, estimate));
        let reason = base.over(look.elapsed);
        if fits && !self.switch.made && base.rules.post_copy {
            return Some(Step { order: Order::StartPostCopy, reason, purpose: Purpose::LastAttempt });
        }
        if fits && !self.switch.made && base.rules.disruption {
            return Some(Step::downtime(QEMU_MAX_DOWNTIME_MS, Purpose::LastAttempt, reason));
        }
        Some(Step::cancel(reason))
    }

    /// While disks are copied there is nothing to switch over yet; what is allowed for it may still help before the last
    /// deadline.
    fn waits_for_memory(&self, base: &Base, elapsed: Duration) -> bool {
        let helps = (base.rules.disruption || base.rules.post_copy) && self.fits(base, elapsed, 0);
        helps && base.clock.has_begun() && base.movement.copies_disks_first() && !base.is_stuck(elapsed)
    }

    /// Milliseconds that the rest needs.
    fn estimate(&self, record: Record) -> Option<u64> {
        Some(scaled(record.remaining, 1000.0 / self.bandwidth?).min(u64::from(u32::MAX)))
    }

    /// Whether the rest can be through before the last deadline.
    fn fits(&self, base: &Base, elapsed: Duration, estimate: u64) -> bool {
        let Some(acceptable) = base.clock.acceptable else { return true };
        let deadline = scaled(acceptable, self.settings.timeout_factor);
        let left = deadline.checked_sub(base.clock.now(elapsed));
        left.is_some_and(|left| estimate <= left.saturating_mul(1000))
    }

    /// A step has succeeded.
    pub fn done(&mut self, base: &mut Base, purpose: Purpose) {
        let deadline = base.clock.now(base.elapsed).saturating_add(self.settings.switchover_timeout);
        match purpose {
            Purpose::Initial => self.switch.initial = true,
            Purpose::SwitchOver => self.switch = Switch { made: true, deadline: Some(deadline), ..self.switch },
            Purpose::LastAttempt => {
                self.switch = Switch { made: true, deadline: Some(deadline), ..self.switch };
                let factor = self.settings.timeout_factor;
                base.clock.acceptable = base.clock.acceptable.map(|seconds| scaled(seconds, factor));
            }
            Purpose::Tune(..) | Purpose::Help | Purpose::GiveUp => {}
        }
    }
}

/// What remains; absent unless the statistics are complete.
fn record(job: &JobSample) -> Option<Record> {
    job.memory_iteration?;
    Some(Record { elapsed: job.time_elapsed?, remaining: job.data_remaining? })
}
