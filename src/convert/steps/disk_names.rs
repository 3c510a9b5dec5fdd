//! Target names of disks (contract/domain-xml-qemu.md 8.2).

use std::collections::BTreeSet;

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

/// The zero-based index of a name with this prefix; 0 for any other name.
pub(super) fn index(name: &str, prefix: &str) -> u64 {
    let Some(letters) = name.strip_prefix(prefix) else { return 0 };
    let value = letters.bytes().fold(0_u64, |value, byte| {
        value.saturating_mul(26).saturating_add(u64::from(byte.wrapping_sub(b'a')).saturating_add(1))
    });
    value.saturating_sub(1)
}

/// Gives names out.
pub(super) struct Names {
    taken: BTreeSet<String>,
}

impl Names {
    /// Reserves the names that disks keep.
    pub(super) fn new(kept: impl IntoIterator<Item = String>) -> Self {
        Names { taken: kept.into_iter().collect() }
    }

    /// The first free name of a bus.
    pub(super) fn next(&mut self, bus: &str) -> String {
        let prefix = prefix(bus);
        for number in 0.. {
            let name = format!("{prefix}{}", letters(number));
            if self.taken.insert(name.clone()) {
                return name;
            }
        }
        String::new()
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
        assert_eq!(index("vda", "sd"), 0);
    }

    #[test]
    fn kept_names_are_skipped_and_buses_share_a_prefix() {
        let mut names = Names::new(["sdb".to_owned()]);
        assert_eq!(names.next("sata"), "sda");
        assert_eq!(names.next("scsi"), "sdc");
        assert_eq!(names.next("virtio"), "vda");
        assert_eq!(names.next("odd"), "a");
    }
}
