//! What the driver does with each order: its lane, and the call that carries it out.

use std::time::Duration;

use super::fresh_connection::FreshConnection;
use super::handle::Request;
use crate::cmd::{Action, MigrateRequest, SyncRequest};
use crate::daemon::Watchdog;
use crate::launcher::error::Error;
use crate::launcher::migration::options::MigrationOptions;
use crate::launcher::migration::{Migrations, finalize, outgoing};
use crate::launcher::sync::live;
use crate::launcher::sync::means::Boot;
use crate::launcher::vm::{operations, sev};

/// How long the answer to an operation that failed may wait for the look that follows it.
const SETTLING: Duration = Duration::from_secs(1);

/// How an operation goes beside others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// One at a time, in order of arrival.
    Exclusive,
    /// At once, whatever else runs.
    Concurrent,
}

impl Lane {
    pub(super) fn of(action: &Action) -> Self {
        match action {
            Action::Sync(_)
            | Action::SyncCpus(_)
            | Action::SyncMemory(_)
            | Action::HotplugHostDevices(_)
            | Action::Pause(_)
            | Action::Unpause(_)
            | Action::Shutdown(_)
            | Action::ReceiveMigration(_)
            | Action::Migrate(_)
            | Action::FinalizeMigration { .. } => Lane::Exclusive,
            Action::Reset(_)
            | Action::SoftReboot(_)
            | Action::Kill(_)
            | Action::Delete(_)
            | Action::Freeze(_)
            | Action::Unfreeze(_)
            | Action::MemoryDump { .. }
            | Action::InjectLaunchSecret { .. }
            | Action::Backup(_)
            | Action::RedefineCheckpoint(_)
            | Action::CancelMigration
            | Action::SignalTargetPodCleanup { .. } => Lane::Concurrent,
        }
    }
}

/// What all operations work with.
pub(super) struct Context {
    pub(super) boot: Boot,
    /// The VM with those who publish it, and what is due after a reconnect.
    pub(super) fresh: FreshConnection,
    /// Of the libvirt daemon.
    pub(super) watchdog: Watchdog,
}

impl Context {
    /// The answer to an order that comes before there is a libvirt daemon: it waits for a device, and there is no VM. Where
    /// there is one, its hypervisor may be able to do without the daemon, and is asked as always.
    pub(super) fn without_daemon(&self, action: &Action) -> Option<Result<(), Error>> {
        let why = self.watchdog.waits_for().filter(|_| !self.fresh.vm.tracker.was_seen())?;
        match action {
            // What is to be ended is not there.
            Action::Shutdown(_) | Action::Kill(_) | Action::Delete(_) => Some(Ok(())),
            Action::SignalTargetPodCleanup { .. } | Action::ReceiveMigration(_) | Action::CancelMigration => None,
            Action::Sync(_)
            | Action::SyncCpus(_)
            | Action::SyncMemory(_)
            | Action::HotplugHostDevices(_)
            | Action::Pause(_)
            | Action::Unpause(_)
            | Action::Reset(_)
            | Action::SoftReboot(_)
            | Action::Freeze(_)
            | Action::Unfreeze(_)
            | Action::MemoryDump { .. }
            | Action::InjectLaunchSecret { .. }
            | Action::Backup(_)
            | Action::Migrate(_)
            | Action::FinalizeMigration { .. }
            | Action::RedefineCheckpoint(_) => Some(Err(Error::not_now(format!("{}: {why}", action.rpc())))),
        }
    }

    /// Does what is asked for, and answers when readers can see what it did, or left behind.
    pub(super) async fn carry_out(&self, request: Request) {
        let Request { action, reply } = request;
        let (rpc, receives) = (action.rpc(), matches!(action, Action::ReceiveMigration(_)));
        let answer = self.perform(action).await;
        let publications = &self.fresh.publications;
        let never_receives = answer.as_ref().err().filter(|_| receives).and_then(never);
        match &answer {
            Ok(()) => publications.settled().await,
            Err(failure) => {
                tracing::warn!("{rpc}: {}", failure.message());
                // A libvirt that does not answer must not keep the reason back; the publisher goes on looking.
                let _ = tokio::time::timeout(SETTLING, publications.settled()).await;
            }
        }
        super::handle::answer(reply, answer);
        if never_receives.is_some() {
            self.fresh.milestones.never_receives.send_replace(never_receives);
        }
    }

    async fn perform(&self, action: Action) -> Result<(), Error> {
        let Context { boot, fresh, .. } = self;
        let FreshConnection { vm, jobs, migrations, milestones, .. } = fresh;
        match action {
            Action::Sync(sync) => self.sync(*sync).await,
            Action::SyncCpus(sync) => live::cpu::synchronise(vm, boot, *sync).await,
            Action::SyncMemory(vmi) => live::memory::synchronise(vm, &vmi).await,
            Action::HotplugHostDevices(sync) => live::host_devices::plug(vm, boot, *sync).await,
            Action::Pause(vmi) => operations::pause(vm, &vmi).await,
            Action::Unpause(vmi) => operations::unpause(vm, &vmi).await,
            Action::Reset(_) => operations::reset(vm).await,
            Action::SoftReboot(vmi) => operations::soft_reboot(vm, &vmi).await,
            Action::Shutdown(_) => operations::shutdown(vm).await,
            Action::Kill(_) => operations::kill(vm).await,
            Action::Delete(_) => operations::delete(vm).await,
            Action::Freeze(request) => vm.guest.freeze(*request, &vm.metadata.snapshot()).await,
            Action::Unfreeze(_) => vm.guest.unfreeze().await,
            Action::MemoryDump { path } => jobs.memory_dump(path),
            Action::Backup(request) => jobs.backup(*request).await,
            Action::RedefineCheckpoint(checkpoint) => jobs.redefine_checkpoint(&checkpoint).await,
            Action::InjectLaunchSecret { header, secret } => sev::inject_secret(vm, &header, &secret).await,
            Action::Migrate(request) => migrate(migrations, *request),
            Action::FinalizeMigration { refresh } => finalize::finalize(vm, &refresh).await,
            Action::CancelMigration => {
                migrations.outgoing.abort();
                Ok(())
            }
            Action::ReceiveMigration(sync) => {
                let without_daemon = self.watchdog.waits_for().is_some();
                migrations.incoming.receive(boot, *sync, without_daemon).await
            }
            Action::SignalTargetPodCleanup { target_pod } => {
                let own = boot.config.environment.pod_name.as_deref();
                if !target_pod.is_empty() && own == Some(target_pod.as_str()) {
                    milestones.leave_early.send_replace(true);
                }
                Ok(())
            }
        }
    }

    /// SyncVirtualMachine, and what follows for the guest's agent.
    async fn sync(&self, request: SyncRequest) -> Result<(), Error> {
        let FreshConnection { vm, milestones, .. } = &self.fresh;
        let vmi = request.vmi.clone();
        let synced = self.boot.sync(vm, request, &milestones.defined).await;
        vm.guest.pause_probes(vmi.annotation("kubevirt.io/pause-guest-agent-probes"));
        if synced.is_ok() {
            vm.guest.propagate_credentials(&vmi, &vm.metadata, &self.boot.root);
        }
        synced
    }
}

/// MigrateVirtualMachine.
fn migrate(migrations: &Migrations, request: MigrateRequest) -> Result<(), Error> {
    let MigrateRequest { vmi, options } = request;
    let options = MigrationOptions::parse(&options).map_err(|error| {
        Error::other(format!("no valid migration options object present in command server request: {error}"))
    })?;
    migrations.outgoing.migrate(outgoing::Order { vmi, options })
}

/// Why this pod never receives a VM, which ends it and with it the migration: what its hypervisor does not do today it does not
/// do later. After any other error virt-handler asks again.
fn never(error: &Error) -> Option<String> {
    match error {
        Error::Unsupported(why) => Some(why.clone()),
        Error::Libvirt(_)
        | Error::During { .. }
        | Error::Vmi(_)
        | Error::Storage(_)
        | Error::NotNow(_)
        | Error::DomainNotFound
        | Error::InvalidCheckpoint(_)
        | Error::Other(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::VirError;

    #[test]
    fn a_target_s_pod_ends_for_what_its_hypervisor_does_not_do_and_for_nothing_else() {
        let error = VirError { code: 38, domain: 10, message: "m".into() };
        assert_eq!(never(&Error::Unsupported("no migration".into())).as_deref(), Some("no migration"));
        for error in [
            Error::Libvirt(error.clone()),
            Error::During { context: "c".into(), error },
            Error::vmi("v"),
            Error::storage("s"),
            Error::not_now("later"),
            Error::DomainNotFound,
            Error::InvalidCheckpoint("i".into()),
            Error::other("o"),
        ] {
            assert_eq!(never(&error), None, "{error:?}");
        }
    }
}
