//! Which disks a migration copies (contract/migration.md 6.5).

use crate::domain::Disk;
use crate::vmi::{MigratedVolume, VirtualMachineInstance, Volume};

/// A VMI's volumes as a migration sees them.
#[derive(Debug, Clone, Copy)]
pub struct Volumes<'a> {
    volumes: &'a [Volume],
    migrated: &'a [MigratedVolume],
}

impl<'a> Volumes<'a> {
    /// Those of a VMI.
    pub fn of(vmi: &'a VirtualMachineInstance) -> Self {
        Volumes { volumes: &vmi.spec.volumes, migrated: &vmi.status.migrated_volumes }
    }

    /// The last one of that name, as everywhere.
    fn volume(self, name: &str) -> Option<&'a Volume> {
        self.volumes.iter().rfind(|volume| volume.name == name)
    }

    /// Whether there may be one whose claim changes with the migration.
    pub fn any_migrated(self) -> bool {
        !self.migrated.is_empty()
    }

    /// The volume's name, and how its claim changes with the migration.
    pub fn migrated(self, name: &str) -> Option<(&'a str, &'a MigratedVolume)> {
        let volume = self.volume(name).filter(|volume| is_claim(volume) || volume.host_disk.is_some())?;
        let migrated = self.migrated.iter().find(|migrated| migrated.volume_name == name)?;
        Some((&volume.name, migrated))
    }

    /// Whether it was, or could have been, plugged into the running VM.
    pub fn is_hotplugged(self, name: &str) -> bool {
        let hotpluggable = |volume: &Volume| {
            let claim = volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.hotpluggable);
            claim || volume.data_volume.as_ref().is_some_and(|data| data.hotpluggable)
        };
        self.volume(name).is_some_and(hotpluggable)
    }

    /// Whether both pods see the same data.
    fn is_shared(self, name: &str) -> bool {
        let shared = |volume: &Volume| {
            is_claim(volume) || volume.host_disk.as_ref().is_some_and(|disk| disk.shared == Some(true))
        };
        self.volume(name).is_some_and(shared) && self.migrated(name).is_none()
    }

    /// Whether the launcher makes its image, and the target's is to become the same.
    fn is_generated(self, name: &str) -> bool {
        self.volume(name).is_some_and(|volume| volume.is_generated() || volume.container_disk.is_some())
    }
}

fn is_claim(volume: &Volume) -> bool {
    volume.persistent_volume_claim.is_some() || volume.data_volume.is_some()
}

/// Target names, such as `vda`, of the disks of a running domain that are copied.
pub fn disks_to_copy(live: &[Disk], vmi: &VirtualMachineInstance) -> Vec<String> {
    let volumes = Volumes::of(vmi);
    let is_copied = |disk: &&Disk| {
        let name = disk.alias_name();
        // The target's own CD-ROMs hold what these hold.
        disk.device != "cdrom"
            && (disk.read_only.is_none() || volumes.is_generated(name))
            && matches!(disk.type_.as_str(), "file" | "block")
            && !volumes.is_shared(name)
    };
    live.iter().filter(is_copied).map(|disk| disk.target.device.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DomainSpec;

    /// Whether the disk of a volume with this source is copied.
    fn is_copied(source: &str, disk: &str, migrated: bool) -> bool {
        let migrated = if migrated { r#"{"volumeName":"v"}"# } else { "" };
        let vmi = format!(
            r#"{{"spec":{{"volumes":[{{"name":"v",{source}}}]}},"status":{{"migratedVolumes":[{migrated}]}}}}"#
        );
        let vmi = crate::vmi::parse(vmi.as_bytes()).unwrap();
        let xml =
            format!("<domain><devices><disk {disk}<target dev='vda'/><alias name='ua-v'/></disk></devices></domain>");
        let live = DomainSpec::from_xml(&xml).unwrap().devices.disks;
        let copied = disks_to_copy(&live, &vmi);
        assert!(copied.is_empty() || copied == ["vda"]);
        !copied.is_empty()
    }

    const FILE: &str = "type='file' device='disk'>";
    const READ_ONLY: &str = "type='file' device='disk'><readonly/>";
    const CDROM: &str = "type='file' device='cdrom'><readonly/>";

    #[test]
    fn volumes_are_copied_by_their_kind() {
        for (source, copied, if_migrated, if_read_only) in [
            (r#""persistentVolumeClaim":{"claimName":"c"}"#, false, true, false),
            (r#""dataVolume":{"name":"d"}"#, false, true, false),
            (r#""hostDisk":{"path":"/d","shared":true}"#, false, true, false),
            (r#""hostDisk":{"path":"/d","shared":false}"#, true, true, false),
            (r#""hostDisk":{"path":"/d"}"#, true, true, false),
            (r#""configMap":{"name":"c"}"#, true, true, true),
            (r#""secret":{"secretName":"s"}"#, true, true, true),
            (r#""downwardAPI":{}"#, true, true, true),
            (r#""serviceAccount":{"serviceAccountName":"s"}"#, true, true, true),
            (r#""cloudInitNoCloud":{}"#, true, true, true),
            (r#""cloudInitConfigDrive":{}"#, true, true, true),
            (r#""containerDisk":{"image":"i"}"#, true, true, true),
            (r#""emptyDisk":{"capacity":"1Gi"}"#, true, true, false),
            (r#""ephemeral":{"persistentVolumeClaim":{"claimName":"c"}}"#, true, true, false),
            (r#""sysprep":{}"#, true, true, false),
            (r#""downwardMetrics":{}"#, true, true, false),
        ] {
            assert_eq!(is_copied(source, FILE, false), copied, "{source}");
            assert_eq!(is_copied(source, FILE, true), if_migrated, "{source}, migrated");
            assert_eq!(is_copied(source, READ_ONLY, false), if_read_only, "{source}, read-only");
            assert!(!is_copied(source, CDROM, true), "{source}, as a CD-ROM");
        }
    }

    #[test]
    fn only_files_and_block_devices_are_copied() {
        let empty = r#""emptyDisk":{"capacity":"1Gi"}"#;
        assert!(is_copied(empty, "type='block' device='disk'>", false));
        for other in ["network", "vhostuser", "nvme"] {
            assert!(!is_copied(empty, &format!("type='{other}' device='disk'>"), false), "{other}");
        }
    }

    #[test]
    fn disk_without_a_volume_is_copied() {
        let vmi = VirtualMachineInstance::default();
        let xml = "<domain><devices><disk type='file' device='disk'><target dev='sdb'/></disk></devices></domain>";
        let live = DomainSpec::from_xml(xml).unwrap().devices.disks;
        assert_eq!(disks_to_copy(&live, &vmi), ["sdb"]);
    }
}
