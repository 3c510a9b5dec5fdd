//! What both strategies know of a migration.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Clock;
use super::movement::Movement;
use super::{Facts, Look, Mode};
use crate::domain::{DomainState, JobSample, LifeCycle, StateReason};
use crate::launcher::migration::options::MigrationOptions;
use crate::launcher::migration::progress;

/// How long a later launcher gathers samples before it misses one.
const SETTLING: Duration = Duration::from_secs(10);

/// What is allowed, and how long is waited.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub disruption: bool,
    pub post_copy: bool,
    pub vfio: bool,
    /// The guest was paused when the job began.
    pub paused: bool,
    /// The longest downtime that the user accepts.
    pub ceiling_ms: u64,
    /// Seconds without data moved after which the job is stuck; 0 is never.
    pub patience: u64,
    /// Seconds for everything but volumes, if volumes are copied.
    pub rest_after_volumes: Option<u64>,
}

/// A call whose outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaited {
    /// The switch to post-copy.
    PostCopy,
    /// The pause.
    Pause,
}

/// Whether a later launcher goes on with the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resumed {
    /// This one began it.
    Never,
    /// It has not looked yet.
    ToBe,
    /// Its first look.
    At(Duration),
}

/// State of a migration, apart from the strategy's.
#[derive(Debug, Clone)]
pub(super) struct Base {
    pub rules: Rules,
    pub clock: Clock,
    pub movement: Movement,
    pub mode: Mode,
    pub awaited: Option<Awaited>,
    /// The launcher that made the awaited call is gone; the guest's state shows the outcome.
    pub outcome_lost: bool,
    /// The last look.
    pub elapsed: Duration,
    pub resumed: Resumed,
    figures: Option<JobSample>,
}

impl Base {
    /// `patience` is the strategy's time-out without progress.
    pub fn new(options: &MigrationOptions, facts: &Facts, patience: u64) -> Self {
        let per_unit = options.completion_timeout_per_gib;
        let data = facts.data;
        let without_volumes = super::DataSize { volumes: 0, ..data };
        Base {
            rules: Rules {
                disruption: options.allows_disruption(),
                post_copy: options.allow_post_copy && facts.post_copy_armed && !facts.vfio && !facts.paused,
                vfio: facts.vfio,
                paused: facts.paused,
                ceiling_ms: options.downtime_ceiling_ms(),
                patience,
                rest_after_volumes: (data.volumes > 0)
                    .then(|| without_volumes.acceptable(per_unit).unwrap_or_default()),
            },
            clock: Clock::new(data.acceptable(per_unit)),
            movement: Movement::default(),
            mode: Mode::PreCopy,
            awaited: None,
            outcome_lost: false,
            elapsed: Duration::ZERO,
            resumed: Resumed::Never,
            figures: None,
        }
    }

    /// Takes in what is seen. `switches_itself`: a pause that was not ordered is QEMU's switch-over.
    pub fn observe(&mut self, look: &Look, switches_itself: bool) {
        self.elapsed = look.elapsed;
        if self.resumed == Resumed::ToBe {
            self.resumed = Resumed::At(look.elapsed);
        }
        self.movement.observe(look.elapsed, look.job.as_ref());
        if let Some(job) = &look.job {
            if self.clock.begin(look.elapsed) {
                self.movement.begin(look.elapsed);
            }
            if let Some(rest) = self.rules.rest_after_volumes
                && job.copies_disks_first()
                && self.rules.patience != 0
                && !self.is_stuck(look.elapsed)
            {
                self.clock.leave(rest, look.elapsed);
            }
            self.figures = Some(*job);
        }
        if let Some(state) = look.state {
            self.see(state, switches_itself);
        }
    }

    fn see(&mut self, state: DomainState, switches_itself: bool) {
        let paused_for = |reason| state == DomainState::new(LifeCycle::Paused, reason);
        if paused_for(StateReason::Postcopy) || paused_for(StateReason::PostcopyFailed) {
            self.mode = Mode::PostCopy;
        }
        let paused = paused_for(StateReason::Migration) && self.mode == Mode::PreCopy && !self.rules.paused;
        if paused && self.outcome_lost && self.awaited == Some(Awaited::Pause) {
            self.helped();
        } else if paused && switches_itself {
            self.mode = Mode::Paused;
        }
        if self.outcome_lost {
            (self.awaited, self.outcome_lost) = (None, false);
        }
    }

    /// The guest is paused, or about to be, so that the migration ends.
    pub fn helped(&mut self) {
        self.mode = Mode::Paused;
        self.clock.double();
    }

    /// Whether no data has moved for too long.
    pub fn is_stuck(&self, elapsed: Duration) -> bool {
        self.rules.patience != 0 && self.movement.still_for(elapsed) > self.rules.patience
    }

    /// Whether a later launcher has only begun to look, so that it has no samples yet.
    pub fn is_new_here(&self, elapsed: Duration) -> bool {
        match self.resumed {
            Resumed::Never => false,
            Resumed::ToBe => true,
            Resumed::At(first) => elapsed.saturating_sub(first) < SETTLING,
        }
    }

    /// Why a migration that has had its time is cancelled.
    pub fn over(&self, elapsed: Duration) -> String {
        let acceptable = self.clock.acceptable.unwrap_or_default();
        let now = self.clock.now(elapsed);
        self.with_figures(format!("not completed after {now} seconds (CompletionTimeoutPerGiB allows {acceptable})"))
    }

    /// `reason`, with how far the migration has come.
    pub fn with_figures(&self, reason: String) -> String {
        match &self.figures {
            Some(figures) => format!("{reason}: {}", progress::figures(figures)),
            None => format!("{reason}: the job has not begun"),
        }
    }
}
