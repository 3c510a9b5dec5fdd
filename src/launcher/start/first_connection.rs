//! What a fresh connection to libvirt is used for, at start-up or, where the daemon has to wait for a device, later.

use tokio::sync::watch;
use tokio::time::Instant;

use super::error::StartError;
use crate::daemon::DaemonState;
use crate::domain::{DomainState, LifeCycle};
use crate::hypervisor::ControlError;
use crate::launcher::jobs::Jobs;
use crate::launcher::publish::publisher::{Cause, Publications};
use crate::launcher::timings::Timings;
use crate::launcher::vm::Vm;
use crate::launcher::vm::milestones::Signs;
use crate::libvirt::{self, Connection};

/// The launcher's first connection, and everything that is learnt through it.
pub(crate) struct FirstConnection {
    pub(crate) vm: Vm,
    /// What a launcher before this one has begun.
    pub(crate) jobs: Jobs,
    pub(crate) signs: Signs,
    pub(crate) publications: Publications,
    pub(crate) timings: Timings,
    /// A launcher before this one saw the hypervisor's process.
    pub(crate) started: bool,
    /// What the publisher looks for.
    pub(crate) cause: Cause,
}

impl FirstConnection {
    /// Connects to a daemon that runs; the VM's state is published when this returns.
    pub(crate) async fn make(self) -> Result<(), StartError> {
        connect(&self.vm, &self.timings).await?;
        self.take_up().await;
        self.learn().await;
        self.look_at_backup();
        self.publications.look(self.cause);
        // The first GetDomain sees what there is.
        self.publications.refreshed().await;
        Ok(())
    }

    /// The same once the daemon runs, without waiting for it. Until then there is no VM, or one that goes on without.
    pub(crate) async fn make_later(self, mut daemon: watch::Receiver<DaemonState>) {
        if self.started {
            self.take_up().await;
            self.learn().await;
            self.publications.look(Cause::Reconnected);
        }
        tokio::spawn(async move {
            if daemon.wait_for(|state| matches!(state, DaemonState::Running { .. })).await.is_err() {
                return;
            }
            while let Err(error) = connect(&self.vm, &self.timings).await {
                tracing::warn!("{error}; trying again");
            }
            if !self.started {
                self.take_up().await;
            }
            self.learn().await;
            self.publications.look(Cause::Reconnected);
            self.look_at_backup();
        });
    }

    /// A backup may have ended while there was no launcher to be told.
    fn look_at_backup(&self) {
        let (jobs, publications) = (self.jobs.clone(), self.publications.clone());
        tokio::spawn(async move {
            if jobs.backup_may_have_ended().await {
                publications.look(Cause::BackupEnded);
            }
        });
    }

    async fn take_up(&self) {
        if let Err(error) = self.vm.control.attach().await {
            tracing::warn!("cannot take up a VM that is there already: {error}");
        }
    }

    /// What a fresh connection tells: the hypervisor's version, whether the domain is there already. Probing the emulator,
    /// which takes long the first time, goes on in the background.
    async fn learn(&self) {
        let (vm, signs) = (&self.vm, &self.signs);
        match first_look(vm, &self.timings).await {
            Ok(now) => {
                signs.defined.send_replace(true);
                // A domain that was starting when its launcher died is still being cleared away by the daemon; it is no VM yet.
                if now.has_hypervisor() {
                    vm.tracker.look();
                }
                vm.tracker.note_end();
                if now.status == LifeCycle::Running {
                    vm.paused.clear();
                }
            }
            Err(error) if error.is_no_domain() => {
                // Undefined while nobody looked.
                signs.defined.send_if_modified(|defined| std::mem::replace(defined, self.started) != self.started);
            }
            Err(error) => tracing::warn!("cannot look for the domain: {error}"),
        }
        learn_version(vm.connection.clone(), signs.version.clone());
    }
}

/// Asks for the hypervisor's version and abilities in the background: libvirt tries the emulator out, which takes long on a
/// busy machine. What a lost connection cuts short is begun again with the next one.
pub(crate) fn learn_version(connection: Connection, version: watch::Sender<Option<String>>) {
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

/// How often a libvirt that does not answer in time is asked for the hypervisor's version.
const VERSION_ATTEMPTS: u32 = 10;

/// The daemon's socket accepts before the daemon is ready for every driver: connecting is tried until its deadline.
async fn connect(vm: &Vm, timings: &Timings) -> Result<(), StartError> {
    let deadline = tokio::time::Instant::now() + timings.connect;
    while let Err(error) = vm.connection.connect().await {
        if tokio::time::Instant::now() >= deadline {
            return Err(StartError::Connect { uri: vm.connection.uri().to_owned(), error });
        }
        tokio::time::sleep(timings.reconnect_pause).await;
    }
    Ok(())
}

/// The domain's state, once the daemon can tell it: one that has just been started still takes up the domains it finds.
async fn first_look(vm: &Vm, timings: &Timings) -> Result<DomainState, ControlError> {
    let deadline = Instant::now() + timings.connect;
    loop {
        match vm.control.state().await {
            Err(error) if !error.is_no_domain() && Instant::now() < deadline => {
                tokio::time::sleep(timings.reconnect_pause).await;
            }
            result => return result,
        }
    }
}
