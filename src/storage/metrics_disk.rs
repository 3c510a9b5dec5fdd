//! The disk through which a guest reads the host's metrics, as vhostmd has it (contract/lifecycle.md 9.4).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Owner, Staged, StorageError};

/// Size of the disk in bytes.
const SIZE: usize = 256 * 1024;
/// What the disk starts with.
const SIGNATURE: [u8; 4] = *b"mvbd";
/// Signature, lock flag, checksum, length: four bytes each, big-endian.
const HEADER: usize = 16;
/// What a disk says before anybody has written metrics.
const NO_METRICS: &[u8] = b"<metrics></metrics>\n";

/// Makes the disk without metrics in it; the guest finds a valid, empty document.
pub async fn make_metrics_disk(path: &Path) -> Result<(), StorageError> {
    Staged::new(path, Owner::me(), 0o755).await?.write(write).await?.publish().await
}

fn write(file: &File) -> io::Result<()> {
    file.set_len(SIZE as u64)?;
    // A reader that sees the lock flag tries again; so the flag goes last.
    file.write_all_at(&header(true), 0)?;
    file.sync_all()?;
    file.write_all_at(NO_METRICS, HEADER as u64)?;
    file.write_all_at(&header(false), 0)
}

fn header(locked: bool) -> Vec<u8> {
    let checksum: u32 = NO_METRICS.iter().map(|byte| u32::from(*byte)).sum();
    let length = NO_METRICS.len() as u32;
    let numbers = [u32::from(locked), checksum, length].map(u32::to_be_bytes);
    SIGNATURE.into_iter().chain(numbers.into_iter().flatten()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn disk_is_whole_unlocked_and_sums_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("downwardapi-disks/vhostmd0");
        make_metrics_disk(&path).await.unwrap();
        let disk = std::fs::read(&path).unwrap();
        assert_eq!(disk.len(), 262_144);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o755);
        let number = |at: usize| u32::from_be_bytes(disk[at..at + 4].try_into().unwrap());
        assert_eq!((&disk[..4], number(4)), (b"mvbd".as_slice(), 0));
        let body = &disk[16..16 + number(12) as usize];
        assert_eq!(body, b"<metrics></metrics>\n");
        assert_eq!(number(8), body.iter().map(|byte| u32::from(*byte)).sum::<u32>());
        assert!(disk[16 + body.len()..].iter().all(|byte| *byte == 0));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
