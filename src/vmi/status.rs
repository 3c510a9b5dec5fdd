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
    ChangedBlockTracking { state: String, }

    /// A migration.
    MigrationState { target_pod: String, migration_uid: String, }

    /// Memory hot-plug.
    MemoryStatus { guest_at_boot: Option<Quantity>, guest_current: Option<Quantity>, guest_requested: Option<Quantity>, }
}
