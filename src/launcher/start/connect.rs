//! The last phase: libvirt is asked for the first time, the command socket gets its name, and orders are taken.

use tokio::sync::watch;

use super::error::StartError;
use super::serving::Serving;
use super::standalone;
use crate::cmd;
use crate::daemon::{DaemonError, DaemonState, Supervisor};
use crate::launcher::driver::fresh_connection::{Connected, FreshConnection};
use crate::launcher::shutdown::inputs::{failure, mark_for_shutdown};
use crate::launcher::shutdown::lifecycle::Inputs;
use crate::launcher::shutdown::teardown::Launcher;
use crate::launcher::timings::Timings;
use crate::launcher::vm::Vm;
use crate::process::release_text_pages;

impl Serving {
    /// The way down: the command service, the connection and the daemons.
    pub(super) async fn connect(self) -> Result<Launcher, StartError> {
        let kind = match self.config.environment.adoption {
            Some(_) => Connected::Adopted,
            None => Connected::FirstStart,
        };
        self.fresh.milestones.leave_early.send_replace(self.config.environment.target_pod_exit_signal);
        let connected = match self.daemons.hypervisor_daemon.ready(self.timings.connect).await {
            Ok(_) => first_connection(&self.fresh, kind).await,
            Err(DaemonError::Waiting { .. }) => {
                // The driver refuses with the reason whatever needs libvirt.
                connect_later(self.fresh.clone(), kind, self.daemons.hypervisor_daemon.state()).await;
                Ok(())
            }
            Err(error) => Err(error.into()),
        };
        let published = connected.and_then(|()| match self.is_published {
            true => Ok(()),
            false => cmd::publish(&self.server.sockets).map_err(StartError::from),
        });
        match published {
            Ok(()) => self.begin().await,
            Err(error) => {
                self.abandon().await;
                Err(error)
            }
        }
    }

    /// Takes orders. With `STANDALONE_VMI` the launcher gives the first one itself.
    async fn begin(mut self) -> Result<Launcher, StartError> {
        if let Some(begin) = self.begin.take() {
            // Fails only if the driver has ended.
            let _ = begin.send(());
        }
        tracing::info!("Marked as ready");
        // Most of what the start needs is not needed again.
        release_text_pages();
        // A VM that the previous launcher started is not started again.
        if let Some(manifest) = self.standalone.take().filter(|_| !self.restored.was_started())
            && let Err(error) = standalone::run(&self.handle, manifest).await
        {
            self.abandon().await;
            return Err(error);
        }
        Ok(self.into_launcher())
    }

    fn into_launcher(self) -> Launcher {
        let FreshConnection { vm, milestones, publications, migrations, .. } = self.fresh;
        let watched = Inputs {
            signalled: mark_for_shutdown(self.signalled, vm.metadata.clone()),
            mark: self.outbox.delivery(publications.marked.clone()),
            end_ordered: milestones.end_ordered.subscribe(),
            leave_early: milestones.leave_early.subscribe(),
            never_receives: milestones.never_receives.subscribe(),
            prepared: migrations.incoming.prepared(),
            defined: milestones.defined.subscribe(),
            process: vm.tracker.subscribe(),
            deletion: self.outbox.delivery(publications.deletion.clone()),
            daemon_failed: failure(
                self.daemons.hypervisor_daemon.state(),
                self.daemons.virtlogd.as_ref().map(Supervisor::state),
                vm.tracker.clone(),
            ),
        };
        Launcher {
            config: self.config,
            timings: self.timings,
            vm,
            watched,
            core: self.core,
            publications,
            daemons: self.daemons,
            outbox: self.outbox,
            server: self.server,
            virt_handler_was_heard: self.restored.state.virt_handler_heard,
            hooks: self.hooks,
        }
    }
}

/// Connects to a daemon that runs; the VM's state is published when this returns.
async fn first_connection(fresh: &FreshConnection, kind: Connected) -> Result<(), StartError> {
    open(&fresh.vm, &fresh.timings).await?;
    fresh.on_connected(kind).await;
    // The first GetDomain sees what there is.
    fresh.publications.refreshed().await;
    Ok(())
}

/// Connects in the background when the daemon starts. Until then there is no VM, or the VM runs without the daemon.
async fn connect_later(fresh: FreshConnection, kind: Connected, mut daemon: watch::Receiver<DaemonState>) {
    if fresh.was_started {
        fresh.on_connected(kind).await;
    }
    tokio::spawn(async move {
        if daemon.wait_for(|state| matches!(state, DaemonState::Running { .. })).await.is_err() {
            return;
        }
        while let Err(error) = open(&fresh.vm, &fresh.timings).await {
            tracing::warn!("{error}; trying again");
        }
        fresh.on_connected(kind).await;
    });
}

/// The daemon's socket accepts before the daemon is ready for every driver: connecting is tried until its deadline.
async fn open(vm: &Vm, timings: &Timings) -> Result<(), StartError> {
    let deadline = tokio::time::Instant::now() + timings.connect;
    while let Err(error) = vm.connection.connect().await {
        if tokio::time::Instant::now() >= deadline {
            return Err(StartError::Connect { uri: vm.connection.uri().to_owned(), error });
        }
        tokio::time::sleep(timings.reconnect_pause).await;
    }
    Ok(())
}
