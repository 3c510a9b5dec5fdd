//! `<metadata><kubevirt>`: what the launcher remembers in the domain for itself and for virt-handler.

use crate::domain::Time;
use crate::domain::elements::elements;
use crate::domain::table::KUBEVIRT_NAMESPACE;

elements! {
    /// `<metadata>`.
    pub struct Metadata {
        kubevirt: KubeVirtMetadata = "KubeVirt" [child "kubevirt" in KUBEVIRT_NAMESPACE];
    }

    /// `<kubevirt>`, in the namespace `http://kubevirt.io`.
    pub struct KubeVirtMetadata {
        uid: String = "UID" [child "uid"];
        grace_period: Option<GracePeriodMetadata> = "GracePeriod" [child "graceperiod"];
        migration: Option<MigrationMetadata> = "Migration" [child "migration"];
        backup: Option<BackupMetadata> = "Backup" [child "backup"];
        access_credential: Option<AccessCredentialMetadata> = "AccessCredential" [child "accessCredential"];
        memory_dump: Option<MemoryDumpMetadata> = "MemoryDump" [child "memoryDump"];
    }

    /// `metadata/kubevirt/graceperiod`: how long a shutdown may take, and since when it runs.
    pub struct GracePeriodMetadata {
        deletion_grace_period_seconds: i64 = "DeletionGracePeriodSeconds" [child "deletionGracePeriodSeconds"];
        deletion_timestamp: Option<Time> = "DeletionTimestamp" [child "deletionTimestamp"];
        marked_for_graceful_shutdown: Option<bool> = "MarkedForGracefulShutdown" [child "markedForGracefulShutdown"];
    }

    /// `metadata/kubevirt/migration`: the last migration.
    pub struct MigrationMetadata {
        uid: String = "UID" [child? "uid"];
        start_timestamp: Option<Time> = "StartTimestamp" [child "startTimestamp"];
        end_timestamp: Option<Time> = "EndTimestamp" [child "endTimestamp"];
        failed: bool = "Failed" [child? "failed"];
        failure_reason: String = "FailureReason" [child? "failureReason"];
        abort_status: String = "AbortStatus" [child? "abortStatus"];
        mode: String = "Mode" [child? "mode"];
    }

    /// `metadata/kubevirt/backup`: the last backup.
    pub struct BackupMetadata {
        name: String = "Name" [child? "name"];
        mode: String = "Mode" [child? "mode"];
        skip_quiesce: bool = "SkipQuiesce" [child? "skipQuiesce"];
        start_timestamp: Option<Time> = "StartTimestamp" [child "startTimestamp"];
        end_timestamp: Option<Time> = "EndTimestamp" [child "endTimestamp"];
        completed: bool = "Completed" [child? "completed"];
        failed: bool = "Failed" [child? "failed"];
        backup_msg: String = "BackupMsg" [child? "backupMsg"];
        checkpoint_name: String = "CheckpointName" [child? "checkpointName"];
        volumes: String = "Volumes" [child? "volumes"];
        quiesce_status: String = "QuiesceStatus" [child? "quiesceStatus"];
    }

    /// `metadata/kubevirt/accessCredential`: outcome of the last access credential change.
    pub struct AccessCredentialMetadata {
        succeeded: bool = "Succeeded" [child? "succeeded"];
        message: String = "Message" [child? "message"];
    }

    /// `metadata/kubevirt/memoryDump`: the last memory dump.
    pub struct MemoryDumpMetadata {
        file_name: String = "FileName" [child? "fileName"];
        start_timestamp: Option<Time> = "StartTimestamp" [child "startTimestamp"];
        end_timestamp: Option<Time> = "EndTimestamp" [child "endTimestamp"];
        completed: bool = "Completed" [child? "completed"];
        failed: bool = "Failed" [child? "failed"];
        failure_reason: String = "FailureReason" [child? "failureReason"];
    }
}

impl KubeVirtMetadata {
    /// The migration that has begun and not ended (contract/cmd-server.md 6.4).
    pub fn migration_under_way(&self) -> Option<&MigrationMetadata> {
        self.migration.as_ref().filter(|record| record.start_timestamp.is_some() && record.end_timestamp.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migration_runs_from_its_start_to_its_end() {
        let migrating =
            |migration| KubeVirtMetadata { migration, ..KubeVirtMetadata::default() }.migration_under_way().is_some();
        assert!(!migrating(None));
        let mut migration = MigrationMetadata::default();
        assert!(!migrating(Some(migration.clone())));
        migration.start_timestamp = Some(Time::now());
        assert!(migrating(Some(migration.clone())));
        migration.end_timestamp = Some(Time::now());
        assert!(!migrating(Some(migration)));
    }
}
