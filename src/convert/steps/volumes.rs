//! Where a volume's data is: one arm per kind (contract/domain-xml-qemu.md 8.4, 8.6).

use super::super::context::{Context, PRIVATE};
use super::{ConvertError, beneath};
use crate::domain::{BackingStore, BackingStoreFormat, DataStore, DataStoreFormat, DiskSource};
use crate::vmi::Volume;

/// Where hot-plugged volumes are mounted.
const HOTPLUG: &str = "/var/run/kubevirt/hotplug-disks";

/// A volume as a disk.
#[derive(Debug, Default)]
pub(super) struct Backend {
    /// `file` or `block`.
    pub(super) kind: &'static str,
    /// Image format.
    pub(super) format: &'static str,
    /// The data.
    pub(super) source: DiskSource,
    /// What an overlay stands on.
    pub(super) backing_store: Option<BackingStore>,
    /// Whether this kind discards by itself: always, never, or unless the volume is preallocated.
    pub(super) discard: Discard,
    /// The metrics disk has a driver of its own and is read-only.
    pub(super) metrics: bool,
}

/// When a volume kind sets `discard="unmap"`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Discard {
    /// Never.
    #[default]
    No,
    /// Always.
    Always,
    /// Unless the volume is to keep its blocks.
    UnlessPreallocated,
}

fn file(path: String, format: &'static str) -> Backend {
    let source = DiskSource { file: path, ..DiskSource::default() };
    Backend { kind: "file", format, source, ..Backend::default() }
}

fn discarding(backend: Backend, discard: Discard) -> Backend {
    Backend { discard, ..backend }
}

/// An empty CD-ROM.
pub(super) fn empty() -> Backend {
    Backend { kind: "block", format: "raw", discard: Discard::Always, ..Backend::default() }
}

/// The volume's backend; `disk` is the disk's name for messages, `index` the volume's place in `spec.volumes`.
pub(super) fn backend(
    context: &Context<'_>,
    disk: &str,
    index: usize,
    volume: &Volume,
) -> Result<Backend, ConvertError> {
    let backend = plain(context, disk, index, volume)?;
    let tracked =
        volume.persistent_volume_claim.is_some() || volume.data_volume.is_some() || volume.host_disk.is_some();
    let state = context.vmi.status.changed_block_tracking.as_ref().map(|tracking| tracking.state.as_str());
    match state {
        Some("Initializing" | "Enabled") if tracked => Ok(with_overlay(context, &volume.name, backend)),
        Some(_) | None => Ok(backend),
    }
}

fn plain(context: &Context<'_>, disk: &str, index: usize, volume: &Volume) -> Result<Backend, ConvertError> {
    let name = &volume.name;
    let facts = context.facts;
    let unsupported = |what: &str| {
        ConvertError::at(
            format!("spec.volumes[{index}]"),
            format!("{what}disk {disk} references an unsupported source"),
        )
    };
    let is_claim = volume.persistent_volume_claim.is_some() || volume.data_volume.is_some();
    if context.is_hotplug(name) {
        if !is_claim && volume.host_disk.is_none() {
            return Err(unsupported("hotplug "));
        }
        let backend = if is_claim && facts.hotplug_block_volumes.contains(name) {
            let source = DiskSource { dev: format!("{HOTPLUG}/{name}"), ..DiskSource::default() };
            Backend { kind: "block", format: "raw", source, ..Backend::default() }
        } else {
            file(format!("{HOTPLUG}/{name}.img"), "raw")
        };
        return Ok(discarding(backend, Discard::UnlessPreallocated));
    }
    let ephemeral = &facts.ephemeral_disk_dir;
    let meta = &context.vmi.metadata;
    let cloud_init =
        |iso: &str| file(format!("{ephemeral}/cloud-init-data/{}/{}/{iso}", meta.namespace, meta.name), "raw");
    let private = |folder: &str| file(format!("{PRIVATE}/{folder}/{name}.iso"), "raw");
    let overlay = || file(format!("{ephemeral}/disk-data/{name}/disk.qcow2"), "qcow2");
    let backend = if volume.container_disk.is_some() {
        let format = facts.container_disks.get(name).map(|info| info.format.clone()).unwrap_or_default();
        let path = format!("/var/run/kubevirt/container-disks/disk_{index}.img");
        let source = DiskSource { file: path, ..DiskSource::default() };
        let backing = BackingStore {
            type_: "file".into(),
            format: Some(BackingStoreFormat { type_: format }),
            source: Some(source),
        };
        Backend { backing_store: Some(backing), discard: Discard::Always, ..overlay() }
    } else if volume.cloud_init_no_cloud.is_some() {
        cloud_init("noCloud.iso")
    } else if volume.cloud_init_config_drive.is_some() {
        cloud_init("configdrive.iso")
    } else if volume.sysprep.is_some() {
        private("sysprep-disks")
    } else if let Some(host_disk) = &volume.host_disk {
        file(beneath(&format!("{PRIVATE}/vmi-disks/{name}"), &host_disk.path), "raw")
    } else if is_claim {
        discarding(claim(context, name), Discard::UnlessPreallocated)
    } else if volume.ephemeral.is_some() {
        let claim = claim(context, name);
        let backing = BackingStore {
            type_: claim.kind.into(),
            format: Some(BackingStoreFormat { type_: "raw".into() }),
            source: Some(claim.source),
        };
        Backend { backing_store: Some(backing), discard: Discard::Always, ..overlay() }
    } else if volume.empty_disk.is_some() {
        discarding(file(format!("/var/run/libvirt/empty-disks/{name}.qcow2"), "qcow2"), Discard::Always)
    } else if volume.config_map.is_some() {
        private("config-map-disks")
    } else if volume.secret.is_some() {
        private("secret-disks")
    } else if volume.downward_api.is_some() {
        private("downwardapi-disks")
    } else if volume.service_account.is_some() {
        file(format!("{PRIVATE}/service-account-disk/service-account.iso"), "raw")
    } else if volume.downward_metrics.is_some() {
        Backend { metrics: true, ..file(format!("{PRIVATE}/downwardapi-disks/vhostmd0"), "raw") }
    } else {
        return Err(unsupported(""));
    };
    Ok(backend)
}

fn claim(context: &Context<'_>, name: &str) -> Backend {
    if context.facts.block_volumes.iter().any(|block| block == name) {
        let source = DiskSource { dev: format!("/dev/{name}"), name: name.to_owned(), ..DiskSource::default() };
        return Backend { kind: "block", format: "raw", source, ..Backend::default() };
    }
    file(format!("{PRIVATE}/vmi-disks/{name}/disk.img"), "raw")
}

/// Changed block tracking puts an overlay before the data (8.6).
fn with_overlay(context: &Context<'_>, volume: &str, backend: Backend) -> Backend {
    let Backend { kind, source, discard, .. } = backend;
    let name = source.name.clone();
    let data = DiskSource { name: String::new(), ..source };
    let overlay = format!("{}/{volume}.qcow2", context.libvirt_state("cbt"));
    Backend {
        kind: "file",
        format: "qcow2",
        source: DiskSource {
            file: overlay,
            name,
            data_store: Some(DataStore {
                type_: kind.into(),
                format: Some(DataStoreFormat { type_: "raw".into() }),
                source: Some(Box::new(data)),
            }),
            ..DiskSource::default()
        },
        discard,
        ..Backend::default()
    }
}

#[cfg(test)]
mod tests {
    use crate::convert::{ContainerDiskInfo, HostFacts, convert};

    /// A disk without a format, or an overlay over one, would have libvirt or QEMU guess: from what a guest wrote there.
    #[test]
    fn format_of_every_disk_is_named() {
        let volumes = [
            ("pvc", r#""persistentVolumeClaim":{"claimName":"c"}"#),
            ("block", r#""persistentVolumeClaim":{"claimName":"c"}"#),
            ("dv", r#""dataVolume":{"name":"d"}"#),
            ("host", r#""hostDisk":{"path":"/data/disk.img","type":"Disk"}"#),
            ("eph", r#""ephemeral":{"persistentVolumeClaim":{"claimName":"c"}}"#),
            ("cd", r#""containerDisk":{"image":"i"}"#),
            ("empty", r#""emptyDisk":{"capacity":"1Gi"}"#),
            ("seed", r#""cloudInitNoCloud":{"userData":"x"}"#),
            ("cm", r#""configMap":{"name":"c"}"#),
            ("secret", r#""secret":{"secretName":"s"}"#),
            ("down", r#""downwardAPI":{}"#),
            ("sa", r#""serviceAccount":{"serviceAccountName":"s"}"#),
            ("sys", r#""sysprep":{"configMap":{"name":"c"}}"#),
            ("metrics", r#""downwardMetrics":{}"#),
            ("hot", r#""persistentVolumeClaim":{"claimName":"c","hotpluggable":true}"#),
            ("hotblock", r#""persistentVolumeClaim":{"claimName":"c","hotpluggable":true}"#),
        ];
        let listed = |one: &dyn Fn(&str, &str) -> String| {
            volumes.iter().map(|(name, source)| one(name, source)).collect::<Vec<_>>().join(",")
        };
        let (disks, sources) = (
            listed(&|name, _| format!(r#"{{"name":"{name}","disk":{{"bus":"scsi"}}}}"#)),
            listed(&|name, source| format!(r#"{{"name":"{name}",{source}}}"#)),
        );
        let plugged = r#"{"name":"hot","hotplugVolume":{},"phase":"Ready"},{"name":"hotblock","hotplugVolume":{},"phase":"Ready"}"#;
        for tracking in ["", r#""changedBlockTracking":{"state":"Enabled"},"#] {
            let text = format!(
                r#"{{"metadata":{{"name":"vm","namespace":"ns"}},"status":{{{tracking}"volumeStatus":[{plugged}]}},
                "spec":{{"volumes":[{sources}],"domain":{{"devices":{{"disks":[{disks},{{"name":"none","cdrom":{{"bus":"sata"}}}}]}}}}}}}}"#
            );
            let vmi = crate::vmi::parse(text.as_bytes()).unwrap();
            let mut facts = HostFacts::default();
            facts.hypervisor.device_present = true;
            facts.block_volumes = vec!["block".into()];
            facts.hotplug_block_volumes = vec!["hotblock".into()];
            let info = ContainerDiskInfo { format: "qcow2".into(), ..ContainerDiskInfo::default() };
            facts.container_disks.insert("cd".into(), info);
            let disks = convert(&vmi, &facts).unwrap().devices.disks;
            assert_eq!(disks.len(), volumes.len() + 1);
            for disk in disks {
                let named = |format: &str| assert!(matches!(format, "raw" | "qcow2"), "{disk:?}");
                named(&disk.driver.as_ref().unwrap().type_);
                let backing = disk.backing_store.as_ref();
                backing.inspect(|store| named(&store.format.as_ref().unwrap().type_));
                let data = disk.source.data_store.as_ref();
                data.inspect(|store| named(&store.format.as_ref().unwrap().type_));
            }
        }
    }
}
