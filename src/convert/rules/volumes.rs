//! Volumes: one name, one source, sizes that an image can have.

use super::{Rules, shown};
use crate::vmi::Volume;

/// Most bytes of an image that `qemu-img` makes.
const LARGEST_IMAGE: i64 = i64::MAX - (1 << 30);

pub(super) fn check(rules: &mut Rules<'_>) {
    let volumes = &rules.vmi.spec.volumes;
    rules.unique("spec.volumes", "name", volumes.iter().map(|volume| volume.name.as_str()));
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("spec.volumes[{index}]");
        // A volume without a source that is known here may be of a kind that is newer; a disk of it is refused.
        let sources = sources(volume);
        if let [first, second, ..] = sources.as_slice() {
            rules.refuse(&path, format!("has more than one source: {first} and {second}"));
        }
        // Names are parts of paths.
        if volume.name.contains('/') || matches!(volume.name.as_str(), "." | "..") {
            rules.refuse(format!("{path}.name"), format!("{} is not a name", shown(&volume.name)));
        }
        sizes(rules, &path, volume);
    }
    shared_files(rules);
}

/// The volume's sources by their fields.
fn sources(volume: &Volume) -> Vec<&'static str> {
    [
        ("cloudInitConfigDrive", volume.cloud_init_config_drive.is_some()),
        ("cloudInitNoCloud", volume.cloud_init_no_cloud.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("containerDisk", volume.container_disk.is_some()),
        ("dataVolume", volume.data_volume.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("downwardMetrics", volume.downward_metrics.is_some()),
        ("emptyDisk", volume.empty_disk.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("hostDisk", volume.host_disk.is_some()),
        ("memoryDump", volume.memory_dump.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("secret", volume.secret.is_some()),
        ("serviceAccount", volume.service_account.is_some()),
        ("sysprep", volume.sysprep.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect()
}

fn sizes(rules: &mut Rules<'_>, path: &str, volume: &Volume) {
    let empty = volume.empty_disk.as_ref().map(|disk| ("emptyDisk", &disk.capacity));
    let host = volume.host_disk.as_ref().map(|disk| ("hostDisk", &disk.capacity));
    for (kind, capacity) in empty.into_iter().chain(host) {
        let path = format!("{path}.{kind}.capacity");
        match capacity.value() {
            0 if kind == "emptyDisk" => rules.refuse(path, "is missing or 0, and an empty disk has no other size"),
            ..0 => rules.refuse(path, format!("{capacity} is less than nothing")),
            LARGEST_IMAGE.. => rules.refuse(path, format!("{capacity} is more than an image can have")),
            _ => {}
        }
    }
}

/// Volumes of some kinds have one file in the pod, whatever their names: two disks would share it.
fn shared_files(rules: &mut Rules<'_>) {
    let has_disk = |volume: &Volume| rules.vmi.spec.domain.devices.disks.iter().any(|disk| disk.name == volume.name);
    let volumes: Vec<(usize, &Volume)> =
        rules.vmi.spec.volumes.iter().enumerate().filter(|(_, volume)| has_disk(volume)).collect();
    /// Whether a volume is of a kind.
    type IsKind = fn(&Volume) -> bool;
    let kinds: [(&str, IsKind); 3] = [
        ("cloud-init", |volume| volume.cloud_init_no_cloud.is_some() || volume.cloud_init_config_drive.is_some()),
        ("serviceAccount", |volume| volume.service_account.is_some()),
        ("downwardMetrics", |volume| volume.downward_metrics.is_some()),
    ];
    for (kind, is) in kinds {
        let mut found = volumes.iter().filter(|(_, volume)| is(volume));
        let Some((first, _)) = found.next() else { continue };
        for (index, _) in found {
            let reason =
                format!("is the second {kind} volume with a disk, after spec.volumes[{first}]; there can be one");
            rules.refuse(format!("spec.volumes[{index}]"), reason);
        }
    }
}
