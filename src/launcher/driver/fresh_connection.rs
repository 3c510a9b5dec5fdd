//! What a fresh connection to libvirt is used for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::domain::{DomainState, LifeCycle};
use crate::hypervisor::ControlError;
use crate::launcher::jobs::Jobs;
use crate::launcher::migration::Migrations;
use crate::launcher::publish::publisher::{Publications, Trigger};
use crate::launcher::timings::Timings;
use crate::launcher::vm::Vm;
use crate::launcher::vm::milestones::Milestones;
use crate::libvirt::{self, Connection, JobStats};

/// Why there is a fresh connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connected {
    /// It is the first one of the pod's first launcher.
    FirstStart,
    /// It is the first one of a launcher that adopts a VM.
    Adopted,
    /// The one before it was lost.
    Reconnected,
}

/// Whom a fresh connection tells something. Clones share everything.
#[derive(Clone)]
pub(crate) struct FreshConnection {
    pub(crate) vm: Vm,
    pub(crate) jobs: Jobs,
    pub(crate) migrations: Migrations,
    pub(crate) milestones: Milestones,
    pub(crate) publications: Publications,
    pub(crate) timings: Timings,
    /// The previous launcher saw the hypervisor's process.
    pub(crate) was_started: bool,
    /// The control has looked for a VM that is there already, which it does once.
    pub(crate) is_attached: Arc<AtomicBool>,
}

impl FreshConnection {
    /// Everything that is due when there is a connection, or a hypervisor to adopt that does without one. Probing the
    /// emulator, which takes long the first time, goes on in the background.
    pub(crate) async fn on_connected(&self, kind: Connected) {
        if !self.is_attached.swap(true, Ordering::Relaxed)
            && let Err(error) = self.vm.control.attach().await
        {
            tracing::warn!("cannot adopt a VM that is there already: {error}");
        }
        self.find_domain(kind).await;
        if kind != Connected::Reconnected || self.milestones.version.borrow().is_none() {
            learn_version(self.vm.connection.clone(), self.milestones.version.clone());
        }
        let fresh = self.clone();
        tokio::spawn(async move { fresh.note_end_of_backup(None).await });
        if kind == Connected::Adopted {
            self.migrations.go_on();
        }
        self.publications.request_refresh(match kind {
            Connected::FirstStart => Trigger::Changed,
            // Whatever happened meanwhile has to be told now.
            Connected::Adopted | Connected::Reconnected => Trigger::Reconnected,
        });
    }

    /// Notes how a backup ended: as libvirt tells, or without word of it, where it may have ended while nobody listened.
    pub(crate) async fn note_end_of_backup(&self, told: Option<JobStats>) {
        let (ended, is_news) = match told {
            Some(stats) => (self.jobs.backup_ended(stats).await, true),
            None => (self.jobs.backup_may_have_ended().await, false),
        };
        match (ended, is_news) {
            (true, _) => self.publications.request_refresh(Trigger::BackupEnded),
            (false, true) => self.publications.request_refresh(Trigger::Changed),
            (false, false) => {}
        }
    }

    /// Whether the domain is there already, and its hypervisor's process. Until libvirt knows of one, what has a hypervisor's
    /// name is none: libvirt, for one, starts one to find out what it can do.
    async fn find_domain(&self, kind: Connected) {
        let (vm, milestones) = (&self.vm, &self.milestones);
        match self.domain_state(kind).await {
            Ok(now) => {
                milestones.defined.send_replace(true);
                // A domain that was starting when its launcher died is still being cleared away by the daemon; it is no VM yet.
                if now.has_hypervisor() {
                    vm.tracker.look();
                }
                vm.tracker.note_end();
                // Not on a reconnect: an operation may be about to pause the VM.
                if now.status == LifeCycle::Running && kind != Connected::Reconnected {
                    vm.paused.clear();
                }
            }
            Err(error) if error.is_no_domain() => {
                // Undefined while nobody looked. What a VM that this launcher started has come to is told by its process.
                if kind != Connected::Reconnected {
                    let known = self.was_started;
                    milestones.defined.send_if_modified(|defined| std::mem::replace(defined, known) != known);
                }
            }
            Err(error) => tracing::warn!("cannot look for the domain: {error}"),
        }
    }

    /// The domain's state, once the daemon can tell it: one that has just been started still reads the domains that it finds.
    /// A connection that is lost again is followed by another one.
    async fn domain_state(&self, kind: Connected) -> Result<DomainState, ControlError> {
        let deadline = Instant::now() + self.timings.connect;
        let may_answer = || kind != Connected::Reconnected || self.vm.connection.is_open();
        loop {
            match self.vm.control.state().await {
                Err(error) if !error.is_no_domain() && may_answer() && Instant::now() < deadline => {
                    tokio::time::sleep(self.timings.reconnect_pause).await;
                }
                result => return result,
            }
        }
    }
}

/// How often a libvirt that does not answer in time is asked for the hypervisor's version.
const VERSION_ATTEMPTS: u32 = 10;

/// Asks for the hypervisor's version and abilities in the background: libvirt tries the emulator out, which takes long on a
/// busy machine. What a lost connection cuts short is begun again with the next one.
fn learn_version(connection: Connection, version: watch::Sender<Option<String>>) {
    tokio::spawn(async move {
        for _ in 0..VERSION_ATTEMPTS {
            match connection.hypervisor_version().await {
                Ok(told) => {
                    version.send_replace(Some(told));
                    break;
                }
                Err(error @ libvirt::Error::Deadline { .. }) => {
                    tracing::warn!("the hypervisor's version is not known yet: {error}");
                }
                Err(error) => {
                    tracing::warn!("the hypervisor's version is not known: {error}");
                    break;
                }
            }
        }
        if let Err(error) = connection.warm_capabilities().await {
            tracing::warn!("the hypervisor's capabilities are not known: {error}");
        }
    });
}
