//! When to change the downtime, switch to post-copy, pause the guest, or give up (contract/migration.md 7.1 to 7.4).
//!
//! A policy knows neither libvirt nor a clock. Its caller, `monitor`, looks every 400 ms and at each iteration event:
//!
//! 1. [`Policy::look`] takes in what is seen and says what is to be done;
//! 2. [`Policy::saved`] is kept if it has changed, before anything is done;
//! 3. each step is carried out, in order, and its outcome goes to [`Policy::done`];
//! 4. [`Policy::mode`] is published if it has changed (with [`Mode::Paused`] the VMI joins those paused on purpose), and
//!    [`Policy::saved`] kept again.
//!
//! A later launcher goes on with [`Policy::restored`]. What only samples show (bandwidth, progress, the window of a stall)
//! is not saved: it is learnt anew.

mod base;
mod clock;
mod data_size;
mod downtime;
mod legacy;
mod movement;
mod stall;
mod step;
#[cfg(test)]
mod tests;

pub use base::Awaited;
pub use data_size::DataSize;
pub use step::{Notice, Order, Step};

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::base::{Base, Resumed};
use self::clock::Clock;
use self::downtime::{Tuning, TuningState};
use self::legacy::Legacy;
use self::stall::{Stall, Switch};
use self::step::Purpose;
use super::options::MigrationOptions;
use crate::domain::{DomainState, JobSample};
use crate::vmi::VirtualMachineInstance;

/// `Mode` of the record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The guest runs here.
    #[default]
    PreCopy,
    /// The guest runs at the target; nothing can be taken back.
    PostCopy,
    /// The guest is paused so that the migration ends.
    Paused,
}

impl Mode {
    /// As the record has it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::PreCopy => "PreCopy",
            Mode::PostCopy => "PostCopy",
            Mode::Paused => "Paused",
        }
    }
}

/// What does not change during the migration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Facts {
    /// What there is to move.
    pub data: DataSize,
    /// The VMI has host devices, GPUs or SR-IOV interfaces.
    pub vfio: bool,
    /// The guest was paused, for whatever reason, when the job began.
    pub paused: bool,
    /// The job has the flag POSTCOPY.
    pub post_copy_armed: bool,
    /// libvirt reports iterations; without them there is no stall strategy.
    pub iteration_events: bool,
}

impl Facts {
    /// What the VMI says; `ephemeral` as for [`DataSize::of`].
    pub fn of(vmi: &VirtualMachineInstance, ephemeral: u64) -> Self {
        let devices = &vmi.spec.domain.devices;
        let sriov = devices.interfaces.iter().any(|interface| interface.sriov.is_some());
        Facts {
            data: DataSize::of(vmi, ephemeral),
            vfio: sriov || !devices.host_devices.is_empty() || !devices.gpus.is_empty(),
            ..Facts::default()
        }
    }
}

/// One look at a migration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Look {
    /// Since the migration's start, also across launchers; never less than before.
    pub elapsed: Duration,
    /// Statistics of the job while it is active (libvirt's type "unbounded").
    pub job: Option<JobSample>,
    /// The guest's state, if it could be asked.
    pub state: Option<DomainState>,
    /// The look is due to an iteration event.
    pub iteration: bool,
    /// AbortStatus is neither empty nor `Failed`, or a wish to cancel waits for the job.
    pub abort_pending: bool,
}

/// What must survive the launcher. It changes seldom, never with each look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Saved {
    /// `Mode` of the record.
    pub mode: Mode,
    /// A call that may or may not have been made.
    pub awaited: Option<Awaited>,
    clock: Clock,
    tuning: Option<TuningState>,
    switch: Option<Switch>,
}

/// Decides about one migration.
#[derive(Debug, Clone)]
pub struct Policy {
    base: Base,
    strategy: Strategy,
}

#[derive(Debug, Clone)]
enum Strategy {
    Legacy(Legacy),
    Stall(Box<Stall>),
}

impl Policy {
    /// For a migration that is about to begin.
    pub fn new(options: &MigrationOptions, facts: &Facts) -> Self {
        let ceiling = options.downtime_ceiling_ms();
        match options.stall_detector_options.as_ref().filter(|_| facts.iteration_events) {
            Some(stall) => Policy {
                base: Base::new(options, facts, stall.stall_progress_timeout),
                strategy: Strategy::Stall(Box::new(Stall::new(stall))),
            },
            None => {
                let mut base = Base::new(options, facts, options.progress_timeout);
                if base.rules.paused && base.rules.disruption && !base.rules.vfio {
                    // It has the time of a guest that is paused to end the migration, which needs no pause any more.
                    base.clock.double();
                }
                let tuning = options.downtime_tuning.as_ref().map(|asked| Tuning::new(asked, ceiling));
                Policy { base, strategy: Strategy::Legacy(Legacy { tuning }) }
            }
        }
    }

    /// For a migration that an earlier launcher began, with the same options and facts.
    pub fn restored(options: &MigrationOptions, facts: &Facts, saved: Saved) -> Self {
        let mut policy = Policy::new(options, facts);
        (policy.base.mode, policy.base.awaited, policy.base.clock) = (saved.mode, saved.awaited, saved.clock);
        policy.base.outcome_lost = saved.awaited.is_some();
        policy.base.resumed = Resumed::ToBe;
        match (&mut policy.strategy, saved.tuning, saved.switch) {
            (Strategy::Legacy(Legacy { tuning: Some(tuning) }), Some(state), _) => tuning.state = state,
            (Strategy::Stall(stall), _, Some(switch)) => stall.switch = switch,
            (Strategy::Legacy(_) | Strategy::Stall(_), _, _) => {}
        }
        policy
    }

    /// What a later launcher needs.
    pub fn saved(&self) -> Saved {
        let (tuning, switch) = match &self.strategy {
            Strategy::Legacy(legacy) => (legacy.tuning.as_ref().map(|tuning| tuning.state), None),
            Strategy::Stall(stall) => (None, Some(stall.switch)),
        };
        let Base { mode, awaited, ref clock, .. } = self.base;
        Saved { mode, awaited, clock: clock.clone(), tuning, switch }
    }

    /// `Mode` of the record.
    pub fn mode(&self) -> Mode {
        self.base.mode
    }

    /// Whether a wish to cancel may be followed: not once the guest may run at the target.
    pub fn may_cancel(&self) -> bool {
        self.base.mode != Mode::PostCopy && self.base.awaited != Some(Awaited::PostCopy)
    }

    /// What to log when the migration begins.
    pub fn opening(&self) -> Vec<Notice> {
        match &self.strategy {
            Strategy::Legacy(legacy) => legacy.tuning.iter().map(|tuning| Notice::Info(tuning.enabled())).collect(),
            Strategy::Stall(_) if self.base.rules.vfio => vec![Notice::Warning(
                "the guest has VFIO devices: QEMU may report less remaining data than there is".into(),
            )],
            Strategy::Stall(_) => Vec::new(),
        }
    }

    /// Takes in a look and says what is to be done, in order. Nothing while an abort is pending or the outcome of an earlier
    /// step is not known.
    pub fn look(&mut self, look: &Look) -> Vec<Step> {
        self.base.observe(look, matches!(self.strategy, Strategy::Stall(_)));
        if look.abort_pending || self.base.awaited.is_some() {
            return Vec::new();
        }
        let steps = match &mut self.strategy {
            Strategy::Legacy(legacy) => legacy.look(&self.base, look),
            Strategy::Stall(stall) => stall.look(&self.base, look),
        };
        self.base.awaited = steps.iter().find_map(|step| match step.order {
            Order::StartPostCopy => Some(Awaited::PostCopy),
            Order::Suspend => Some(Awaited::Pause),
            Order::SetMaxDowntime(_) | Order::Cancel => None,
        });
        steps
    }

    /// Takes in the outcome of a step of the last look; returns what to log, with libvirt's reason if it failed. A step that
    /// failed is asked for again. The next look shows whether a cancelled job has ended.
    pub fn done(&mut self, step: &Step, succeeded: bool) -> Option<Notice> {
        let base = &mut self.base;
        if matches!(step.order, Order::StartPostCopy | Order::Suspend) {
            base.awaited = None;
        }
        if !succeeded {
            return step.failure();
        }
        match (step.order, step.purpose, &mut self.strategy) {
            (Order::StartPostCopy, _, _) => base.mode = Mode::PostCopy,
            (_, Purpose::Help, _) if base.mode == Mode::PreCopy => base.helped(),
            (_, Purpose::Tune(from, to), Strategy::Legacy(Legacy { tuning: Some(tuning) })) => {
                return Some(Notice::Info(tuning.done((from, to), base.elapsed)));
            }
            (_, purpose, Strategy::Stall(stall)) => stall.done(base, purpose),
            (_, _, Strategy::Legacy(_)) => {}
        }
        None
    }
}
