//! Looks at an outgoing migration and does what its policy decides (contract/migration.md 7).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::policy::{Facts, Look, Notice, Order, Policy};
use super::progress;
use super::saved::SavedOutgoing;
use crate::domain::Time;
use crate::hypervisor::ControlError;
use crate::launcher::vm::Vm;
use crate::launcher::vm::migration_record::{self as record, ABORTED, AbortStatus};
use crate::launcher::vm::state_file::StateFile;
use crate::libvirt::{JobOperation, JobStats, JobType};

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(400);
/// Looks between two progress lines of the log.
const LOGGED: u32 = 10;
/// How long the answer to one question may take before the look goes on without it.
const ANSWER: Duration = Duration::from_secs(4);
/// How long an order to abort may wait for libvirt's job.
const ABORT: Duration = Duration::from_secs(30);

/// How long a migration may take to end once libvirt has aborted it. With several connections QEMU may wait for one that never comes
/// (contract/migration.md 16, M42); virt-handler closes them when the record has an end, which frees QEMU.
const ENDING: Duration = Duration::from_secs(30);

/// When a migration began, also across launchers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started {
    here: Instant,
    before: Duration,
}

impl Started {
    /// It begins now.
    pub(super) fn now() -> Self {
        Started { here: Instant::now(), before: Duration::ZERO }
    }

    /// It began at that time.
    pub(super) fn at(time: Option<&Time>) -> Self {
        let seconds = time.map_or(0, |time| Time::now().unix() - time.unix());
        Started { before: Duration::from_secs(u64::try_from(seconds).unwrap_or_default()), ..Started::now() }
    }

    fn elapsed(self) -> Duration {
        self.before + self.here.elapsed()
    }
}

/// Who wants the migration to end, and until when libvirt may take.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    /// Why, if it is the monitor that wants it.
    reason: Option<String>,
    until: Instant,
}

impl Wish {
    fn new(reason: Option<String>) -> Self {
        Wish { reason, until: Instant::now() + ABORT }
    }
}

/// The monitor of one migration.
pub(super) struct Monitor {
    pub(super) vm: Vm,
    pub(super) state_file: StateFile,
    pub(super) uid: String,
    pub(super) order: SavedOutgoing,
    pub(super) facts: Facts,
    pub(super) policy: Policy,
    pub(super) started: Started,
    pub(super) iterations: Arc<Notify>,
    pub(super) abort: watch::Receiver<bool>,
    pub(super) wish: Option<Wish>,
    /// libvirt has taken the order to abort: why it was given, and when.
    pub(super) aborted: Option<(String, Instant)>,
    pub(super) passes: u32,
    /// The question for statistics that is not answered.
    pub(super) question: Option<JoinHandle<Result<JobStats, ControlError>>>,
}

fn tell(uid: &str, notice: Option<Notice>) {
    match notice {
        Some(Notice::Info(text)) => tracing::info!("migration {uid}: {text}"),
        Some(Notice::Warning(text)) => tracing::warn!("migration {uid}: {text}"),
        None => {}
    }
}

fn is_active(stats: &JobStats) -> bool {
    matches!(stats.job_type, JobType::Bounded | JobType::Unbounded)
}

impl Monitor {
    /// Looks and acts until the caller stops it, or an aborted migration does not come to its end.
    pub(super) async fn watch(&mut self) {
        for notice in self.policy.opening() {
            tell(&self.uid, Some(notice));
        }
        loop {
            let iteration = self.pause().await;
            self.pass(iteration).await;
            if self.is_overdue() {
                return tracing::warn!(
                    "migration {}: QEMU does not end it {} s after the abort",
                    self.uid,
                    ENDING.as_secs()
                );
            }
        }
    }

    /// Whether libvirt has aborted the migration, and it does not come to its end.
    fn is_overdue(&self) -> bool {
        self.aborted.as_ref().is_some_and(|(_, since)| since.elapsed() > ENDING)
    }

    /// The job's statistics, if they come in time. A question without an answer stays the only one: each holds a thread.
    async fn stats(&mut self) -> Option<JobStats> {
        let control = &self.vm.control;
        let question = self.question.get_or_insert_with(|| {
            let control = Arc::clone(control);
            tokio::spawn(async move { control.migration_stats().await })
        });
        let answer = timeout(ANSWER, question).await;
        let Ok(answer) = answer else {
            tracing::warn!("migration {}: libvirt is unresponsive: no statistics for {} s", self.uid, ANSWER.as_secs());
            return None;
        };
        self.question = None;
        match answer {
            Ok(Ok(stats)) => Some(stats),
            Ok(Err(error)) => {
                tracing::debug!("migration {}: no statistics: {error}", self.uid);
                None
            }
            Err(error) => {
                tracing::warn!("migration {}: no statistics: {error}", self.uid);
                None
            }
        }
    }

    async fn pass(&mut self, iteration: bool) {
        let active = self.stats().await.filter(|stats| is_active(stats) && stats.operation != JobOperation::BACKUP);
        let job = active.as_ref().filter(|stats| stats.job_type == JobType::Unbounded).map(|stats| stats.migration);
        if let Some(sample) = &job {
            self.vm.migration_progress.set(Some(*sample));
            if iteration || self.passes.is_multiple_of(LOGGED) {
                tracing::info!("{}", progress::info_line(&self.uid, sample));
            }
            self.passes = self.passes.wrapping_add(1);
        }
        let state = self.vm.control.state().await.ok();
        let abort_pending = self.wish.is_some();
        let look = Look { elapsed: self.started.elapsed(), job, state, iteration, abort_pending };
        for step in self.policy.look(&look) {
            self.keep();
            tell(&self.uid, step.announcement());
            let control = &self.vm.control;
            let done = match step.order {
                Order::SetMaxDowntime(downtime) => control.set_max_downtime(downtime).await,
                Order::StartPostCopy => control.start_post_copy().await,
                Order::Suspend => control.suspend().await,
                Order::Cancel => {
                    record::set_abort_status(&self.vm.metadata, &self.uid, AbortStatus::Aborting);
                    self.wish = Some(Wish::new(Some(step.reason.clone())));
                    Ok(())
                }
            };
            if let Err(error) = &done {
                tracing::warn!("migration {}: {error}", self.uid);
            }
            let notice = self.policy.done(&step, done.is_ok());
            tell(&self.uid, notice);
        }
        self.keep();
        self.try_to_abort(active.is_some()).await;
    }

    /// What changed goes into the record and to the next launcher.
    fn keep(&mut self) {
        let mode = self.policy.mode().name();
        record::change(&self.vm.metadata, &self.uid, |record| mode.clone_into(&mut record.mode));
        let saved = (self.facts, self.policy.saved());
        if self.order.policy.as_ref() != Some(&saved) {
            self.order.policy = Some(saved);
            self.order.keep(&self.state_file);
        }
    }

    /// Asks libvirt to abort as soon as it has a job; before that the wish waits.
    async fn try_to_abort(&mut self, has_job: bool) {
        let Some(Wish { reason, until }) = self.wish.clone().filter(|_| self.aborted.is_none()) else { return };
        let refused = if !self.policy.may_cancel() {
            Some("the guest may run at the target already".to_owned())
        } else if has_job {
            match self.vm.control.abort_job().await {
                Ok(()) => {
                    record::set_abort_status(&self.vm.metadata, &self.uid, AbortStatus::Succeeded);
                    let text = reason.map_or_else(|| ABORTED.to_owned(), |why| format!("{ABORTED}: {why}"));
                    self.aborted = Some((text, Instant::now()));
                    return;
                }
                Err(error) => Some(error.to_string()),
            }
        } else {
            (Instant::now() >= until).then(|| format!("libvirt had no job for {} s", ABORT.as_secs()))
        };
        if let Some(why) = refused {
            tracing::warn!("migration {}: not aborted: {why}", self.uid);
            record::set_abort_status(&self.vm.metadata, &self.uid, AbortStatus::Failed);
            self.wish = None;
        }
    }

    /// The migration's call has ended: why it was aborted, if it was.
    pub(super) async fn settle(&mut self) -> Option<String> {
        // The call that asked libvirt may have been cut off when the migration ended because of it.
        if self.aborted.is_none() && self.wish.is_some() {
            let ended = self.vm.control.completed_job_stats().await;
            if ended.is_ok_and(|stats| stats.job_type == JobType::Cancelled) {
                record::set_abort_status(&self.vm.metadata, &self.uid, AbortStatus::Succeeded);
                self.aborted = Some((ABORTED.to_owned(), Instant::now()));
            }
        }
        self.aborted.as_ref().map(|(reason, _)| reason.clone())
    }

    /// Whether libvirt carries a migration out.
    pub(super) async fn has_job(&self) -> bool {
        let stats = self.vm.control.job_stats().await;
        stats.is_ok_and(|stats| is_active(&stats) && stats.operation == JobOperation::MIGRATION_OUT)
    }

    /// Looks and acts until libvirt has no job any more.
    pub(super) async fn watch_to_the_end(&mut self) {
        while self.has_job().await && !self.is_overdue() {
            let iteration = self.pause().await;
            self.pass(iteration).await;
        }
    }

    /// Waits until it is time to look again; whether libvirt has begun to send memory once more.
    async fn pause(&mut self) -> bool {
        tokio::select! {
            () = sleep(PERIOD) => false,
            () = self.iterations.notified() => true,
            true = wants_abort(&mut self.abort), if self.wish.is_none() => {
                self.wish = Some(Wish::new(None));
                false
            }
        }
    }
}

/// Waits for an order to end the migration; false if none can come any more.
async fn wants_abort(abort: &mut watch::Receiver<bool>) -> bool {
    loop {
        if abort.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if *abort.borrow_and_update() {
            return true;
        }
    }
}
