//! Target names of disks and units of SCSI disks (contract/domain-xml-qemu.md 8.2).
//!
//! A name may be one that the disk keeps, from the VMI's status or from the running domain; its prefix may then be that of
//! another bus. libvirt refuses two disks of one name, and two that their names put in the same place of a bus, so a kept
//! name never meets another one here. The original compares names per prefix only and makes such documents (17.17).

use std::collections::BTreeSet;

use crate::domain::{Address, Disk};

/// Prefixes of the names that libvirt knows.
const PREFIXES: [&str; 6] = ["fd", "hd", "vd", "sd", "xvd", "ubd"];

/// The prefix that a bus's names have.
fn prefix(bus: &str) -> &'static str {
    match bus {
        "virtio" => "vd",
        "sata" | "scsi" | "usb" => "sd",
        _ => "",
    }
}

/// The letters of a zero-based index: a … z, aa, ab, …
fn letters(index: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = index + 1;
    while rest > 0 {
        rest -= 1;
        letters.push(b'a' + (rest % 26) as u8);
        rest /= 26;
    }
    letters.reverse();
    String::from_utf8_lossy(&letters).into_owned()
}

/// Most letters that a name is given.
const MOST_LETTERS: usize = 3;

/// The zero-based index of letters, if they are some.
fn index(letters: &str) -> Option<u64> {
    if letters.is_empty() || letters.len() > MOST_LETTERS || !letters.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    let value = letters.bytes().fold(0, |value, byte| value * 26 + u64::from(byte - b'a') + 1);
    Some(value - 1)
}

/// The index that libvirt reads from a name, whatever its prefix; `None` for a name that it refuses.
fn libvirt_index(name: &str) -> Option<u64> {
    PREFIXES.iter().find_map(|prefix| index(name.strip_prefix(prefix)?))
}

/// A disk as far as its name depends on it.
#[derive(Debug, Default)]
pub(super) struct Claim<'a> {
    /// Its bus.
    pub(super) bus: &'a str,
    /// Whether it is a CD-ROM drive.
    pub(super) is_cdrom: bool,
    /// The name that the VMI's status has for it; may be empty, stale, or another disk's.
    pub(super) status: &'a str,
    /// The disk of the running domain that it is.
    pub(super) live: Option<&'a Disk>,
}

/// The place on its bus that libvirt gives a disk by its name, where we give it none.
fn place<'a>(bus: &'a str, is_cdrom: bool, name: &str) -> Option<(&'a str, u64)> {
    match bus {
        "sata" => Some((bus, libvirt_index(name)?)),
        "scsi" if is_cdrom => Some((bus, libvirt_index(name)?)),
        _ => None,
    }
}

/// Names that are taken, and places.
#[derive(Default)]
struct Taken<'a> {
    names: BTreeSet<String>,
    places: BTreeSet<(&'a str, u64)>,
}

impl<'a> Taken<'a> {
    /// Takes the name if neither it nor its place is taken.
    fn take(&mut self, bus: &'a str, is_cdrom: bool, name: &str) -> bool {
        let place = place(bus, is_cdrom, name);
        let is_free = !self.names.contains(name) && place.is_none_or(|place| !self.places.contains(&place));
        if is_free {
            self.names.insert(name.to_owned());
            self.places.extend(place);
        }
        is_free
    }
}

/// The disks' names: that of the running domain, else the status's while it is free, else the first free one of the bus.
/// `live` are all disks of the running domain: also those that are about to go have their names until they are gone.
pub(super) fn assign<'a>(claims: &[Claim<'a>], live: &'a [Disk]) -> Vec<String> {
    let mut taken = Taken::default();
    for disk in live {
        taken.take(&disk.target.bus, disk.device == "cdrom", &disk.target.device);
    }
    let kept: Vec<Option<String>> = claims
        .iter()
        .map(|claim| match claim.live {
            Some(disk) => Some(disk.target.device.clone()),
            None if libvirt_index(claim.status).is_some() => {
                taken.take(claim.bus, claim.is_cdrom, claim.status).then(|| claim.status.to_owned())
            }
            None => None,
        })
        .collect();
    claims
        .iter()
        .zip(kept)
        .map(|(claim, kept)| {
            kept.unwrap_or_else(|| {
                let prefix = prefix(claim.bus);
                let mut names = (0..).map(|number| format!("{prefix}{}", letters(number)));
                // There are fewer names taken than numbers.
                names.find(|name| taken.take(claim.bus, claim.is_cdrom, name)).unwrap_or_default()
            })
        })
        .collect()
}

/// Puts the SCSI disks that are not in the running domain where their names say: the unit is the index of the letters, 0
/// for a kept name of another prefix. Of two that would be in one place the one without letters of its own makes room.
/// `is_new` says which of the disks these are; `live` are all disks of the running domain.
pub(super) fn place_on_scsi(disks: &mut [Disk], is_new: &[bool], live: &[Disk]) {
    let is_placed = |disk: &Disk| disk.target.bus == "scsi" && matches!(disk.device.as_str(), "disk" | "lun");
    let mut taken: BTreeSet<u64> = live.iter().filter_map(unit_on_first_controller).collect();
    // libvirt puts the drives where their names say, seven on a controller.
    let drives = disks.iter().filter(|disk| disk.target.bus == "scsi" && disk.device == "cdrom");
    taken.extend(drives.filter_map(|drive| libvirt_index(&drive.target.device)).filter(|index| *index < 7));
    let by_name = |disk: &Disk| disk.target.device.strip_prefix(prefix("scsi")).and_then(index);
    let mut units: Vec<Option<u64>> = vec![None; disks.len()];
    for has_letters in [true, false] {
        for ((disk, unit), is_new) in disks.iter().zip(&mut units).zip(is_new) {
            if *is_new && is_placed(disk) && unit.is_none() && by_name(disk).is_some() == has_letters {
                let wished = by_name(disk).unwrap_or_default();
                let mut choice = std::iter::once(wished).chain(0..);
                *unit = choice.find(|unit| taken.insert(*unit));
            }
        }
    }
    for (disk, unit) in disks.iter_mut().zip(units) {
        if let Some(unit) = unit {
            disk.address = Some(Address {
                type_: "drive".into(),
                controller: "0".into(),
                bus: "0".into(),
                unit: unit.to_string(),
                ..Address::default()
            });
        }
    }
}

/// The unit of a running domain's disk on the SCSI controller that all disks are put on.
fn unit_on_first_controller(disk: &Disk) -> Option<u64> {
    let address = disk.address.as_ref().filter(|_| disk.target.bus == "scsi")?;
    (address.type_ == "drive" && address.controller == "0").then(|| address.unit.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DiskTarget;

    fn disk(bus: &str, device: &str, name: &str) -> Disk {
        Disk {
            device: device.into(),
            target: DiskTarget { bus: bus.into(), device: name.into(), ..DiskTarget::default() },
            ..Disk::default()
        }
    }

    fn names(claims: &[(&str, &str)], live: &[Disk]) -> Vec<String> {
        let claims: Vec<Claim<'_>> =
            claims.iter().map(|(bus, status)| Claim { bus, status, ..Claim::default() }).collect();
        assign(&claims, live)
    }

    #[test]
    fn letters_and_index_are_inverse_beyond_z() {
        for (number, text) in
            [(0, "a"), (25, "z"), (26, "aa"), (27, "ab"), (51, "az"), (52, "ba"), (701, "zz"), (702, "aaa")]
        {
            assert_eq!(letters(number), text);
            assert_eq!(libvirt_index(&format!("vd{text}")), Some(number as u64));
        }
        for other in ["", "sd", "sdA", "sdb1", "sdabcd", "a", "disk"] {
            assert_eq!(libvirt_index(other), None, "{other}");
        }
    }

    #[test]
    fn kept_names_are_skipped_whatever_their_prefix() {
        let claims = [("sata", ""), ("usb", "vda"), ("sata", "sdb"), ("scsi", ""), ("virtio", ""), ("odd", "")];
        assert_eq!(names(&claims, &[]), ["sda", "vda", "sdb", "sdc", "vdb", "a"]);
        // The bus changed, and left the name of another one.
        assert_eq!(names(&[("virtio", "sda"), ("sata", ""), ("virtio", "")], &[]), ["sda", "sdb", "vda"]);
    }

    #[test]
    fn kept_names_that_contradict_each_other_go_to_the_first() {
        assert_eq!(names(&[("virtio", "vda"), ("virtio", "vda"), ("virtio", "")], &[]), ["vda", "vdb", "vdc"]);
        assert_eq!(names(&[("virtio", "vdb"), ("sata", "vdb")], &[]), ["vdb", "sda"]);
        for nonsense in ["vd", "disk0", "../a"] {
            assert_eq!(names(&[("virtio", nonsense)], &[]), ["vda"], "libvirt refuses {nonsense}");
        }
    }

    #[test]
    fn sata_names_of_another_prefix_are_never_two_for_one_place() {
        // libvirt puts vda and sda of a SATA bus into the same unit.
        assert_eq!(names(&[("sata", "vda"), ("sata", "")], &[]), ["vda", "sdb"]);
        assert_eq!(names(&[("sata", "sda"), ("sata", "vda")], &[]), ["sda", "sdb"]);
        assert_eq!(names(&[("sata", "vda"), ("usb", "")], &[]), ["vda", "sda"], "another bus");
    }

    #[test]
    fn running_domains_names_stay_and_are_given_to_nobody_else() {
        let live = [disk("virtio", "disk", "vda"), disk("virtio", "disk", "vdc"), disk("scsi", "disk", "sda")];
        let claims = [
            Claim { bus: "virtio", status: "vda", ..Claim::default() },
            Claim { bus: "virtio", status: "vdb", live: live.get(1), ..Claim::default() },
            Claim { bus: "virtio", status: "vdb", ..Claim::default() },
            Claim { bus: "scsi", status: "vdc", ..Claim::default() },
        ];
        // vda is about to go; the status is of another time.
        assert_eq!(assign(&claims, &live), ["vdd", "vdc", "vdb", "sdb"]);
    }

    fn units(disks: &[(&str, &str)], live: &[Disk]) -> Vec<String> {
        let mut disks: Vec<Disk> = disks.iter().map(|(device, name)| disk("scsi", device, name)).collect();
        let is_new = vec![true; disks.len()];
        place_on_scsi(&mut disks, &is_new, live);
        disks.iter().map(|disk| disk.address.as_ref().map(|address| address.unit.clone()).unwrap_or_default()).collect()
    }

    #[test]
    fn scsi_disks_are_where_their_letters_say_unless_somebody_is_there() {
        assert_eq!(units(&[("disk", "sdb"), ("lun", "sdaa"), ("disk", "vdf")], &[]), ["1", "26", "0"]);
        assert_eq!(units(&[("disk", "vda"), ("disk", "sda"), ("disk", "vdb")], &[]), ["1", "0", "2"]);
        assert_eq!(units(&[("cdrom", "vdc"), ("disk", "sdc"), ("cdrom", "sdj")], &[]), ["", "0", ""]);
        let mut live = [disk("scsi", "disk", "vdx")];
        place_on_scsi(&mut live, &[true], &[]);
        assert_eq!(units(&[("disk", "sda"), ("disk", "sdb")], &live), ["1", "2"]);
    }
}
