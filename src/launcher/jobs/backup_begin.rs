//! How a backup begins (contract/cmd-server.md 7.3): the guest's file systems stand still while libvirt begins to copy the
//! disks, and are thawed whatever comes of it.
//!
//! What the reader can rely on: all that is known of a backup is on record before libvirt is asked, and nothing is written
//! to the record of one that has ended, so that an end which comes at once stays; only libvirt's own word takes the record
//! back.

use std::pin::pin;
use std::time::Duration;

use crate::domain::BackupMetadata;
use crate::hypervisor::ControlError;
use crate::launcher::error::Error;
use crate::launcher::vm::metadata::MetadataCache;
use crate::libvirt::{self, origin};

/// The VM whose disks are to be copied.
pub(super) trait Steps: Sync {
    /// Freezes the guest's file systems.
    fn freeze(&self) -> impl Future<Output = Result<(), Error>> + Send;
    /// `virDomainBackupBegin`.
    fn begin(&self) -> impl Future<Output = Result<(), ControlError>> + Send;
    /// Thaws the file systems.
    fn thaw(&self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Begins `backup`, which is on record already. The guest stands `still` for so long at most.
pub(super) async fn begin(
    steps: &impl Steps,
    cache: &MetadataCache,
    backup: &BackupMetadata,
    still: Duration,
) -> Result<(), ControlError> {
    let note = |status: &str, message: String| {
        edit(cache, backup, |record| {
            record.quiesce_status = status.to_owned();
            record.backup_msg = message;
        });
    };
    let mut begun = pin!(async {
        let begun = steps.begin().await;
        if begun.as_ref().is_err_and(is_refusal) {
            // Empty, so that the same may be tried again.
            edit(cache, backup, |record| *record = BackupMetadata::default());
        }
        begun
    });
    if backup.skip_quiesce {
        note("Skipped", String::new());
        return begun.await;
    }
    if let Err(failure) = steps.freeze().await {
        note("Failed", failure.to_string());
        return begun.await;
    }
    note("Succeeded", String::new());
    match tokio::time::timeout(still, &mut begun).await {
        Ok(begun) => {
            thaw(steps).await;
            begun
        }
        Err(_) => {
            let seconds = still.as_secs();
            note("Failed", format!("libvirt did not begin the backup within {seconds} s, the guest was thawed before"));
            tokio::join!(thaw(steps), begun).1
        }
    }
}

async fn thaw(steps: &impl Steps) {
    if let Err(failure) = steps.thaw().await {
        tracing::error!(reason = failure.to_string(), "the guest's file systems cannot be thawed after a backup began");
    }
}

/// Changes the record of `backup`, unless it has ended or another one has taken its place.
pub(super) fn edit(cache: &MetadataCache, backup: &BackupMetadata, change: impl FnOnce(&mut BackupMetadata)) {
    cache.edit(|metadata| {
        let same = |record: &&mut BackupMetadata| {
            is_running(record) && record.name == backup.name && record.start_timestamp == backup.start_timestamp
        };
        if let Some(record) = metadata.backup.as_mut().filter(same) {
            change(record);
        }
    });
}

/// Whether there is a backup that begins or goes on.
pub(super) fn is_running(backup: &BackupMetadata) -> bool {
    !backup.name.is_empty() && backup.end_timestamp.is_none()
}

/// Whether a backup surely does not begin. One that libvirt does not answer about may begin yet.
pub(super) fn is_refusal(error: &ControlError) -> bool {
    match error {
        ControlError::Libvirt(libvirt::Error::Libvirt(error)) => error.domain != origin::RPC,
        // Not even asked.
        ControlError::Libvirt(libvirt::Error::AgentBusy { .. } | libvirt::Error::Disconnected { .. })
        | ControlError::Hypervisor(_)
        | ControlError::Unsupported { .. } => true,
        ControlError::Libvirt(libvirt::Error::Deadline { .. } | libvirt::Error::Aborted { .. }) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::domain::Time;
    use crate::libvirt::VirError;

    const STILL: Duration = Duration::from_secs(12);

    /// A VM, and how long libvirt takes for what answer.
    struct Double {
        cache: MetadataCache,
        takes: Duration,
        answer: Result<(), ControlError>,
        /// The backup ends before libvirt has answered.
        ends: bool,
        start: Instant,
        thawed: Mutex<Option<Duration>>,
    }

    impl Steps for Double {
        async fn freeze(&self) -> Result<(), Error> {
            Ok(())
        }

        async fn begin(&self) -> Result<(), ControlError> {
            sleep(self.takes).await;
            if self.ends {
                self.cache.set(|metadata| {
                    let backup = metadata.backup.as_mut().unwrap();
                    (backup.completed, backup.failed, backup.backup_msg) = (true, true, "no space".to_owned());
                    backup.end_timestamp = Some(Time::now());
                });
            }
            self.answer.clone()
        }

        async fn thaw(&self) -> Result<(), Error> {
            *self.thawed.lock().unwrap() = Some(self.start.elapsed());
            Ok(())
        }
    }

    fn backup() -> BackupMetadata {
        BackupMetadata { name: "b".into(), start_timestamp: Time::from_unix(1), ..BackupMetadata::default() }
    }

    /// What is on record in the end, and when the guest was thawed.
    async fn record(takes: u64, answer: Result<(), ControlError>, ends: bool) -> (BackupMetadata, Option<Duration>) {
        let cache = MetadataCache::default();
        cache.set(|metadata| metadata.backup = Some(backup()));
        let (takes, start, thawed) = (Duration::from_secs(takes), Instant::now(), Mutex::default());
        let double = Double { cache, takes, answer: answer.clone(), ends, start, thawed };
        assert_eq!(begin(&double, &double.cache, &backup(), STILL).await, answer);
        let thawed = *double.thawed.lock().unwrap();
        (double.cache.snapshot().backup.unwrap(), thawed)
    }

    fn said(domain: i32) -> Result<(), ControlError> {
        Err(libvirt::Error::Libvirt(VirError { code: 1, domain, message: "m".into() }).into())
    }

    #[tokio::test(start_paused = true)]
    async fn slow_libvirt_is_no_failure_and_the_guest_does_not_wait_for_it() {
        let (record, thawed) = record(30, Ok(()), false).await;
        assert!(is_running(&record));
        assert_eq!(record.quiesce_status, "Failed", "the guest wrote before its disks were copied");
        assert_eq!(thawed, Some(STILL));
    }

    #[tokio::test(start_paused = true)]
    async fn only_libvirt_itself_takes_a_backup_back() {
        let after = Duration::from_secs(3600);
        let silence = Err(libvirt::Error::Deadline { call: "virDomainBackupBegin", after }.into());
        for unanswered in [silence, said(origin::RPC)] {
            let (record, _) = record(1, unanswered.clone(), false).await;
            assert!(is_running(&record), "{unanswered:?}");
            assert_eq!(record.quiesce_status, "Succeeded");
        }
        for takes in [1, 30] {
            let (record, thawed) = record(takes, said(10), false).await;
            assert_eq!(record, BackupMetadata::default());
            assert!(thawed.is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn end_that_comes_before_the_answer_stays() {
        for takes in [0, 30] {
            let (record, thawed) = record(takes, Ok(()), true).await;
            assert_eq!((record.backup_msg.as_str(), record.failed), ("no space", true));
            assert!(thawed.is_some());
        }
    }
}
