//! Which disks a running domain gains, loses or reads another medium from (contract/cmd-server.md 5.6).

use std::collections::BTreeMap;

use crate::domain::{Disk, DiskDriver, DiskSource};

/// Below it are the volumes that virt-handler mounts while the VM runs.
const HOTPLUG: &str = "/var/run/kubevirt/hotplug-disks/";

/// One change of the domain's disks.
#[derive(Debug, Clone, PartialEq)]
pub enum DiskChange {
    /// Takes this disk of the live domain out.
    Detach(Disk),
    /// Puts a disk in.
    Attach(Disk),
    /// Gives a CD-ROM drive of the live domain another medium, or none: the live disk with its new source.
    ChangeMedium(Disk),
}

/// What has to be done to the `live` disks to have the `wanted` ones, in the order in which it has to be done. Disks are
/// the same if their target is; only hot-plugged volumes come, go and are inserted.
pub fn changes(live: &[Disk], wanted: &[Disk]) -> Vec<DiskChange> {
    let by_target = |disks: &'_ [Disk]| -> BTreeMap<String, Disk> {
        disks.iter().map(|disk| (disk.target.device.clone(), disk.clone())).collect()
    };
    let (live_by_target, wanted_by_target) = (by_target(live), by_target(wanted));
    let gone = live
        .iter()
        // libvirt takes no CD-ROM drive out of a running domain: its medium is ejected below.
        .filter(|disk| is_pluggable(disk) && disk.device != "cdrom")
        .filter(|disk| !wanted_by_target.contains_key(&disk.target.device))
        .map(|disk| DiskChange::Detach(disk.clone()));
    let new = wanted
        .iter()
        .filter(|disk| is_pluggable(disk) && !live_by_target.contains_key(&disk.target.device))
        .map(|disk| DiskChange::Attach(disk.clone()));
    let media = live.iter().filter_map(|disk| other_medium(disk, wanted_by_target.get(&disk.target.device)));
    gone.chain(new).chain(media).collect()
}

fn is_hotplug(source: &str) -> bool {
    source.starts_with(HOTPLUG)
}

fn is_pluggable(disk: &Disk) -> bool {
    is_hotplug(disk.backend().path()) && matches!(disk.target.bus.as_str(), "" | "virtio" | "scsi")
}

/// A drive that may change its medium: a CD-ROM drive that is empty or holds a hot-plugged volume.
fn is_drive(disk: &Disk) -> bool {
    let path = disk.backend().path();
    disk.device == "cdrom" && (path.is_empty() || is_hotplug(path))
}

fn other_medium(live: &Disk, wanted: Option<&Disk>) -> Option<DiskChange> {
    if !is_drive(live) || !wanted.is_none_or(is_drive) {
        return None;
    }
    let source = wanted.map(|disk| disk.source.clone()).unwrap_or_default();
    if source.path() == live.source.path() {
        return None;
    }
    let mut disk = live.clone();
    disk.type_ = if source.file.is_empty() { "block" } else { "file" }.to_owned();
    disk.source = DiskSource { ..source };
    // The backing chain that libvirt found was the old medium's.
    disk.backing_store = None;
    disk.driver = Some(DiskDriver { type_: "raw".into(), ..disk.driver.unwrap_or_default() });
    Some(DiskChange::ChangeMedium(disk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DataStore, DomainSpec};

    fn disk(device: &str, bus: &str, target: &str, file: &str) -> Disk {
        let xml = format!(
            "<domain type='kvm'><devices><disk type='file' device='{device}'><driver name='qemu'/><source file='{file}'/>\
             <target dev='{target}' bus='{bus}'/></disk></devices></domain>"
        );
        DomainSpec::from_xml(&xml).unwrap().devices.disks.remove(0)
    }

    fn plugged(target: &str, volume: &str) -> Disk {
        disk("disk", "virtio", target, &format!("{HOTPLUG}{volume}.img"))
    }

    #[test]
    fn only_hot_plugged_volumes_come_and_go_and_the_gone_go_first() {
        let root = disk("disk", "virtio", "vda", "/var/run/kubevirt-private/vmi-disks/root/disk.img");
        let other_root = disk("disk", "virtio", "vdx", "/var/run/kubevirt-private/vmi-disks/x/disk.img");
        let live = [root.clone(), plugged("vdb", "old"), plugged("vdc", "kept")];
        let wanted = [other_root, plugged("vdc", "kept"), plugged("vdd", "new")];
        let changes = changes(&live, &wanted);
        assert_eq!(changes, [DiskChange::Detach(plugged("vdb", "old")), DiskChange::Attach(plugged("vdd", "new"))]);
    }

    #[test]
    fn a_disk_is_its_target_whatever_its_source() {
        assert_eq!(changes(&[plugged("vdb", "a")], &[plugged("vdb", "b")]), []);
    }

    #[test]
    fn sata_disks_stay_and_scsi_disks_go() {
        let sata = disk("disk", "sata", "sda", &format!("{HOTPLUG}a.img"));
        assert_eq!(changes(std::slice::from_ref(&sata), &[]), []);
        assert_eq!(changes(&[], &[sata]), []);
        let scsi = disk("disk", "scsi", "sda", &format!("{HOTPLUG}a.img"));
        assert_eq!(changes(std::slice::from_ref(&scsi), &[]), [DiskChange::Detach(scsi)]);
    }

    #[test]
    fn a_disk_behind_an_overlay_is_known_by_its_data() {
        let mut tracked = disk("disk", "virtio", "vdb", "/var/lib/libvirt/qemu/cbt/v.qcow2");
        tracked.source.data_store = Some(DataStore {
            source: Some(Box::new(DiskSource { file: format!("{HOTPLUG}v.img"), ..DiskSource::default() })),
            ..DataStore::default()
        });
        assert_eq!(changes(std::slice::from_ref(&tracked), &[]), [DiskChange::Detach(tracked)]);
    }

    #[test]
    fn a_medium_is_inserted_changed_and_ejected() {
        let empty = disk("cdrom", "sata", "sda", "");
        let full = disk("cdrom", "sata", "sda", &format!("{HOTPLUG}iso.img"));
        let source_of = |changes: &[DiskChange]| match changes {
            [DiskChange::ChangeMedium(disk)] => (disk.type_.clone(), disk.source.file.clone()),
            other => panic!("{other:?}"),
        };
        let inserted = changes(std::slice::from_ref(&empty), std::slice::from_ref(&full));
        assert_eq!(source_of(&inserted), ("file".into(), full.source.file.clone()));
        let DiskChange::ChangeMedium(disk) = &inserted[0] else { panic!() };
        assert_eq!(disk.driver.as_ref().unwrap().type_, "raw");
        let ejected = changes(std::slice::from_ref(&full), std::slice::from_ref(&empty));
        assert_eq!(source_of(&ejected), ("block".into(), String::new()));
        // A drive that is no longer wanted at all stays, and is emptied.
        assert_eq!(source_of(&changes(std::slice::from_ref(&full), &[])), ("block".into(), String::new()));
        assert_eq!(changes(std::slice::from_ref(&full), std::slice::from_ref(&full)), []);
        assert_eq!(changes(&[empty], &[]), []);
    }

    #[test]
    fn a_medium_that_was_there_at_boot_stays() {
        let boot = disk("cdrom", "sata", "sda", "/var/run/kubevirt-private/vmi-disks/iso/disk.img");
        let full = disk("cdrom", "sata", "sda", &format!("{HOTPLUG}iso.img"));
        assert_eq!(changes(std::slice::from_ref(&boot), std::slice::from_ref(&full)), []);
        assert_eq!(changes(&[full], &[boot]), []);
    }
}
