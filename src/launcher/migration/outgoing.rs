//! A migration of the VM to another node: its order, its one task, its end (contract/migration.md 4.2, 5, 7.6).
//!
//! The answer to the order says only that the task has begun; virt-handler reads how it goes in the record. Whatever ends the
//! task, the record gets an end, in the state file before anybody is told.

mod outcome;

use std::collections::HashMap;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::document::{migrated_images, migration_xml};
use super::monitor::{Monitor, Started};
use super::options::MigrationOptions;
use super::parameters::{Request, destination, parameters};
use super::policy::{Facts, Policy};
use super::saved::SavedOutgoing;
use super::volumes::disks_to_copy;
use crate::domain::{DomainSpec, DomainState, HostDevice, LifeCycle};
use crate::files::with_deadline;
use crate::hypervisor::{ControlError, XmlKind};
use crate::launcher::config::Config;
use crate::launcher::error::Error;
use crate::launcher::publish::domain_log::DomainLog;
use crate::launcher::sync::live::host_devices;
use crate::launcher::vm::Vm;
use crate::launcher::vm::migration_record::{self as record, ABORTED, AbortStatus, Begun};
use crate::launcher::vm::state_file::StateFile;
use crate::libvirt::{self, Migration};
use crate::vmi::VirtualMachineInstance;

/// How long the target's libvirt daemon may take to answer.
const REACH: Duration = Duration::from_secs(10);
/// How long files on storage may be measured.
const MEASURING: Duration = Duration::from_secs(10);
/// The reason in the record of a migration whose launcher, or whose libvirt, did not see it to its end.
const LOST: &str = "the launcher or its libvirt daemon ended during the migration";

/// MigrateVirtualMachine.
#[derive(Debug)]
pub struct Order {
    pub vmi: VirtualMachineInstance,
    pub options: MigrationOptions,
}

/// Migrations of the one VM to other nodes, one at a time. Clones share everything.
#[derive(Clone)]
pub struct Outgoing {
    vm: Vm,
    /// Parent of virt-handler's migration sockets.
    share_dir: PathBuf,
    /// Its files come along with the memory.
    ephemeral_disk_dir: PathBuf,
    state_file: StateFile,
    domain_log: DomainLog,
    current: Arc<Mutex<Option<Current>>>,
    /// libvirt begins to send memory once more.
    iterations: Arc<Notify>,
}

/// The migration that is under way.
struct Current {
    uid: String,
    /// Somebody wants it to end.
    abort: watch::Sender<bool>,
}

/// One migration's task.
#[derive(Clone)]
struct Task {
    uid: String,
    order: SavedOutgoing,
    abort: watch::Receiver<bool>,
    started: Started,
}

impl Outgoing {
    /// No migration is under way.
    pub fn new(vm: Vm, config: &Config, state_file: StateFile, domain_log: DomainLog) -> Self {
        let (share_dir, ephemeral_disk_dir) = (config.kubevirt_share_dir.clone(), config.ephemeral_disk_dir.clone());
        let (current, iterations) = Default::default();
        Outgoing { vm, share_dir, ephemeral_disk_dir, state_file, domain_log, current, iterations }
    }

    /// libvirt begins to send memory once more.
    pub fn iteration_begins(&self) {
        self.iterations.notify_one();
    }

    /// MigrateVirtualMachine: begins the task.
    pub fn migrate(&self, order: Order) -> Result<(), Error> {
        let Order { vmi, options } = order;
        let status = &vmi.status;
        if let Some(backup) =
            status.changed_block_tracking.as_ref().and_then(|tracking| tracking.backup_status.as_ref())
        {
            let name = &backup.backup_name;
            return Err(Error::not_now(format!("cannot migrate VMI until backup {name} is completed")));
        }
        if status.migration_state.is_none() {
            return Err(Error::not_now("cannot migrate VMI until migrationState is ready"));
        }
        let uid = status.migration_uid().to_owned();
        if let Some(other) = self.vm.metadata.snapshot().migration_under_way().filter(|other| other.uid != uid) {
            return Err(Error::not_now(format!("cannot migrate VMI: migration {} is under way", other.uid)));
        }
        if record::begin(&self.vm.metadata, &uid)? == Begun::Before {
            return Ok(());
        }
        let order = SavedOutgoing { vmi, options, policy: None };
        order.keep(&self.state_file);
        tracing::info!("migration {uid}: begun");
        self.spawn(uid, order, Started::now(), Outgoing::carry_out);
        Ok(())
    }

    /// Goes on with a migration that an earlier launcher began and that has no end. Without the order, which that launcher could
    /// not keep, nobody decides how it goes: it can be cancelled, and its end is told.
    pub fn go_on(&self, order: Option<SavedOutgoing>) {
        let metadata = self.vm.metadata.snapshot();
        let Some(record) = metadata.migration_under_way() else { return };
        let order = order.unwrap_or_else(|| {
            tracing::warn!("migration {}: its order was lost: this launcher waits for its end", record.uid);
            SavedOutgoing::default()
        });
        let started = Started::at(record.start_timestamp.as_ref());
        // A daemon that begins anew ends a hypervisor whose guest has gone.
        self.vm.tracker.expect_end();
        self.spawn(record.uid.clone(), order, started, Outgoing::follow);
    }

    /// CancelVirtualMachineMigration, which always succeeds: what came of it is in the record (contract/migration.md 7.5).
    pub fn abort(&self) {
        let metadata = self.vm.metadata.snapshot();
        if !record::may_be_aborted(&metadata) {
            return tracing::info!("there is no migration to abort");
        }
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Current { uid, abort }) = current.as_ref() {
            record::set_abort_status(&self.vm.metadata, uid, AbortStatus::Aborting);
            abort.send_replace(true);
        }
    }

    /// Begins the task of a migration. The record gets an end however the task ends: if it panics, what goes on in libvirt is
    /// followed to its end.
    fn spawn<F>(&self, uid: String, order: SavedOutgoing, started: Started, work: impl FnOnce(Outgoing, Task) -> F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (abort, wanted) = watch::channel(false);
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Current { uid: uid.clone(), abort });
        let task = Task { uid, order, abort: wanted, started };
        let first = tokio::spawn(work(self.clone(), task.clone()));
        let own = self.clone();
        tokio::spawn(async move {
            let outcome = match first.await {
                Ok(outcome) => outcome,
                Err(error) => {
                    tracing::error!(reason = %error, "migration {}: its task ended, following it to its end", task.uid);
                    let again = tokio::spawn(own.clone().follow(task.clone())).await;
                    again.unwrap_or_else(|error| Err(format!("{LOST}: {error}")))
                }
            };
            own.end(&task.uid, outcome);
        });
    }

    async fn carry_out(self, mut task: Task) -> Result<(), String> {
        self.attempt(&mut task).await
    }

    /// The whole migration; the error is the reason in the record.
    async fn attempt(&self, task: &mut Task) -> Result<(), String> {
        let vm = &self.vm;
        let vmi = task.order.vmi.clone();
        if vmi.annotation("kubevirt.io/func-test-force-launcher-migration-failure").is_some() {
            return Err("Failed migration to satisfy functional test condition".to_owned());
        }
        let state = vm.control.state().await.map_err(|error| format!("failed to retrive domain state: {error}"))?;
        let mut unplugged = Vec::new();
        let outcome = match self.unplug(&vmi, &mut unplugged).await {
            Ok(()) => self.transfer(task, &vmi, state).await,
            Err(why) => Err(format!("error encountered during preparing domain for migration: {why}")),
        };
        if outcome.is_err() {
            host_devices::plug_again(vm, &unplugged).await;
        }
        outcome
    }

    /// Takes from the guest what cannot come along. It must not lose its network for a target that does not answer
    /// (contract/migration.md 16, M20).
    async fn unplug(&self, vmi: &VirtualMachineInstance, taken: &mut Vec<HostDevice>) -> Result<(), String> {
        let devices = host_devices::sriov(&self.vm).await.map_err(|failure| failure.message().to_owned())?;
        if devices.is_empty() {
            return Ok(());
        }
        libvirt::reach(destination(&self.share_dir, vmi), REACH).await.map_err(|error| error.to_string())?;
        let unplugged = host_devices::unplug(&self.vm, devices, taken).await;
        unplugged.map_err(|failure| failure.message().to_owned())
    }

    async fn transfer(&self, task: &mut Task, vmi: &VirtualMachineInstance, state: DomainState) -> Result<(), String> {
        let (migration, facts) = self
            .prepared(task, vmi, state)
            .await
            .map_err(|why| format!("error encountered while generating migration parameters: {why}"))?;
        let vm = &self.vm;
        if *task.abort.borrow() {
            record::set_abort_status(&vm.metadata, &task.uid, AbortStatus::Succeeded);
            return Err(ABORTED.to_owned());
        }
        let policy = Policy::new(&task.order.options, &facts);
        task.order.policy = Some((facts, policy.saved()));
        task.order.keep(&self.state_file);
        // libvirt ends this hypervisor once the other one runs.
        vm.tracker.expect_end();
        let mut monitor = self.monitor(task, facts, policy);
        let call = vm.control.migrate(migration);
        let result = tokio::select! {
            result = call => Some(result),
            () = monitor.watch() => None,
        };
        match (result, monitor.settle().await) {
            (Some(Ok(())), _) => Ok(()),
            (None, aborted) => Err(aborted.unwrap_or_else(|| ABORTED.to_owned())),
            (Some(Err(_)), Some(aborted)) => self.settle(vmi, aborted).await,
            (Some(Err(error)), None) => self.settle(vmi, failure_text(&error)).await,
        }
    }

    /// Watches a migration that an earlier connection to libvirt, or an earlier launcher, began, to its end.
    async fn follow(self, task: Task) -> Result<(), String> {
        let (facts, saved) = task.order.policy.clone().unwrap_or_default();
        let policy = Policy::restored(&task.order.options, &facts, saved);
        let mut monitor = self.monitor(&task, facts, policy);
        let mut aborted = None;
        // Before libvirt answers, nothing is known of its job.
        self.wait_for_libvirt().await;
        if monitor.has_job().await {
            self.vm.tracker.expect_end();
            monitor.watch_to_the_end().await;
            aborted = monitor.settle().await;
        }
        self.settle(&task.order.vmi, aborted.unwrap_or_else(|| LOST.to_owned())).await
    }

    fn monitor(&self, task: &Task, facts: Facts, policy: Policy) -> Monitor {
        Monitor {
            vm: self.vm.clone(),
            state_file: self.state_file.clone(),
            uid: task.uid.clone(),
            order: task.order.clone(),
            facts,
            policy,
            started: task.started,
            iterations: Arc::clone(&self.iterations),
            abort: task.abort.clone(),
            wish: None,
            aborted: None,
            passes: 0,
            question: None,
        }
    }

    fn end(&self, uid: &str, outcome: Result<(), String>) {
        let vm = &self.vm;
        if outcome.is_err() {
            vm.tracker.expect_no_end();
        }
        let metadata = vm.metadata.snapshot();
        if metadata.migration_under_way().is_some_and(|record| AbortStatus::of(record) == Some(AbortStatus::Aborting)) {
            // Too late, or libvirt has not told.
            record::set_abort_status(&vm.metadata, uid, AbortStatus::Failed);
        }
        match &outcome {
            Ok(()) => tracing::info!("migration {uid}: the guest runs at the target"),
            Err(reason) => tracing::error!(reason, "migration {uid}: failed"),
        }
        record::end(&vm.metadata, uid, outcome.err());
        vm.migration_progress.set(None);
        self.state_file.keep_migration(None);
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.uid == uid) {
            *current = None;
        }
    }

    /// What to call libvirt with, and what the policy has to know. After the SR-IOV devices have gone, so that the XML does not
    /// have them.
    async fn prepared(
        &self,
        task: &Task,
        vmi: &VirtualMachineInstance,
        state: DomainState,
    ) -> Result<(Migration, Facts), String> {
        let vm = &self.vm;
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let live = vm.control.xml(XmlKind::Migratable).await.map_err(|error| told(&error))?;
        let images = migrated_images(&live, vmi).map_err(|error| told(&error))?;
        let sizes = with_deadline(MEASURING, move || {
            images
                .into_iter()
                .map(|image| Ok((image.volume, size(&image.path)?)))
                .collect::<Result<HashMap<_, _>, String>>()
        });
        let sizes = sizes.await.map_err(|why| told(&why))??;
        let xml = migration_xml(&live, vmi, &sizes).map_err(|error| told(&error))?;
        let full = vm.control.xml(XmlKind::Current).await.map_err(|error| told(&error))?;
        let domain = DomainSpec::from_xml(&full).map_err(|error| told(&error))?;
        let disks = match vmi.status.is_block_migration() {
            true => disks_to_copy(&domain.devices.disks, vmi),
            false => Vec::new(),
        };
        let mut made = parameters(&Request {
            vmi,
            options: &task.order.options,
            share_dir: &self.share_dir,
            state,
            disks: &disks,
            xml: &xml,
        });
        for note in &made.notes {
            tracing::warn!("migration {}: {note}", task.uid);
        }
        if made.call.flags.compressed {
            // KubeVirt's tests wait for this line.
            tracing::info!("Migration compression enabled: method=zstd");
        }
        let folder = self.ephemeral_disk_dir.clone();
        let ephemeral = with_deadline(MEASURING, move || bytes_below(&folder)).await.unwrap_or_default();
        let facts = Facts::of(vmi, ephemeral);
        if facts.vfio && made.call.flags.post_copy {
            // QEMU would refuse the whole migration.
            made.call.flags.post_copy = false;
            tracing::warn!("migration {}: post-copy is left out: the guest has host devices", task.uid);
        }
        let facts = Facts {
            paused: state.status == LifeCycle::Paused,
            post_copy_armed: made.call.flags.post_copy,
            iteration_events: true,
            ..facts
        };
        Ok((made.call, facts))
    }
}

/// The record's reason.
fn failure_text(error: &ControlError) -> String {
    const SMALLER: &str = "has to be smaller or equal to the actual size of the containing file";
    let text = error.to_string();
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.contains(SMALLER) {
        true => format!(
            "Volume migration cannot be performed because the destination volume is smaller than the source volume: {text}"
        ),
        false => text,
    }
}

/// Bytes of a raw image or a block device. Claims hold no other images.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
fn size(path: &str) -> Result<u64, String> {
    let measured = std::fs::File::open(path).and_then(|mut image| image.seek(SeekFrom::End(0)));
    measured.map_err(|error| format!("cannot measure {path}: {error}"))
}

/// Bytes of all files below a folder; what cannot be read counts nothing.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
fn bytes_below(folder: &Path) -> u64 {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    let mut bytes: u64 = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) if found.is_file() => bytes = bytes.saturating_add(found.len()),
                Ok(_) | Err(_) => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests;
