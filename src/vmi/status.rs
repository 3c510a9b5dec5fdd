//! `status`.

use std::collections::BTreeMap;

use super::{Object, Quantity, api};

api! {
    /// `status`.
    VirtualMachineInstanceStatus {
        phase: String,
        conditions: Vec<Condition>,
        runtime_user: u64,
        volume_status: Vec<VolumeStatus>,
        interfaces: Vec<InterfaceStatus>,
        topology_hints: Option<TopologyHints>,
        changed_block_tracking: Option<ChangedBlockTracking>,
        migration_state: Option<MigrationState>,
        migration_method: String,
        migration_transport: String,
        migrated_volumes: Vec<MigratedVolume>,
        memory: Option<MemoryStatus>,
        #[serde(rename = "VSOCKCID")]
        vsock_cid: Option<u32>,
    }

    /// A condition.
    Condition { r#type: String, status: String, }

    /// A volume's state.
    VolumeStatus {
        name: String,
        target: String,
        phase: String,
        size: i64,
        hotplug_volume: Option<Object>,
        persistent_volume_claim_info: Option<ClaimInfo>,
    }

    /// What is known of a claim.
    ClaimInfo {
        claim_name: String,
        access_modes: Vec<String>,
        capacity: BTreeMap<String, Quantity>,
        requests: BTreeMap<String, Quantity>,
        filesystem_overhead: Option<String>,
        volume_mode: Option<String>,
        preallocated: bool,
    }

    /// An interface's state.
    InterfaceStatus {
        name: String,
        info_source: String,
        pod_interface_name: String,
        queue_count: i32,
        link_state: String,
    }

    /// Hints for live migration.
    TopologyHints { tsc_frequency: Option<i64>, }

    /// Changed block tracking.
    ChangedBlockTracking { state: String, backup_status: Option<BackupStatus>, }

    /// A backup that is being made.
    BackupStatus { backup_name: String, }

    /// A volume whose claim changes while the VM runs.
    MigratedVolume {
        volume_name: String,
        #[serde(rename = "sourcePVCInfo")]
        source_pvc_info: Option<ClaimInfo>,
        #[serde(rename = "destinationPVCInfo")]
        destination_pvc_info: Option<ClaimInfo>,
    }

    /// A migration.
    MigrationState {
        target_pod: String,
        migration_uid: String,
        #[serde(rename = "sourcePersistentStatePVCName")]
        source_persistent_state_pvc_name: String,
        #[serde(rename = "targetPersistentStatePVCName")]
        target_persistent_state_pvc_name: String,
        source_state: Option<MigrationSide>,
        target_state: Option<MigrationSide>,
    }

    /// One side of a migration.
    MigrationSide {
        #[serde(rename = "migrationUID")]
        migration_uid: String,
        domain_name: Option<String>,
        domain_namespace: Option<String>,
        sync_address: Option<String>,
        #[serde(rename = "virtualMachineInstanceUID")]
        virtual_machine_instance_uid: Option<String>,
        #[serde(rename = "persistentStatePVCName")]
        persistent_state_pvc_name: Option<String>,
    }

    /// Memory hot-plug.
    MemoryStatus { guest_at_boot: Option<Quantity>, guest_current: Option<Quantity>, guest_requested: Option<Quantity>, }
}

impl VirtualMachineInstanceStatus {
    /// Whether disks are copied (contract/migration.md 1.1).
    pub fn is_block_migration(&self) -> bool {
        self.migration_method == "BlockMigration" || !self.migrated_volumes.is_empty()
    }

    /// UID of the migration object; empty without a migration (contract/migration.md 1.2).
    pub fn migration_uid(&self) -> &str {
        let Some(state) = &self.migration_state else { return "" };
        state.source_state.as_ref().map_or(&state.migration_uid, |source| &source.migration_uid)
    }
}

impl MigrationState {
    /// Whether source and target are two VMIs, in namespaces or clusters of their own (contract/migration.md 1.1).
    pub fn is_decentralized(&self) -> bool {
        let address = |side: &Option<MigrationSide>| side.as_ref().map(|side| side.sync_address.is_some());
        matches!((address(&self.source_state), address(&self.target_state)), (Some(source), Some(target)) if source != target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(text: &str) -> VirtualMachineInstanceStatus {
        crate::vmi::parse(format!(r#"{{"status":{text}}}"#).as_bytes()).unwrap().status
    }

    #[test]
    fn sources_migration_uid_goes_first() {
        let uid = |text: &str| status(text).migration_uid().to_owned();
        assert_eq!(uid("{}"), "");
        assert_eq!(uid(r#"{"migrationState":{"migrationUid":"a","targetState":{"migrationUID":"c"}}}"#), "a");
        assert_eq!(uid(r#"{"migrationState":{"migrationUid":"a","sourceState":{"migrationUID":"b"}}}"#), "b");
        assert_eq!(uid(r#"{"migrationState":{"migrationUid":"a","sourceState":{}}}"#), "");
    }

    #[test]
    fn migrations_are_told_apart() {
        assert!(!status(r#"{"migrationMethod":"LiveMigration"}"#).is_block_migration());
        assert!(status(r#"{"migrationMethod":"BlockMigration"}"#).is_block_migration());
        let volumes =
            r#"{"migratedVolumes":[{"volumeName":"v","sourcePVCInfo":{"claimName":"c","volumeMode":"Block"}}]}"#;
        assert!(status(volumes).is_block_migration());
        let decentralized = |source: &str, target: &str| {
            let state = format!(r#"{{"migrationState":{{"sourceState":{source},"targetState":{target}}}}}"#);
            status(&state).migration_state.unwrap().is_decentralized()
        };
        let address = r#"{"syncAddress":"a:1"}"#;
        assert!(decentralized("{}", address) && decentralized(address, "{}"));
        assert!(!decentralized("{}", "{}") && !decentralized(address, address) && !decentralized("null", address));
    }
}
