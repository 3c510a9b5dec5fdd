//! Claims that grew while the VM runs (contract/cmd-server.md 5.4, 5.6): the guest is given the new size.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::domain::Disk;
use crate::libvirt::BlockSize;

/// Guests' disks are whole mebibytes.
const MEBIBYTE: u64 = 1 << 20;
/// Bytes in a unit of `st_blocks`.
const STAT_BLOCK: u64 = 512;

/// What the machine says of a disk's backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A file: its bytes on disk, and those that its file system has left.
    File {
        /// Bytes that the file occupies.
        actual: u64,
        /// Bytes that it may still take.
        free: u64,
    },
    /// A device, with its size in bytes.
    Device(u64),
}

/// A disk that is to be told its new size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resize {
    /// The path of its source, as libvirt knows it.
    pub path: String,
    /// The new size.
    pub size: BlockSize,
    /// What is remembered once libvirt has done it.
    pub bytes: u64,
}

/// A backend that is not there is measured at a later sync.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
pub(crate) fn measure(path: &Path) -> Option<Backend> {
    let found = std::fs::metadata(path).ok()?;
    if found.file_type().is_block_device() {
        return Some(Backend::Device(File::open(path).ok()?.seek(SeekFrom::End(0)).ok()?));
    }
    // Numbers of the file system's; more than 64 bits are room enough for any claim.
    let room = nix::sys::statvfs::statvfs(path).ok()?;
    let free = room.blocks_available().saturating_mul(room.fragment_size());
    Some(Backend::File { actual: found.blocks().saturating_mul(STAT_BLOCK), free })
}

/// The size that is tracked for a disk, and what libvirt is to be told about it; `None` for a disk that is no claim, or
/// of which too little is known.
pub fn wanted_size(disk: &Disk, backend: Backend) -> Option<(u64, BlockSize)> {
    let capacity = u64::try_from(disk.capacity?).ok()?;
    match backend {
        Backend::Device(_) if disk.source.data_store.is_none() => Some((capacity, BlockSize::Device)),
        Backend::Device(bytes) => Some((bytes, BlockSize::Bytes(bytes))),
        Backend::File { actual, free } => {
            let bytes = guest_size(disk, capacity, actual, free)?;
            Some((bytes, BlockSize::Bytes(bytes)))
        }
    }
}

/// What a file may grow to: the claim or the room there is, less what the file system needs, in whole MiB.
fn guest_size(disk: &Disk, capacity: u64, actual: u64, free: u64) -> Option<u64> {
    let overhead: f64 = disk.filesystem_overhead.as_ref()?.parse().ok()?;
    if !(0.0..=1.0).contains(&overhead) {
        return None;
    }
    // Numbers of the machine's; more than 64 bits are room enough for any claim.
    let room = capacity.min(actual.saturating_add(free));
    // From 2^53 on a `f64` is one of the numbers nearby, which may be above.
    let bytes = (((1.0 - overhead) * room as f64) as u64).min(room);
    Some(bytes - bytes % MEBIBYTE)
}

/// Disks that grew since they were seen first; `seen` learns those that are new and forgets those that are gone. A size
/// that went down is left alone: the guest would lose data (the original hands it on).
pub fn resizes(seen: &mut BTreeMap<String, u64>, now: Vec<(String, u64, BlockSize)>) -> Vec<Resize> {
    seen.retain(|path, _| now.iter().any(|(known, _, _)| known == path));
    now.into_iter()
        .filter_map(|(path, bytes, size)| match seen.get(&path) {
            Some(known) if bytes > *known => Some(Resize { path, size, bytes }),
            Some(_) => None,
            None => {
                seen.insert(path, bytes);
                None
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DataStore;

    const GIB: u64 = 1 << 30;

    fn disk(overhead: Option<&str>, capacity: Option<i64>) -> Disk {
        Disk { filesystem_overhead: overhead.map(str::to_owned), capacity, ..Disk::default() }
    }

    #[test]
    fn file_may_fill_the_claim_or_the_room_less_the_overhead() {
        let file = |actual, free| Backend::File { actual, free };
        let size = |overhead, backend| wanted_size(&disk(Some(overhead), Some(10 << 30)), backend).map(|size| size.0);
        assert_eq!(size("0", file(GIB, 100 * GIB)), Some(10 * GIB));
        assert_eq!(size("0", file(GIB, 2 * GIB + 5)), Some(3 * GIB));
        let with_overhead = size("0.055", file(GIB, 100 * GIB)).unwrap();
        assert_eq!(with_overhead, (10 * GIB * 945 / 1000) / MEBIBYTE * MEBIBYTE);
        // More than 2^53: the nearest `f64` is 2^53 itself.
        let large = (1_i64 << 53) - 1 + (1 << 54);
        let whole = wanted_size(&disk(Some("0"), Some(large)), file(u64::MAX, u64::MAX)).unwrap().0;
        assert!(whole <= large.unsigned_abs() && whole.is_multiple_of(MEBIBYTE), "{whole}");
        for bad in ["1.5", "-0.1", "x", "NaN"] {
            assert_eq!(size(bad, file(GIB, GIB)), None, "{bad}");
        }
        assert_eq!(wanted_size(&disk(None, Some(1)), file(1, 1)), None);
        assert_eq!(wanted_size(&disk(Some("0"), None), file(1, 1)), None);
        assert_eq!(wanted_size(&disk(Some("0"), Some(-1)), file(1, 1)), None);
    }

    #[test]
    fn device_is_as_large_as_itself() {
        let mut disk = disk(None, Some(5));
        assert_eq!(wanted_size(&disk, Backend::Device(7)), Some((5, BlockSize::Device)));
        disk.source.data_store = Some(DataStore::default());
        assert_eq!(wanted_size(&disk, Backend::Device(7)), Some((7, BlockSize::Bytes(7))));
    }

    #[test]
    fn only_growth_is_reported_and_until_it_is_done() {
        let mut seen = BTreeMap::new();
        let now = |bytes| vec![("/a".to_owned(), bytes, BlockSize::Bytes(bytes))];
        assert_eq!(resizes(&mut seen, now(10)), []);
        assert_eq!(resizes(&mut seen, now(10)), []);
        assert_eq!(resizes(&mut seen, now(9)), []);
        let grown = [Resize { path: "/a".into(), size: BlockSize::Bytes(12), bytes: 12 }];
        assert_eq!(resizes(&mut seen, now(12)), grown);
        // It failed: it is tried again.
        assert_eq!(resizes(&mut seen, now(12)), grown);
        seen.insert("/a".into(), 12);
        assert_eq!(resizes(&mut seen, now(12)), []);
        assert_eq!(resizes(&mut seen, Vec::new()), []);
        assert_eq!(resizes(&mut seen, now(20)), [], "a disk that came back is a new one");
    }

    #[test]
    fn file_is_measured_with_its_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.img");
        assert_eq!(measure(&path), None);
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        File::open(&path).unwrap().sync_all().unwrap();
        let Some(Backend::File { actual, free }) = measure(&path) else { panic!() };
        assert!(actual >= 1 << 20 && free > 0, "{actual} {free}");
    }
}
