//! The record of the last migration in the metadata, by which virt-handler learns how it goes (contract/migration.md 1.4).
//! Each change goes into the state file before it is published, so that the next launcher knows it too.

use super::metadata::MetadataCache;
use crate::domain::{KubeVirtMetadata, MigrationMetadata, Time};
use crate::launcher::error::Error;
use crate::launcher::migration::policy::Mode;

/// The reason of a migration that was aborted, which virt-handler's tests and users know.
pub const ABORTED: &str = "Live migration has been aborted";

/// How an order to abort stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortStatus {
    /// libvirt is asked.
    Aborting,
    /// libvirt has aborted the migration.
    Succeeded,
    /// The migration goes on, or had ended already.
    Failed,
}

impl AbortStatus {
    /// How the record says it stands; none for a migration that nobody has ordered to abort.
    pub fn of(record: &MigrationMetadata) -> Option<Self> {
        [AbortStatus::Aborting, AbortStatus::Succeeded, AbortStatus::Failed]
            .into_iter()
            .find(|status| status.word() == record.abort_status)
    }

    fn word(self) -> &'static str {
        match self {
            AbortStatus::Aborting => "Aborting",
            AbortStatus::Succeeded => "Succeeded",
            AbortStatus::Failed => "Failed",
        }
    }
}

/// What the order to begin a migration is to this launcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// A new migration, which is recorded now.
    Now,
    /// The one that is under way.
    Before,
}

/// Refuses a migration that has been executed: it is never begun again.
pub fn refuse_executed(metadata: &KubeVirtMetadata, uid: &str) -> Result<(), Error> {
    let record = metadata.migration.as_ref().filter(|record| record.uid == uid && record.start_timestamp.is_some());
    match record.and_then(|record| Some((record, record.end_timestamp?))) {
        Some((record, ended)) => Err(Error::other(format!(
            "migration job {uid} already executed, finished at {}, failed: {}, abortStatus: {}",
            ended.in_messages(),
            record.failed,
            record.abort_status
        ))),
        None => Ok(()),
    }
}

/// Records the begin of a migration.
pub fn begin(cache: &MetadataCache, uid: &str) -> Result<Begun, Error> {
    let mut answer = Ok(Begun::Now);
    cache.edit(|metadata| match &metadata.migration {
        Some(record) if record.uid == uid && record.start_timestamp.is_some() => {
            answer = refuse_executed(metadata, uid).map(|()| Begun::Before);
        }
        _ => {
            metadata.migration = Some(MigrationMetadata {
                uid: uid.to_owned(),
                start_timestamp: Some(Time::now()),
                mode: Mode::PreCopy.name().to_owned(),
                ..MigrationMetadata::default()
            });
        }
    });
    answer
}

/// Whether another order to abort is heard: a migration is under way, and no abort is or has been carried out.
pub fn may_be_aborted(metadata: &KubeVirtMetadata) -> bool {
    metadata.migration_under_way().is_some_and(|record| !record.failed && !abort_is_pending(record))
}

/// Whether an abort is carried out, or was.
fn abort_is_pending(record: &MigrationMetadata) -> bool {
    matches!(AbortStatus::of(record), Some(AbortStatus::Aborting | AbortStatus::Succeeded))
}

/// Changes the record of the migration `uid` unless it has ended: a later change concerns another migration, or none.
pub fn change(cache: &MetadataCache, uid: &str, change: impl FnOnce(&mut MigrationMetadata)) {
    cache.edit(|metadata| {
        let record = metadata.migration.as_mut();
        if let Some(record) = record.filter(|record| record.uid == uid && record.end_timestamp.is_none()) {
            change(record);
        }
    });
}

/// Records how an order to abort stands.
pub fn set_abort_status(cache: &MetadataCache, uid: &str, status: AbortStatus) {
    change(cache, uid, |record| record.abort_status = status.word().to_owned());
}

/// Records the end of the migration, in one change: virt-handler copies the end of a failure only together with it.
pub fn end(cache: &MetadataCache, uid: &str, failure: Option<String>) {
    change(cache, uid, |record| {
        record.end_timestamp = Some(Time::now());
        record.failed = failure.is_some();
        record.failure_reason = failure.unwrap_or_default();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cache: &MetadataCache) -> MigrationMetadata {
        cache.snapshot().migration.unwrap()
    }

    #[test]
    fn migration_is_begun_once() {
        let cache = MetadataCache::default();
        assert_eq!(begin(&cache, "m1").unwrap(), Begun::Now);
        let begun = record(&cache);
        assert_eq!((begun.uid.as_str(), begun.mode.as_str(), begun.end_timestamp), ("m1", "PreCopy", None));
        assert_eq!(begin(&cache, "m1").unwrap(), Begun::Before);
        assert_eq!(record(&cache), begun, "the second order changes nothing");
        end(&cache, "m1", Some("no".into()));
        let ended = record(&cache).end_timestamp.unwrap().in_messages();
        let refused = begin(&cache, "m1").unwrap_err();
        let text = format!("migration job m1 already executed, finished at {ended}, failed: true, abortStatus: ");
        assert_eq!(refused.message(), text);
        assert_eq!(begin(&cache, "m2").unwrap(), Begun::Now);
        assert!(!record(&cache).failed, "another migration has a record of its own");
    }

    #[test]
    fn late_word_of_an_earlier_migration_changes_nothing() {
        let cache = MetadataCache::default();
        begin(&cache, "m1").unwrap();
        end(&cache, "m1", None);
        let ended = record(&cache);
        set_abort_status(&cache, "m1", AbortStatus::Failed);
        end(&cache, "m1", Some("late".into()));
        assert_eq!(record(&cache), ended);
        begin(&cache, "m2").unwrap();
        set_abort_status(&cache, "m1", AbortStatus::Failed);
        assert_eq!(record(&cache).abort_status, "");
    }

    #[test]
    fn abort_is_heard_once_and_again_after_it_failed() {
        let cache = MetadataCache::default();
        assert!(!may_be_aborted(&cache.snapshot()));
        begin(&cache, "m").unwrap();
        for (status, heard) in
            [(AbortStatus::Aborting, false), (AbortStatus::Failed, true), (AbortStatus::Succeeded, false)]
        {
            set_abort_status(&cache, "m", status);
            assert_eq!(may_be_aborted(&cache.snapshot()), heard, "{status:?}");
        }
        begin(&cache, "m2").unwrap();
        end(&cache, "m2", None);
        assert!(!may_be_aborted(&cache.snapshot()));
    }
}
