//! Tables of contract/migration.md 7.2 to 7.4, and what holds for every course of a migration.

mod legacy;
mod properties;
mod restored;
mod stall;
mod tuning;
mod weaknesses;

use std::time::Duration;

use super::{DataSize, Facts, Look, Mode, Notice, Order, Policy, Step};
use crate::domain::{DomainState, JobSample, LifeCycle, StateReason};
use crate::launcher::migration::options::MigrationOptions;

const PAUSED_BY_MIGRATION: DomainState = DomainState::new(LifeCycle::Paused, StateReason::Migration);
const POST_COPY: DomainState = DomainState::new(LifeCycle::Paused, StateReason::Postcopy);

fn options(json: &str) -> MigrationOptions {
    MigrationOptions::parse(json.as_bytes()).unwrap()
}

/// 10⁹ bytes of memory: one unit of the completion time-out.
fn facts() -> Facts {
    let data = DataSize { memory: 1_000_000_000, ..DataSize::default() };
    Facts { data, post_copy_armed: true, iteration_events: true, ..Facts::default() }
}

/// A job that moves data: `processed` grows, `remaining` is as it is.
fn job(processed: u64, remaining: u64) -> JobSample {
    JobSample {
        time_elapsed: Some(processed * 1000),
        data_processed: Some(processed),
        data_remaining: Some(remaining),
        memory_total: Some(1),
        memory_iteration: Some(1),
        ..JobSample::default()
    }
}

/// A job that only copies disks.
fn disks(processed: u64) -> JobSample {
    JobSample { memory_total: Some(0), disk_total: Some(1), ..job(processed, 1_000_000 - processed) }
}

/// A job that moves data at `seconds`.
fn moving(seconds: u64) -> Look {
    look(seconds, Some(job(seconds, 1000)))
}

fn look(seconds: u64, job: Option<JobSample>) -> Look {
    Look { elapsed: Duration::from_secs(seconds), job, state: Some(DomainState::RUNNING), ..Look::default() }
}

fn orders(steps: &[Step]) -> Vec<Order> {
    steps.iter().map(|step| step.order).collect()
}

fn downtime(milliseconds: u64) -> Order {
    Order::SetMaxDowntime(Duration::from_millis(milliseconds))
}

/// Looks once, carries out what is asked for, and says what it was.
fn follow(policy: &mut Policy, look: Look) -> Vec<Order> {
    let steps = policy.look(&look);
    for step in &steps {
        policy.done(step, true);
    }
    orders(&steps)
}
