//! Disks: buses, caches, serial numbers, block sizes, sharing.

use super::super::facts::Profile;
use super::super::steps::bus_of;
use super::{Rules, shown};
use crate::vmi::{CustomBlockSize, Disk, Volume};

/// Bytes of the largest block that QEMU has.
const LARGEST_BLOCK: u64 = 2 << 20;
/// Most bytes of a serial number of QEMU's SCSI disks, and of those behind a USB bridge, where it is the device's ID too.
const LONGEST_SCSI_SERIAL: usize = 36;
const LONGEST_USB_SERIAL: usize = 20;
/// Most bytes of a serial number that the API admits.
const LONGEST_SERIAL: usize = 256;

pub(super) fn check(rules: &mut Rules<'_>) {
    let disks = &rules.vmi.spec.domain.devices.disks;
    rules.unique("spec.domain.devices.disks", "name", disks.iter().map(|disk| disk.name.as_str()));
    for (index, disk) in disks.iter().enumerate() {
        let path = format!("spec.domain.devices.disks[{index}]");
        if rules.facts.hypervisor.profile != Profile::Qemu {
            // Buses and the like are not the same everywhere, and `hypervisor/features.yaml` says what another one has.
            kind(rules, &path, disk);
            continue;
        }
        target(rules, &path, disk);
        driver(rules, &path, disk);
        if !disk.serial.is_empty() && disk.disk.is_some() {
            serial(rules, &path, disk);
        }
        if let Some(size) = disk.block_size.as_ref().and_then(|size| size.custom.as_ref()) {
            block_size(rules, &format!("{path}.blockSize.custom"), disk, size);
        }
    }
}

/// What a disk is shown to the guest as, by the field.
fn kinds(disk: &Disk) -> Vec<&'static str> {
    let kinds = [("disk", disk.disk.is_some()), ("lun", disk.lun.is_some()), ("cdrom", disk.cdrom.is_some())];
    kinds.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
}

/// The one thing that a disk is shown as.
fn kind(rules: &mut Rules<'_>, path: &str, disk: &Disk) -> Option<&'static str> {
    match kinds(disk).as_slice() {
        [] => rules.refuse(path, "has none of disk, lun and cdrom"),
        [kind] => return Some(kind),
        [first, second, ..] => rules.refuse(path, format!("is {first} and {second}; it can be one of them")),
    }
    None
}

fn target(rules: &mut Rules<'_>, path: &str, disk: &Disk) {
    let Some(kind) = kind(rules, path, disk) else { return };
    let field = format!("{path}.{kind}.bus");
    match (bus_of(disk), kind) {
        ("", _) => rules.refuse(field, "is missing"),
        ("usb", "cdrom") if !rules.vmi.spec.volumes.iter().any(|volume| volume.name == disk.name) => {
            rules.refuse(field, "there is no empty CD-ROM drive on usb; sata and scsi have one");
        }
        ("virtio", "cdrom") => rules.refuse(field, "there is no CD-ROM on virtio; sata, scsi and usb have one"),
        ("sata", "lun") => rules.refuse(field, "there is no LUN on sata; scsi has one"),
        ("usb", "lun") => rules.refuse(field, "there is no LUN on usb; scsi has one"),
        ("virtio", "lun") => rules.refuse(field, "there is no LUN on virtio; scsi has one"),
        ("virtio" | "sata" | "scsi" | "usb", _) => {}
        (other, _) => rules.refuse(field, format!("{} is none of virtio, sata, scsi, usb", shown(other))),
    }
    if disk.disk.as_ref().is_some_and(|target| target.readonly && target.bus == "sata") {
        rules.refuse(format!("{path}.disk.readonly"), "a disk on sata cannot be read-only; a cdrom is");
    }
    if let Some(cdrom) = &disk.cdrom
        && !cdrom.tray.is_empty()
    {
        rules.one_of(format!("{path}.cdrom.tray"), &cdrom.tray, &["open", "closed"]);
    }
    let volume = rules.vmi.spec.volumes.iter().rfind(|volume| volume.name == disk.name);
    if let Some(volume) = volume.filter(|volume| disk.lun.is_some() && !may_be_block(rules, volume)) {
        rules
            .refuse(format!("{path}.lun"), format!("the volume {} is a file; a LUN needs a block device", volume.name));
    }
}

/// Whether the volume is a device on the node. Which claims are, the pod knows, but of those that virt-handler has not
/// mounted yet.
fn may_be_block(rules: &Rules<'_>, volume: &Volume) -> bool {
    let facts = rules.facts;
    let status = rules.vmi.status.volume_status.iter().rfind(|status| status.name == volume.name);
    let is_to_come = status.is_some_and(|status| {
        status.hotplug_volume.is_some() && !matches!(status.phase.as_str(), "MountedToPod" | "Ready")
    });
    let is_claim = volume.persistent_volume_claim.is_some() || volume.data_volume.is_some();
    let is_block = facts.block_volumes.contains(&volume.name) || facts.hotplug_block_volumes.contains(&volume.name);
    is_claim && (is_block || is_to_come)
}

fn driver(rules: &mut Rules<'_>, path: &str, disk: &Disk) {
    const CACHES: &[&str] = &["none", "writethrough", "writeback", "directsync", "unsafe", "default"];
    if !disk.cache.is_empty() {
        rules.one_of(format!("{path}.cache"), &disk.cache, CACHES);
    }
    if !disk.io.is_empty() {
        rules.one_of(format!("{path}.io"), &disk.io, &["native", "threads", "io_uring"]);
    }
    if disk.io == "native" && matches!(disk.cache.as_str(), "writethrough" | "writeback" | "unsafe") {
        rules.refuse(format!("{path}.io"), format!("native needs cache none or directsync, not {}", disk.cache));
    }
    let volume = rules.vmi.spec.volumes.iter().rfind(|volume| volume.name == disk.name);
    let is_overlay =
        |volume: &Volume| volume.container_disk.is_some() || volume.empty_disk.is_some() || volume.ephemeral.is_some();
    if let Some(volume) = volume.filter(|volume| is_overlay(volume))
        && disk.shareable == Some(true)
        && disk.disk.is_some()
    {
        let reason =
            format!("the volume {} is a qcow2 image, which has one writer; raw images can be shared", volume.name);
        rules.refuse(format!("{path}.shareable"), reason);
    }
}

fn serial(rules: &mut Rules<'_>, path: &str, disk: &Disk) {
    let path = format!("{path}.serial");
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+- ".contains(&byte);
    let longest = match bus_of(disk) {
        "scsi" => LONGEST_SCSI_SERIAL,
        "usb" => LONGEST_USB_SERIAL,
        _ => LONGEST_SERIAL,
    };
    if !disk.serial.bytes().all(is_safe) {
        rules.refuse(path, format!("{} has other characters than A-Z a-z 0-9 _ . + - and space", shown(&disk.serial)));
    } else if disk.serial.len() > longest {
        rules.refuse(path, format!("{} bytes are more than the {longest} on {}", disk.serial.len(), bus_of(disk)));
    }
}

fn block_size(rules: &mut Rules<'_>, path: &str, disk: &Disk, size: &CustomBlockSize) {
    let CustomBlockSize { logical, physical, discard_granularity } = *size;
    let before = rules.found.len();
    for (field, size) in [("logical", logical), ("physical", physical)] {
        if size != 0 && (!size.is_power_of_two() || !(512..=LARGEST_BLOCK).contains(&size)) {
            let reason = format!("{size} is not a power of 2 from 512 to {LARGEST_BLOCK}");
            rules.refuse(format!("{path}.{field}"), reason);
        }
    }
    if rules.found.len() > before {
        return;
    }
    if logical > physical && physical != 0 {
        rules.refuse(format!("{path}.logical"), format!("{logical} is more than the physical block of {physical}"));
    }
    if bus_of(disk) == "sata" && logical > 512 {
        rules.refuse(format!("{path}.logical"), format!("{logical}: blocks on sata have 512 bytes"));
    }
    let Some(granularity) = discard_granularity else { return };
    let path = format!("{path}.discardGranularity");
    if u32::try_from(granularity).is_err() || granularity % logical.max(1) != 0 {
        rules.refuse(path, format!("{granularity} is not a 32-bit multiple of the logical block of {logical}"));
    } else if bus_of(disk) == "sata" && !matches!(granularity, 0 | 512) {
        rules.refuse(path, format!("{granularity}: blocks on sata have 512 bytes"));
    }
}
