//! A migration of the VM from another node to here: what comes before it, and how its end is seen (contract/migration.md 8).
//!
//! virt-handler repeats a refused SyncMigrationTarget every second for as long as the pod lives, and meanwhile the migration
//! neither fails nor can be cancelled. Only the pod's end is an answer that virt-controller understands. So a reason is of one
//! of two classes, and one that holds for the pod's whole life ends the pod.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::unistd::{Gid, Uid, fchown};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::hook;
use super::saved::{SavedIncoming, SavedMigration};
use super::sockets;
use crate::cmd::SyncRequest;
use crate::convert::HostFacts;
use crate::domain::{DomainState, LifeCycle, StateReason};
use crate::files::{Folder, with_deadline};
use crate::hooks::pre_migration::SOCKET;
use crate::hypervisor::XmlKind;
use crate::launcher::config::Config;
use crate::launcher::error::Error;
use crate::launcher::sync::means::Boot;
use crate::launcher::vm::Vm;
use crate::launcher::vm::metadata::note_vmi;
use crate::launcher::vm::migration_record as record;
use crate::launcher::vm::state_file::StateFile;
use crate::libvirt::{JobOperation, JobType};
use crate::vmi::VirtualMachineInstance;

const RPC: &str = "SyncMigrationTarget";
/// Between two looks at a migration that is about to end.
const SOON: Duration = Duration::from_millis(100);
/// Between two looks at one that goes on, beside those that libvirt's events are a reason for.
const LATER: Duration = Duration::from_secs(1);
/// How long the sockets' folder may take to be made.
const MAKING: Duration = Duration::from_secs(5);

/// What a look at the domain has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// The guest is this launcher's.
    Arrived,
    /// It has come, and libvirt is not through with the migration.
    Arriving,
    /// It has not come yet.
    NotYet,
}

/// The migration that brings the VM here. Clones share everything.
#[derive(Clone)]
pub struct Incoming {
    vm: Vm,
    config: Arc<Config>,
    state_file: StateFile,
    hook: Arc<hook::server::Server>,
    /// libvirt has sent an event of the domain.
    events: Arc<Notify>,
    is_watching: Arc<AtomicBool>,
    prepared: watch::Sender<Option<Instant>>,
}

impl Incoming {
    /// Nothing is expected.
    pub fn new(vm: Vm, config: Arc<Config>, state_file: StateFile) -> Self {
        let hook = Arc::new(hook::server::Server::new(SOCKET));
        let (events, is_watching) = Default::default();
        Incoming { vm, config, state_file, hook, events, is_watching, prepared: watch::Sender::new(None) }
    }

    /// When the pod was last prepared.
    pub fn prepared(&self) -> watch::Receiver<Option<Instant>> {
        self.prepared.subscribe()
    }

    /// libvirt has sent an event of the domain.
    pub fn note_event(&self) {
        self.events.notify_one();
    }

    /// SyncMigrationTarget: prepares the pod. A launcher that has, or had, a VM of its own never ends for the sake of a
    /// migration; one `without_daemon` cannot have one.
    pub async fn receive(&self, boot: &Boot, request: SyncRequest, without_daemon: bool) -> Result<(), Error> {
        let vm = &self.vm;
        let uid = request.vmi.status.migration_uid().to_owned();
        record::refuse_executed(&vm.metadata.snapshot(), &uid)?;
        let expected = self.state_file.state().incoming
            && vm.metadata.snapshot().migration_under_way().is_some_and(|record| record.uid == uid);
        let own = |what: &str| {
            let why = format!("{RPC}: this launcher cannot receive a virtual machine: {what}");
            Err(Error::not_now(why))
        };
        if vm.tracker.was_seen() {
            // A virt-handler that began anew repeats the order while the domain is on its way.
            return if expected { Ok(()) } else { own("it runs one itself") };
        }
        if !without_daemon {
            match vm.control.exists().await {
                Ok(true) if expected => return Ok(()),
                Ok(true) => return own("it has a domain"),
                Ok(false) => {}
                Err(error) => return own(&format!("it cannot see yet whether it has a domain: {error}")),
            }
        }
        if let Some(why) = boot.runtime.refusal(RPC) {
            return Err(Error::Unsupported(why));
        }
        let (vmi, facts) = boot.prepare_target(vm, request).await?;
        self.make_folder(boot).await?;
        self.expect(&vmi, facts.clone())?;
        self.state_file.change(|state| state.incoming = true);
        SavedMigration::Incoming(Box::new(SavedIncoming { vmi: vmi.clone(), facts })).keep(&self.state_file);
        vm.metadata.set(|metadata| note_vmi(metadata, &vmi));
        record::begin(&vm.metadata, &uid)?;
        if vmi.status.conditions.iter().any(|condition| condition.r#type == "Paused") {
            vm.paused.insert(&vmi.metadata.uid);
        }
        self.watch();
        Ok(())
    }

    /// Goes on with a migration that an earlier launcher prepared for. Without what that launcher could not keep, libvirt's hook
    /// is not answered: a migration that has not begun yet fails, one that has goes on.
    pub fn go_on(&self, saved: Option<SavedIncoming>) {
        if !self.state_file.state().incoming {
            return;
        }
        let expected = match saved {
            Some(saved) => self.expect(&saved.vmi, saved.facts),
            None => Err(Error::other("what the previous launcher prepared was lost")),
        };
        if let Err(failure) = expected {
            tracing::error!(reason = failure.message(), "a migration to this pod that has not begun will fail");
        }
        self.watch();
    }

    /// QEMU makes its sockets there.
    async fn make_folder(&self, boot: &Boot) -> Result<(), Error> {
        let (path, owner) = (sockets::folder(&self.config.kubevirt_share_dir), boot.owner);
        let shown = path.display().to_string();
        let made = with_deadline(MAKING, move || {
            let (folder, _) = Folder::make(&path, 0o755)?;
            let folder = folder.itself()?;
            let owner = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
            fchown(folder.as_fd(), owner.0, owner.1).map_err(std::io::Error::from)
        });
        let failed = |why: &dyn std::fmt::Display| Error::storage(format!("cannot make {shown}: {why}"));
        made.await.map_err(|why| failed(&why))?.map_err(|error| failed(&error))
    }

    /// Serves the pre-migration hook.
    fn expect(&self, vmi: &VirtualMachineInstance, facts: HostFacts) -> Result<(), Error> {
        let incoming = hook::Incoming {
            vmi: vmi.clone(),
            facts,
            upgrade_ordinal_interfaces: self.config.upgrade_ordinal_ifaces,
            vgpu: self.config.vgpu_dedicated_hook,
        };
        self.hook.expect(incoming).map_err(|error| Error::other(error.to_string()))
    }

    fn watch(&self) {
        self.prepared.send_replace(Some(Instant::now()));
        // A migration that fails, or is given up at the source, ends its hypervisor here.
        self.vm.tracker.expect_end();
        if self.is_watching.swap(true, Ordering::Relaxed) {
            return;
        }
        let own = self.clone();
        tokio::spawn(async move {
            own.until_arrived().await;
            own.is_watching.store(false, Ordering::Relaxed);
        });
    }

    async fn until_arrived(&self) {
        while self.vm.metadata.snapshot().migration_under_way().is_some() {
            match self.look().await {
                Seen::Arrived => return self.arrived().await,
                Seen::Arriving => sleep(SOON).await,
                // Before there is a hypervisor, libvirt reports all that happens.
                Seen::NotYet if self.vm.tracker.was_seen() => drop(timeout(LATER, self.events.notified()).await),
                Seen::NotYet => self.events.notified().await,
            }
        }
    }

    async fn look(&self) -> Seen {
        match self.vm.control.state().await {
            Ok(state) if is_down(state) => return Seen::Arrived,
            Ok(state) if is_here(state) => {}
            Ok(_) | Err(_) => return Seen::NotYet,
        }
        match self.vm.control.job_stats().await {
            Ok(stats) if stats.job_type == JobType::None || stats.operation != JobOperation::MIGRATION_IN => {
                Seen::Arrived
            }
            // While it goes on, libvirt has statistics at the source alone, and answers OPERATION_UNSUPPORTED.
            Ok(_) | Err(_) => Seen::Arriving,
        }
    }

    async fn arrived(&self) {
        let vm = &self.vm;
        self.define_as_it_runs().await;
        vm.tracker.expect_no_end();
        let metadata = vm.metadata.snapshot();
        let Some(record) = metadata.migration_under_way() else { return };
        tracing::info!("migration {}: the guest is here", record.uid);
        self.state_file.change(|state| state.incoming = false);
        record::end(&vm.metadata, &record.uid, None);
        self.state_file.keep_migration(None);
    }

    /// The definition that came along is the source's: its CPUs, taps and paths (contract/migration.md 16, M8).
    async fn define_as_it_runs(&self) {
        let vm = &self.vm;
        let live = vm.control.xml(XmlKind::SecureMigratable).await;
        let defined = match live {
            Ok(live) => vm.control.define(live).await,
            Err(error) => Err(error),
        };
        if let Err(error) = defined {
            tracing::warn!("the domain's definition stays as it was at the source: {error}");
        }
    }
}

/// The guest runs here, or is held here for its own reasons.
fn is_here(state: DomainState) -> bool {
    use StateReason::{Migration, Postcopy, PostcopyFailed, StartingUp};
    match state.status {
        LifeCycle::Running => true,
        LifeCycle::Paused => !matches!(state.reason, Migration | StartingUp | Postcopy | PostcopyFailed),
        _ => false,
    }
}

/// It came, and has ended since: what does not come leaves no domain.
fn is_down(state: DomainState) -> bool {
    matches!(state.status, LifeCycle::Shutoff | LifeCycle::Crashed) && state.reason != StateReason::Failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_is_here_when_it_runs_or_is_held_for_its_own_reasons() {
        let paused = |reason| is_here(DomainState::new(LifeCycle::Paused, reason));
        assert!(is_here(DomainState::RUNNING));
        assert!(paused(StateReason::User) && paused(StateReason::IoError));
        for reason in
            [StateReason::Migration, StateReason::StartingUp, StateReason::Postcopy, StateReason::PostcopyFailed]
        {
            assert!(!paused(reason), "{reason:?}");
        }
        assert!(!is_here(DomainState::new(LifeCycle::Shutoff, StateReason::Failed)));
    }
}
