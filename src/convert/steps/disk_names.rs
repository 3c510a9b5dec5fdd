//! Target names of disks (contract/domain-xml-qemu.md 8.2).

use std::collections::{BTreeMap, BTreeSet};

/// The prefix that a bus's names have.
pub(super) fn prefix(bus: &str) -> &'static str {
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

/// The zero-based index of a name with this prefix; 0 for any other name.
pub(super) fn index(name: &str, prefix: &str) -> u64 {
    let letters = name.strip_prefix(prefix).unwrap_or_default();
    if letters.len() > MOST_LETTERS || !letters.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return 0;
    }
    let value = letters.bytes().fold(0, |value, byte| value * 26 + u64::from(byte - b'a') + 1);
    value.saturating_sub(1)
}

/// Gives names out: per prefix, and to two disks of one name the same.
#[derive(Default)]
pub(super) struct Names {
    /// Target names by prefix and disk name.
    given: BTreeMap<(&'static str, String), String>,
    /// Target names that are taken. A kept name may have another bus's prefix, and no two disks may share one.
    taken: BTreeSet<String>,
}

impl Names {
    /// Reserves the name that a disk keeps.
    pub(super) fn keep(&mut self, disk: &str, bus: &str, target: &str) {
        let prefix = prefix(bus);
        self.given.insert((prefix, disk.to_owned()), target.to_owned());
        self.taken.insert(target.to_owned());
    }

    /// The name that the disk has or keeps, else the first free one of its bus.
    pub(super) fn of(&mut self, disk: &str, bus: &str) -> String {
        let prefix = prefix(bus);
        let key = (prefix, disk.to_owned());
        if let Some(name) = self.given.get(&key) {
            return name.clone();
        }
        // There are fewer names taken than numbers.
        let mut names = (0..).map(|number| format!("{prefix}{}", letters(number)));
        let name = names.find(|name| self.taken.insert(name.clone())).unwrap_or_default();
        self.given.insert(key, name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_and_index_are_inverse_beyond_z() {
        for (number, text) in
            [(0, "a"), (25, "z"), (26, "aa"), (27, "ab"), (51, "az"), (52, "ba"), (701, "zz"), (702, "aaa")]
        {
            assert_eq!(letters(number), text);
            assert_eq!(index(&format!("vd{text}"), "vd"), number as u64);
        }
        for other in ["vda", "sd", "sdA", "sdb1", "sdabcd"] {
            assert_eq!(index(other, "sd"), 0, "{other}");
        }
    }

    #[test]
    fn kept_names_are_skipped_and_buses_share_a_prefix() {
        let mut names = Names::default();
        names.keep("kept", "sata", "sdb");
        names.keep("moved", "usb", "vda");
        assert_eq!(names.of("one", "sata"), "sda");
        assert_eq!(names.of("two", "scsi"), "sdc");
        assert_eq!(names.of("kept", "scsi"), "sdb");
        assert_eq!(names.of("one", "sata"), "sda");
        // A kept name of another prefix is taken, too.
        assert_eq!(names.of("moved", "usb"), "vda");
        assert_eq!(names.of("three", "virtio"), "vdb");
        assert_eq!(names.of("four", "odd"), "a");
    }
}
