//! The strategy without a stall detector (contract/migration.md 7.2).

use std::time::Duration;

use super::base::Base;
use super::downtime::Tuning;
use super::step::{Order, Purpose, Step};
use super::{Look, Mode};
use crate::launcher::migration::options::QEMU_MAX_DOWNTIME_MS;

/// Seconds without coming nearer to the end after which a migration without limits is helped.
const DEFAULT_PATIENCE: u64 = 150;

/// State that only this strategy has.
#[derive(Debug, Clone)]
pub(super) struct Legacy {
    pub tuning: Option<Tuning>,
}

/// What may be done so that a guest that writes too much does not hold the migration up.
enum Help {
    /// Nothing, or not yet.
    None,
    /// Something, once memory is copied: pausing the guest for as long as its disks take would not help.
    AfterDisks,
    /// This.
    Now(Step),
}

impl Legacy {
    /// What is to be done; never anything after the switch to post-copy.
    pub fn look(&self, base: &Base, look: &Look) -> Vec<Step> {
        if base.mode == Mode::PostCopy {
            return Vec::new();
        }
        // A downtime that makes QEMU switch over is not to be lowered again.
        let tuning = self.tuning.as_ref().filter(|_| base.mode == Mode::PreCopy);
        let tuning = tuning.and_then(|tuning| tuning.look(look.elapsed, look.job.as_ref()));
        tuning.into_iter().chain(row(base, look.elapsed)).collect()
    }
}

/// The first row of 7.2 that applies.
fn row(base: &Base, elapsed: Duration) -> Option<Step> {
    match help(base, elapsed) {
        Help::Now(step) => Some(step),
        Help::AfterDisks => stuck(base, elapsed),
        Help::None => stuck(base, elapsed).or_else(|| timed_out(base, elapsed)),
    }
}

/// Row 2.
fn help(base: &Base, elapsed: Duration) -> Help {
    let rules = &base.rules;
    if !rules.disruption || base.mode != Mode::PreCopy || !base.clock.has_begun() || !is_due(base, elapsed) {
        return Help::None;
    }
    if base.movement.copies_disks_first() {
        return Help::AfterDisks;
    }
    let reason = base.with_figures(format!("not completed after {} s", base.clock.now(elapsed)));
    if rules.post_copy {
        Help::Now(Step { order: Order::StartPostCopy, reason, purpose: Purpose::Help })
    } else if rules.vfio {
        let downtime = base.clock.acceptable.map_or(u64::MAX, |seconds| seconds.saturating_mul(2).saturating_mul(1000));
        Help::Now(Step::downtime(downtime.min(QEMU_MAX_DOWNTIME_MS), Purpose::Help, reason))
    } else if rules.paused {
        Help::None
    } else {
        Help::Now(Step { order: Order::Suspend, reason, purpose: Purpose::Help })
    }
}

/// Whether it is time for help. Without a limit it is, while data moves, when the migration comes no nearer to its end; a guest
/// is paused then only if row 3 ends the pause.
fn is_due(base: &Base, elapsed: Duration) -> bool {
    if base.clock.acceptable.is_some() {
        return base.clock.is_over(elapsed);
    }
    let rules = &base.rules;
    let patience = if rules.patience == 0 { DEFAULT_PATIENCE } else { rules.patience };
    let has_end = rules.post_copy || rules.patience != 0;
    has_end && base.movement.no_nearer_for(elapsed) > patience && base.movement.still_for(elapsed) <= patience
}

/// Row 3.
fn stuck(base: &Base, elapsed: Duration) -> Option<Step> {
    base.is_stuck(elapsed).then(|| {
        let still = base.movement.still_for(elapsed);
        let reason = format!("stuck for {still} seconds (ProgressTimeout is {})", base.rules.patience);
        Step::cancel(base.with_figures(reason))
    })
}

/// Row 4.
fn timed_out(base: &Base, elapsed: Duration) -> Option<Step> {
    base.clock.is_over(elapsed).then(|| Step::cancel(base.over(elapsed)))
}
