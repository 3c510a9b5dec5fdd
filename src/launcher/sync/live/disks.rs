//! Which disks a running domain gains, loses or reads another medium from (contract/cmd-server.md 5.6).

use crate::domain::{Disk, DiskDriver, disk_partners};

/// Below it are the volumes that virt-handler mounts while the VM runs.
const HOTPLUG: &str = "/var/run/kubevirt/hotplug-disks/";

/// One change of the domain's disks.
#[derive(Debug, Clone, PartialEq)]
pub enum DiskChange {
    /// Takes this disk of the live domain out.
    Detach(Disk),
    /// Takes `old` out once the volume of `new` is ready, which has the same name and another bus or source. `new` can be
    /// put in when libvirt has `old` no more.
    Replace {
        /// The disk of the live domain.
        old: Disk,
        /// The disk that is wanted.
        new: Box<Disk>,
    },
    /// Puts a disk in.
    Attach(Disk),
    /// Gives a CD-ROM drive of the live domain another medium, or none: the live disk with its new source.
    ChangeMedium(Disk),
}

/// What has to be done to the `live` disks to have the `wanted` ones, in the order in which it has to be done. Only
/// hot-plugged volumes come, go and are inserted.
///
/// Disks are the same if their alias or their data is ([`disk_partners`]). The original compares target names, which it
/// computes anew for every sync (contract/cmd-server.md 11, W26): once a disk is gone, the next one has its name, is taken
/// for it and stays, while that one's own name is missing, and the guest loses a disk that it uses (kubevirt#17577).
pub fn changes(live: &[Disk], wanted: &[Disk]) -> Vec<DiskChange> {
    let places = disk_partners(wanted, live);
    let partner_of = |place: usize| {
        let found = places.iter().position(|partner| *partner == Some(place))?;
        wanted.get(found)
    };
    let out = live.iter().enumerate().filter(|(_, disk)| is_unpluggable(disk)).filter_map(|(place, disk)| {
        match partner_of(place) {
            None => Some(DiskChange::Detach(disk.clone())),
            Some(wanted) if is_pluggable(wanted) && !is_same(disk, wanted) => {
                Some(DiskChange::Replace { old: disk.clone(), new: Box::new(wanted.clone()) })
            }
            Some(_) => None,
        }
    });
    let new = wanted.iter().zip(&places).filter(|(_, partner)| partner.is_none()).map(|(disk, _)| disk);
    let new = new.filter(|disk| is_pluggable(disk)).map(|disk| DiskChange::Attach(disk.clone()));
    let media = live.iter().enumerate().filter_map(|(place, disk)| other_medium(disk, partner_of(place)));
    out.chain(new).chain(media).collect()
}

/// Disks that are wanted and can be put into no running domain, for their bus. The original leaves them out without a
/// word.
pub fn impossible<'a>(live: &[Disk], wanted: &'a [Disk]) -> Vec<&'a Disk> {
    let new = wanted.iter().zip(disk_partners(wanted, live)).filter(|(_, partner)| partner.is_none());
    let new = new.map(|(disk, _)| disk);
    new.filter(|disk| is_hotplug(disk.backend().path()) && disk.device != "cdrom" && !is_pluggable(disk)).collect()
}

/// Whether a disk of that name would be plugged as it is plugged now.
fn is_same(live: &Disk, wanted: &Disk) -> bool {
    let bus = |disk: &Disk| if disk.target.bus.is_empty() { "virtio".to_owned() } else { disk.target.bus.clone() };
    bus(live) == bus(wanted) && live.device == wanted.device && live.backend().path() == wanted.backend().path()
}

fn is_hotplug(source: &str) -> bool {
    source.starts_with(HOTPLUG)
}

fn is_pluggable(disk: &Disk) -> bool {
    is_hotplug(disk.backend().path()) && matches!(disk.target.bus.as_str(), "" | "virtio" | "scsi")
}

/// libvirt takes no CD-ROM drive out of a running domain: its medium is ejected.
fn is_unpluggable(disk: &Disk) -> bool {
    is_pluggable(disk) && disk.device != "cdrom"
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
    disk.source = source;
    // The backing chain that libvirt found was the old medium's.
    disk.backing_store = None;
    disk.driver = Some(DiskDriver { type_: "raw".into(), ..disk.driver.unwrap_or_default() });
    Some(DiskChange::ChangeMedium(disk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Alias, DataStore, DiskSource, DomainSpec};

    fn disk(device: &str, bus: &str, target: &str, file: &str) -> Disk {
        let xml = format!(
            "<domain type='kvm'><devices><disk type='file' device='{device}'><driver name='qemu'/><source file='{file}'/>\
             <target dev='{target}' bus='{bus}'/></disk></devices></domain>"
        );
        DomainSpec::from_xml(&xml).unwrap().devices.disks.remove(0)
    }

    fn named(alias: &str, disk: Disk) -> Disk {
        Disk { alias: Some(Alias::user(alias)), ..disk }
    }

    fn plugged(target: &str, volume: &str) -> Disk {
        named(volume, disk("disk", "virtio", target, &format!("{HOTPLUG}{volume}.img")))
    }

    #[test]
    fn changes_are_of_hot_plugged_volumes_only_and_the_gone_go_first() {
        let root = disk("disk", "virtio", "vda", "/var/run/kubevirt-private/vmi-disks/root/disk.img");
        let other_root = disk("disk", "virtio", "vdx", "/var/run/kubevirt-private/vmi-disks/x/disk.img");
        let live = [root.clone(), plugged("vdb", "old"), plugged("vdc", "kept")];
        let wanted = [other_root, plugged("vdc", "kept"), plugged("vdd", "new")];
        let changes = changes(&live, &wanted);
        assert_eq!(changes, [DiskChange::Detach(plugged("vdb", "old")), DiskChange::Attach(plugged("vdd", "new"))]);
    }

    #[test]
    fn changes_know_a_disk_by_what_it_is_and_not_by_its_name() {
        let live = [plugged("vdb", "a"), plugged("vdc", "b"), plugged("vdd", "c")];
        // The first is gone, and the others were given the names before theirs.
        let wanted = [plugged("vdb", "b"), plugged("vdc", "c")];
        assert_eq!(changes(&live, &wanted), [DiskChange::Detach(plugged("vdb", "a"))]);
        // In another order.
        assert_eq!(changes(&live, &[plugged("vdb", "c"), plugged("vdc", "a"), plugged("vdd", "b")]), []);
        // Another one in the place of the first.
        let replaced = [DiskChange::Detach(plugged("vdb", "a")), DiskChange::Attach(plugged("vdb", "x"))];
        assert_eq!(changes(&live[..1], &[plugged("vdb", "x")]), replaced);
        // Without its alias, as another launcher may have plugged it.
        let strange = Disk { alias: Some(Alias::bare("virtio-disk1")), ..plugged("vdb", "a") };
        assert_eq!(changes(&[strange], &[plugged("vdx", "a")]), []);
    }

    #[test]
    fn changes_replace_a_disk_of_the_same_name_on_another_bus_or_source() {
        let live = plugged("vdb", "v");
        let mut block = live.clone();
        block.source = DiskSource { dev: format!("{HOTPLUG}v"), ..DiskSource::default() };
        let scsi = named("v", disk("disk", "scsi", "sda", &format!("{HOTPLUG}v.img")));
        let lun = named("v", disk("lun", "virtio", "vdb", &format!("{HOTPLUG}v.img")));
        for new in [block, scsi, lun] {
            let replaced = [DiskChange::Replace { old: live.clone(), new: Box::new(new.clone()) }];
            assert_eq!(changes(std::slice::from_ref(&live), std::slice::from_ref(&new)), replaced);
        }
        // What cannot be plugged takes nothing out.
        let permanent = named("v", disk("disk", "virtio", "vdb", "/var/run/kubevirt-private/vmi-disks/v/disk.img"));
        let sata = named("v", disk("disk", "sata", "sda", &format!("{HOTPLUG}v.img")));
        for new in [permanent, sata] {
            assert_eq!(changes(std::slice::from_ref(&live), std::slice::from_ref(&new)), []);
            assert_eq!(changes(std::slice::from_ref(&new), std::slice::from_ref(&live)), []);
        }
    }

    #[test]
    fn sata_disks_stay_and_scsi_disks_go() {
        let sata = disk("disk", "sata", "sda", &format!("{HOTPLUG}a.img"));
        assert_eq!(changes(std::slice::from_ref(&sata), &[]), []);
        assert_eq!(changes(&[], std::slice::from_ref(&sata)), []);
        // It has come with the domain, or it never can.
        assert!(impossible(std::slice::from_ref(&sata), std::slice::from_ref(&sata)).is_empty());
        assert_eq!(impossible(&[], std::slice::from_ref(&sata)), [&sata]);
        assert!(
            impossible(&[], &[plugged("vda", "v"), disk("cdrom", "sata", "sda", &format!("{HOTPLUG}a.img"))])
                .is_empty()
        );
        let scsi = disk("disk", "scsi", "sda", &format!("{HOTPLUG}a.img"));
        assert_eq!(changes(std::slice::from_ref(&scsi), &[]), [DiskChange::Detach(scsi)]);
    }

    #[test]
    fn disk_behind_an_overlay_is_known_by_its_data() {
        let mut tracked = disk("disk", "virtio", "vdb", "/var/lib/libvirt/qemu/cbt/v.qcow2");
        tracked.source.data_store = Some(DataStore {
            source: Some(Box::new(DiskSource { file: format!("{HOTPLUG}v.img"), ..DiskSource::default() })),
            ..DataStore::default()
        });
        assert_eq!(changes(std::slice::from_ref(&tracked), &[]), [DiskChange::Detach(tracked)]);
    }

    #[test]
    fn medium_is_inserted_changed_and_ejected() {
        let empty = named("iso", disk("cdrom", "sata", "sda", ""));
        // The names of the wanted disks are those of another order.
        let full = named("iso", disk("cdrom", "sata", "sdc", &format!("{HOTPLUG}iso.img")));
        let source_of = |changes: &[DiskChange]| match changes {
            [DiskChange::ChangeMedium(disk)] => (disk.type_.clone(), disk.source.file.clone()),
            other => panic!("{other:?}"),
        };
        let inserted = changes(std::slice::from_ref(&empty), std::slice::from_ref(&full));
        assert_eq!(source_of(&inserted), ("file".into(), full.source.file.clone()));
        let DiskChange::ChangeMedium(drive) = &inserted[0] else { panic!() };
        assert_eq!(drive.target.device, "sda");
        assert_eq!(drive.driver.as_ref().unwrap().type_, "raw");
        let ejected = changes(std::slice::from_ref(&full), std::slice::from_ref(&empty));
        assert_eq!(source_of(&ejected), ("block".into(), String::new()));
        // A drive that is no longer wanted at all stays, and is emptied.
        assert_eq!(source_of(&changes(std::slice::from_ref(&full), &[])), ("block".into(), String::new()));
        assert_eq!(changes(std::slice::from_ref(&full), std::slice::from_ref(&full)), []);
        assert_eq!(changes(std::slice::from_ref(&empty), &[]), []);
        // Another drive that has its name by now.
        let other = named("other", disk("cdrom", "sata", "sda", ""));
        let live = [empty, named("other", disk("cdrom", "sata", "sdb", ""))];
        assert_eq!(changes(&live, &[other]), []);
    }

    #[test]
    fn medium_that_was_there_at_boot_stays() {
        let boot = named("iso", disk("cdrom", "sata", "sda", "/var/run/kubevirt-private/vmi-disks/iso/disk.img"));
        let full = named("iso", disk("cdrom", "sata", "sda", &format!("{HOTPLUG}iso.img")));
        assert_eq!(changes(std::slice::from_ref(&boot), std::slice::from_ref(&full)), []);
        assert_eq!(changes(&[full], &[boot]), []);
    }
}
