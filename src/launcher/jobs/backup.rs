//! BackupVirtualMachine and RedefineCheckpoint (contract/cmd-server.md 7.3, 7.5): libvirt copies the disks of a running
//! VM, or serves them; a checkpoint remembers from where the next backup may go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

use super::Jobs;
use super::backup_begin::{Steps, begin, edit, is_refusal, is_running};
use super::backup_documents::{Disk, backup_xml, checkpoint_xml, disks, stamp, volumes};
use crate::cmd::{BackupCommand, BackupRequest, BackupStart, Checkpoint, FreezeRequest};
use crate::domain::{BackupMetadata, DomainSpec, Time};
use crate::files::{Folder, with_deadline};
use crate::hypervisor::ControlError;
use crate::launcher::error::Error;
use crate::launcher::vm::{Vm, domain_xml};
use crate::libvirt::{JobOperation, JobStats, JobType, code};
use crate::vmi::VirtualMachineInstance;

/// From the order to begin a backup to its answer: below the client's 20 s, so that it learns that the work goes on.
const ANSWER: Duration = Duration::from_secs(18);

/// Codes of checkpoints that are not there, not valid, not consistent.
const BAD_CHECKPOINT: [i32; 3] =
    [code::NO_DOMAIN_CHECKPOINT, code::INVALID_DOMAIN_CHECKPOINT, code::CHECKPOINT_INCONSISTENT];

/// A backup whose end has not been reported.
fn lost() -> JobStats {
    JobStats { job_type: JobType::Failed, operation: JobOperation::BACKUP, ..JobStats::default() }
}

impl Jobs {
    /// BackupVirtualMachine.
    pub async fn backup(&self, request: BackupRequest) -> Result<(), Error> {
        let BackupRequest { vmi, command } = request;
        match command {
            BackupCommand::Start(start) => self.start_backup(vmi, start).await,
            BackupCommand::Abort { name, started } => self.abort_backup(&name, started).await,
            BackupCommand::Export { name, started, to } => {
                let metadata = self.vm.metadata.snapshot();
                ongoing(metadata.backup.as_ref(), &name, Some(started)).map_err(Error::not_now)?;
                self.exports.begin(&name, started, to)
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
    async fn start_backup(&self, vmi: VirtualMachineInstance, start: BackupStart) -> Result<(), Error> {
        let until = Instant::now() + ANSWER;
        // A second call while a backup begins does not wait for the first.
        if !self.admits(&start)? {
            return Ok(());
        }
        let alone = timeout(self.vm.connection.deadlines().read, Arc::clone(&self.backup).lock_owned()).await;
        let alone = alone.map_err(|_| Error::not_now("the outcome of another backup is not known yet"))?;
        if !self.admits(&start)? {
            return Ok(());
        }
        let disks = disks(&self.live_spec().await?);
        let checkpoint = format!("{}-{}", start.name, stamp(start.started));
        let folder = start.target_path.join(&vmi.metadata.name).join(&checkpoint);
        make_folder(folder.clone(), until).await?;
        let backup = BackupMetadata {
            name: start.name.clone(),
            mode: if start.pull { "Pull" } else { "Push" }.to_owned(),
            skip_quiesce: start.skip_quiesce,
            start_timestamp: Some(start.started),
            checkpoint_name: checkpoint.clone(),
            volumes: volumes(&disks),
            ..BackupMetadata::default()
        };
        self.vm.metadata.edit(|metadata| metadata.backup = Some(backup.clone()));
        let source = Source {
            backup_xml: backup_xml(&start, &checkpoint, &folder, &disks),
            checkpoint_xml: checkpoint_xml(&checkpoint, None, &disks),
            vm: self.vm.clone(),
            vmi,
        };
        let jobs = self.clone();
        // Its own task: also without a waiting caller the guest must be thawed and libvirt's answer be read.
        let begun = tokio::spawn(async move {
            let still = jobs.vm.connection.deadlines().control;
            let begun = begin(&source, &jobs.vm.metadata, &backup, still).await;
            drop(alone);
            match &begun {
                Ok(()) => {}
                Err(error) if is_refusal(error) => {
                    let removed = folder.clone();
                    let removed = with_deadline(ANSWER, move || std::fs::remove_dir(removed)).await;
                    if let Err(why) = removed.and_then(|removed| removed.map_err(|error| error.to_string())) {
                        tracing::warn!("{} of a backup that did not begin stays: {why}", folder.display());
                    }
                }
                Err(error) => {
                    tracing::warn!("whether backup {} has begun is not known: {error}", backup.name);
                    jobs.settle(&backup).await;
                }
            }
            begun.map_err(|error| Error::other(error.to_string()))
        });
        match timeout_at(until, begun).await {
            Ok(Ok(begun)) => begun,
            Ok(Err(gone)) => Err(Error::other(format!("the beginning of backup {} was given up: {gone}", start.name))),
            Err(_) => Err(Error::other(format!(
                "backup {} has not begun within {} s; its beginning goes on",
                start.name,
                ANSWER.as_secs()
            ))),
        }
    }

    /// Whether a backup is to begin; false if it runs already.
    fn admits(&self, start: &BackupStart) -> Result<bool, Error> {
        let metadata = self.vm.metadata.snapshot();
        if metadata.migration_under_way().is_some() {
            return Err(Error::not_now("failed to do backup, VMI is currently during migration"));
        }
        admitted(metadata.backup.as_ref(), start)
    }

    async fn abort_backup(&self, name: &str, started: Option<Time>) -> Result<(), Error> {
        let failed = |why: String| Error::other(format!("failed to abort backup: {why}"));
        let metadata = self.vm.metadata.snapshot();
        ongoing(metadata.backup.as_ref(), name, started).map_err(|why| failed(why.to_owned()))?;
        let running = self.vm.control.job_stats().await.map_err(|error| failed(error.to_string()))?;
        if (running.operation, running.job_type) != (JobOperation::BACKUP, JobType::Unbounded) {
            let why =
                format!("cannot abort backup, wrong operation or type: {}, {}", running.operation, running.job_type);
            return Err(failed(why));
        }
        self.vm.control.abort_job().await.map_err(|error| failed(error.to_string()))
    }

    /// libvirt reported the end of a backup job: its outcome goes to the metadata; returns true if there was one
    /// to note. The caller notifies virt-handler.
    pub async fn backup_ended(&self, told: JobStats) -> bool {
        let metadata = self.vm.metadata.snapshot();
        let Some(backup) = metadata.backup.filter(is_running) else { return false };
        let stats = match self.vm.control.completed_job_stats().await {
            Ok(stats) if stats.job_type != JobType::None => JobStats { error: stats.error.or(told.error), ..stats },
            Ok(_) | Err(_) => told,
        };
        edit(&self.vm.metadata, &backup, |now| end(now, &stats));
        true
    }

    /// The end of a backup, or whether it has begun at all, may have been missed: the connection is new, or libvirt did
    /// not answer. True if one is noted now. One that begins is waited for: libvirt does not know of it yet.
    pub async fn backup_may_have_ended(&self) -> bool {
        let _alone = self.backup.lock().await;
        if !self.vm.metadata.snapshot().backup.as_ref().is_some_and(is_running) {
            return false;
        }
        match self.vm.control.job_stats().await {
            Ok(stats) if stats.job_type == JobType::None => self.backup_ended(lost()).await,
            Ok(_) => false,
            Err(error) => {
                tracing::warn!("whether the backup goes on cannot be asked: {error}");
                false
            }
        }
    }

    /// Notes a backup as failed whose beginning libvirt did not confirm, unless it goes on. What libvirt knows of the job that
    /// ended last may be an earlier one's.
    async fn settle(&self, backup: &BackupMetadata) {
        match self.vm.control.job_stats().await {
            Ok(stats) if stats.job_type == JobType::None => edit(&self.vm.metadata, backup, |now| end(now, &lost())),
            Ok(_) => {}
            // The next connection looks.
            Err(error) => tracing::warn!("whether the backup goes on cannot be asked: {error}"),
        }
    }

    /// RedefineCheckpoint.
    pub async fn redefine_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let (control, domain, name) = (&self.vm.control, &self.vm.domain, &checkpoint.name);
        let exists = control.exists().await;
        let lookup = |error: String| Error::other(format!("failed to lookup domain {domain}: {error}"));
        match exists {
            Ok(true) => {}
            Ok(false) => return Err(lookup("no such domain".to_owned())),
            Err(error) => return Err(lookup(error.to_string())),
        }
        let spec = self.live_spec().await;
        let spec = spec.map_err(|error| Error::other(format!("failed to get domain disks: {error}")))?;
        let nodes = control.block_nodes().await;
        let nodes = nodes.map_err(|error| Error::other(format!("failed to query bitmaps: {error}")))?;
        let nodes: Value = serde_json::from_str(&nodes)
            .map_err(|error| Error::other(format!("failed to query bitmaps: QEMU's answer: {error}")))?;
        let with_bitmap: Vec<Disk> = disks(&spec)
            .into_iter()
            .map(|disk| match disk.tracked.as_ref().is_some_and(|(_, overlay)| has_bitmap(&nodes, overlay, name)) {
                true => disk,
                false => Disk { tracked: None, ..disk },
            })
            .collect();
        if with_bitmap.iter().all(|disk| disk.tracked.is_none()) {
            return Err(Error::InvalidCheckpoint(format!("no disks found with checkpoint bitmap {name}")));
        }
        let xml = checkpoint_xml(name, checkpoint.created, &with_bitmap);
        control.redefine_checkpoint(&xml).await.map_err(|error| {
            let text = format!("failed to redefine checkpoint {name}: {error}");
            match error.code().is_some_and(|code| BAD_CHECKPOINT.contains(&code)) {
                true => Error::InvalidCheckpoint(text),
                false => Error::other(text),
            }
        })
    }

    async fn live_spec(&self) -> Result<DomainSpec, Error> {
        let snapshot = self.vm.control.snapshot().await?;
        let xml = snapshot.xml.ok_or_else(|| Error::other("libvirt does not tell the domain's XML"))?;
        domain_xml::read(&xml)
    }
}

/// The folder of a backup's files.
async fn make_folder(folder: PathBuf, until: Instant) -> Result<(), Error> {
    let failed = |why: String| Error::storage(format!("error creating dir for backup: {why}"));
    let left = until.saturating_duration_since(Instant::now());
    let made = with_deadline(left, move || make_without_links(&folder)).await.map_err(failed)?;
    made.map_err(|error| failed(error.to_string()))
}

/// The claim's owner may have put a link where a file is to come, and libvirt would write through it.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
fn make_without_links(folder: &Path) -> std::io::Result<()> {
    Folder::make(folder, 0o755)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            return Err(std::io::Error::other(format!("{} is a symbolic link", entry.path().display())));
        }
    }
    Ok(())
}

/// The VM whose disks are to be copied.
struct Source {
    vm: Vm,
    vmi: VirtualMachineInstance,
    backup_xml: String,
    checkpoint_xml: String,
}

impl Steps for Source {
    async fn freeze(&self) -> Result<(), Error> {
        let request = FreezeRequest { vmi: self.vmi.clone(), unfreeze_timeout_seconds: 0 };
        // Within what the client of a backup waits; a freeze of its own may take longer.
        let within = self.vm.connection.deadlines().control;
        self.vm.guest.freeze_within(within, request, &self.vm.metadata.snapshot()).await
    }

    async fn begin(&self) -> Result<(), ControlError> {
        self.vm.control.backup_begin(&self.backup_xml, &self.checkpoint_xml).await
    }

    async fn thaw(&self) -> Result<(), Error> {
        self.vm.guest.unfreeze().await
    }
}

/// Whether a backup is to begin after the last one that is on record; false if it runs already.
fn admitted(known: Option<&BackupMetadata>, start: &BackupStart) -> Result<bool, Error> {
    let Some(known) = known.filter(|known| !known.name.is_empty()) else { return Ok(true) };
    let name = &start.name;
    match (is_same(known, name, Some(start.started)), known.end_timestamp) {
        (true, None) => Ok(false),
        (true, Some(ended)) => Err(Error::other(format!(
            "backup {name} that started at {} already executed, finished at {}, completed: {}",
            start.started.in_messages(),
            ended.in_messages(),
            known.completed
        ))),
        (false, Some(_)) => Ok(true),
        (false, None) => {
            Err(Error::not_now(format!("backup {} already in progress, need to wait for completion", known.name)))
        }
    }
}

/// Whether the backup that is meant goes on, or why not.
fn ongoing(known: Option<&BackupMetadata>, name: &str, started: Option<Time>) -> Result<(), &'static str> {
    let Some(known) = known.filter(|known| !known.name.is_empty()) else { return Err("could not find ongoing backup") };
    if known.start_timestamp.is_none() {
        return Err("backup did not start yet");
    }
    if !is_same(known, name, started) {
        return Err("requested backup differs from ongoing one");
    }
    if known.end_timestamp.is_some() || known.completed {
        return Err("backup already completed");
    }
    Ok(())
}

fn is_same(known: &BackupMetadata, name: &str, started: Option<Time>) -> bool {
    // What was a time with a fraction of a second has lost it on its way through JSON.
    known.name == name && known.start_timestamp.map(|time| time.unix()) == started.map(|time| time.unix())
}

/// Notes how a backup ended.
fn end(backup: &mut BackupMetadata, stats: &JobStats) {
    let pull = backup.mode == "Pull";
    let (failed, mut message) = match stats.job_type {
        JobType::Completed => (false, String::new()),
        JobType::Cancelled if pull => (false, String::new()),
        JobType::Cancelled => (true, "backup aborted".to_owned()),
        JobType::Failed => (true, String::new()),
        other => (true, format!("unexpected job completion type: {other}")),
    };
    let expected = |error: &str| pull && error.contains("Operation canceled");
    if let Some(error) = stats.error.as_deref().filter(|error| !error.is_empty() && !expected(error)) {
        if !message.is_empty() {
            message.push_str(": ");
        }
        message.push_str(error);
    }
    if failed && message.is_empty() {
        message = "unknown failure reason".to_owned();
    }
    backup.completed = true;
    backup.failed = failed;
    backup.backup_msg = message;
    backup.end_timestamp = Some(Time::now());
}

/// Whether QEMU knows a usable dirty bitmap `name` in the image `overlay`.
fn has_bitmap(nodes: &Value, overlay: &str, name: &str) -> bool {
    let nodes = nodes.get("return").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    nodes.iter().any(|node| {
        let file = node.get("file").and_then(Value::as_str).unwrap_or_default();
        let bitmaps = node.get("dirty-bitmaps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        is_image(file, overlay)
            && bitmaps.iter().any(|bitmap| {
                bitmap.get("name").and_then(Value::as_str) == Some(name)
                    && bitmap.get("inconsistent").and_then(Value::as_bool) != Some(true)
            })
    })
}

/// QEMU names an image by its path, or by a JSON description if it was opened with options.
fn is_image(file: &str, path: &str) -> bool {
    match file.strip_prefix("json:") {
        None => file == path,
        Some(description) => {
            let description: Value = serde_json::from_str(description).unwrap_or_default();
            let place = description.pointer("/file/filename").and_then(Value::as_str);
            place.map(PathBuf::from) == Some(PathBuf::from(path))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::backup_documents::tests::{start, time};
    use super::*;

    #[test]
    fn link_in_the_place_of_a_backup_to_come_is_refused() {
        let claim = tempfile::tempdir().unwrap();
        let folder = claim.path().join("vm/backup");
        make_without_links(&folder).unwrap();
        std::fs::write(folder.join("b-data.qcow2"), "of an earlier attempt").unwrap();
        make_without_links(&folder).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.join("b-root.qcow2")).unwrap();
        let text = make_without_links(&folder).unwrap_err().to_string();
        assert!(text.ends_with("b-root.qcow2 is a symbolic link"), "{text}");
    }

    #[test]
    fn one_backup_at_a_time_and_each_once() {
        let wanted = start("b", false);
        assert!(admitted(None, &wanted).unwrap());
        assert!(admitted(Some(&BackupMetadata::default()), &wanted).unwrap(), "the last one did not begin");
        let running = BackupMetadata {
            name: "b".into(),
            start_timestamp: Some(wanted.started),
            mode: "Push".into(),
            ..BackupMetadata::default()
        };
        assert!(!admitted(Some(&running), &wanted).unwrap());
        let said = admitted(Some(&running), &start("c", false)).unwrap_err().message();
        assert_eq!(said, "backup b already in progress, need to wait for completion");
        let ended =
            BackupMetadata { end_timestamp: Some(time("2026-01-02T14:00:00Z")), completed: true, ..running.clone() };
        assert!(admitted(Some(&ended), &start("c", false)).unwrap());
        let said = admitted(Some(&ended), &wanted).unwrap_err().message();
        assert_eq!(
            said,
            "backup b that started at 2026-01-02 13:04:05 +0000 UTC already executed, finished at 2026-01-02 14:00:00 +0000 UTC, completed: true"
        );
        let started = Some(wanted.started);
        assert_eq!(ongoing(None, "b", started), Err("could not find ongoing backup"));
        assert_eq!(ongoing(Some(&running), "c", started), Err("requested backup differs from ongoing one"));
        assert_eq!(ongoing(Some(&ended), "b", started), Err("backup already completed"));
        assert_eq!(ongoing(Some(&running), "b", started), Ok(()));
        let unstarted = BackupMetadata { start_timestamp: None, ..running };
        assert_eq!(ongoing(Some(&unstarted), "b", started), Err("backup did not start yet"));
    }

    #[test]
    fn end_is_reported_as_documented() {
        let ended = |mode: &str, job_type: JobType, error: Option<&str>| {
            let mut backup = BackupMetadata { name: "b".into(), mode: mode.into(), ..BackupMetadata::default() };
            let error = error.map(str::to_owned);
            end(&mut backup, &JobStats { job_type, operation: JobOperation::BACKUP, error, ..JobStats::default() });
            assert!(backup.completed && backup.end_timestamp.is_some());
            (backup.failed, backup.backup_msg)
        };
        assert_eq!(ended("Push", JobType::Completed, None), (false, String::new()));
        assert_eq!(
            ended("Push", JobType::Cancelled, Some("Operation canceled")),
            (true, "backup aborted: Operation canceled".into())
        );
        assert_eq!(ended("Pull", JobType::Cancelled, Some("Operation canceled")), (false, String::new()));
        assert_eq!(ended("Push", JobType::Failed, Some("no space")), (true, "no space".into()));
        assert_eq!(ended("Push", JobType::Failed, None), (true, "unknown failure reason".into()));
        assert_eq!(ended("Push", JobType::Bounded, None), (true, "unexpected job completion type: 1".into()));
    }

    #[test]
    fn bitmaps_are_found_in_the_image_that_has_them() {
        let nodes = json!({ "return": [
            { "file": "/cbt/a.qcow2", "dirty-bitmaps": [{ "name": "c1" }, { "name": "c2", "inconsistent": true }] },
            { "file": "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/cbt/b.qcow2\"}}",
              "dirty-bitmaps": [{ "name": "c3", "inconsistent": false }] },
            { "file": "/cbt/none.qcow2" },
        ]});
        assert!(has_bitmap(&nodes, "/cbt/a.qcow2", "c1") && has_bitmap(&nodes, "/cbt/b.qcow2", "c3"));
        for (image, name) in [("/cbt/a.qcow2", "c2"), ("/cbt/a.qcow2", "c3"), ("/cbt/none.qcow2", "c1")] {
            assert!(!has_bitmap(&nodes, image, name), "{image} {name}");
        }
        assert!(!has_bitmap(&json!(7), "/cbt/a.qcow2", "c1"));
    }
}
