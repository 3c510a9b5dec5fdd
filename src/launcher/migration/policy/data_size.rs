//! How much a migration has to move, and how long that may take (contract/migration.md 7.1).

use serde::{Deserialize, Serialize};

use crate::vmi::{MigratedVolume, Quantity, VirtualMachineInstance};

/// The unit of `CompletionTimeoutPerGiB`: decimal, whatever its name says.
const UNIT: u64 = 1_000_000_000;

/// What there is to move, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSize {
    /// The guest's memory.
    pub memory: u64,
    /// Files of local disks that are copied.
    pub ephemeral: u64,
    /// Volumes whose claim changes.
    pub volumes: u64,
}

impl DataSize {
    /// What `vmi` has to move. `ephemeral` is the sum of the sizes of the files below `--ephemeral-disk-dir`, which counts
    /// for a block migration only.
    pub fn of(vmi: &VirtualMachineInstance, ephemeral: u64) -> Self {
        let memory = vmi.spec.domain.virtual_memory().map_or(0, |(_, memory)| bytes(memory.value()));
        let volumes = vmi.status.migrated_volumes.iter().map(volume_bytes);
        DataSize {
            memory,
            ephemeral: if vmi.status.migration_method == "BlockMigration" { ephemeral } else { 0 },
            volumes: volumes.fold(0, u64::saturating_add),
        }
    }

    /// Started units of 10⁹ bytes.
    pub fn units(self) -> u64 {
        self.memory.saturating_add(self.ephemeral).saturating_add(self.volumes).div_ceil(UNIT)
    }

    /// Seconds that the migration may take; absent without a limit, which is what a timeout of 0 means.
    pub fn acceptable(self, timeout_per_unit: u64) -> Option<u64> {
        Some(timeout_per_unit.saturating_mul(self.units())).filter(|seconds| *seconds > 0)
    }
}

/// The smaller of the source claim's capacity and request; nothing if one of them is not known as a whole number.
fn volume_bytes(volume: &MigratedVolume) -> u64 {
    let storage = || {
        let claim = volume.source_pvc_info.as_ref()?;
        let capacity = claim.capacity.get("storage").and_then(Quantity::exact)?;
        let request = claim.requests.get("storage").and_then(Quantity::exact)?;
        Some(bytes(capacity.min(request)))
    };
    storage().unwrap_or_default()
}

fn bytes(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmi(json: &str) -> VirtualMachineInstance {
        crate::vmi::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn acceptable_time_is_for_each_started_unit() {
        for (memory, ephemeral, volumes, per_unit, acceptable) in [
            (1 << 30, 0, 0, 150, Some(300)),
            (1_000_000_000, 0, 0, 150, Some(150)),
            (999_999_999, 1, 0, 150, Some(150)),
            (999_999_999, 1, 1, 150, Some(300)),
            (1, 0, 0, 5, Some(5)),
            (1 << 30, 0, 0, 0, None),
            (0, 0, 0, 150, None),
            (u64::MAX, u64::MAX, u64::MAX, u64::MAX, Some(u64::MAX)),
        ] {
            let size = DataSize { memory, ephemeral, volumes };
            assert_eq!(size.acceptable(per_unit), acceptable, "{size:?} x {per_unit}");
        }
    }

    #[test]
    fn memory_is_the_guests_else_what_is_requested() {
        let guest = r#"{"spec":{"domain":{"memory":{"guest":"64Mi"},"resources":{"requests":{"memory":"1Gi"}}}}}"#;
        assert_eq!(DataSize::of(&vmi(guest), 0).memory, 64 << 20);
        let request = r#"{"spec":{"domain":{"resources":{"requests":{"memory":"1Gi"}}}}}"#;
        assert_eq!(DataSize::of(&vmi(request), 0).memory, 1 << 30);
        assert_eq!(DataSize::of(&vmi("{}"), 5), DataSize::default());
        assert_eq!(DataSize::of(&vmi(r#"{"spec":{"domain":{"memory":{"guest":"-1"}}}}"#), 0).memory, 0);
    }

    #[test]
    fn local_files_count_for_a_block_migration_only() {
        assert_eq!(DataSize::of(&vmi(r#"{"status":{"migrationMethod":"BlockMigration"}}"#), 7).ephemeral, 7);
        assert_eq!(DataSize::of(&vmi(r#"{"status":{"migrationMethod":"LiveMigration"}}"#), 7).ephemeral, 0);
        let volumes = r#"{"status":{"migratedVolumes":[{"volumeName":"a"}]}}"#;
        assert_eq!(DataSize::of(&vmi(volumes), 7).ephemeral, 0);
    }

    #[test]
    fn volume_counts_with_the_smaller_of_capacity_and_request() {
        for (claim, bytes) in [
            (r#"{"capacity":{"storage":"2Gi"},"requests":{"storage":"1Gi"}}"#, 1 << 30),
            (r#"{"capacity":{"storage":"1Gi"},"requests":{"storage":"2Gi"}}"#, 1 << 30),
            (r#"{"capacity":{"storage":"1Gi"}}"#, 0),
            (r#"{"requests":{"storage":"1Gi"}}"#, 0),
            (r#"{"capacity":{"storage":"1.5Gi"},"requests":{"storage":"2Gi"}}"#, 0),
        ] {
            let status = format!(r#"{{"status":{{"migratedVolumes":[{{"sourcePVCInfo":{claim}}},{{}}]}}}}"#);
            assert_eq!(DataSize::of(&vmi(&status), 0).volumes, bytes, "{claim}");
        }
    }
}
