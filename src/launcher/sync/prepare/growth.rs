//! Disks whose claim grew while the VM was off (contract/lifecycle.md 9.8): the image grows before the start. A disk that
//! cannot grow is as large as it was; so failures are only logged.

use std::path::{Path, PathBuf};

use crate::domain::Disk;
use crate::launcher::facts::{self, below};
use crate::launcher::sync::live::resize::{Backend, measure, wanted_size};
use crate::launcher::sync::storage_io::storage_io;
use crate::storage::{self, Tools};

/// Grows raw images in claims to what the claims hold by now.
pub(crate) async fn grow(tools: &Tools, root: &Path, disks: &[Disk]) {
    let (root, disks) = (root.to_owned(), disks.to_vec());
    let measured = storage_io("measuring the VM's images", move || {
        let growing = |disk: &Disk| {
            let path = below(&root, &disk.source.file);
            let (from, to) = growth(disk, &path)?;
            let volume = disk.alias_name().to_owned();
            let allocated = facts::is_allocated(&path);
            Some(Growing { volume, path, from, to, allocated })
        };
        disks.iter().filter_map(growing).collect::<Vec<_>>()
    });
    let growing = measured.await.unwrap_or_else(|failure| {
        tracing::warn!("images keep their sizes: {}", failure.message());
        Vec::new()
    });
    for Growing { volume, path, from, to, allocated } in growing {
        match storage::grow_image(tools, &path, to, allocated).await {
            Ok(()) => tracing::info!("volume {volume}: {} has grown from {from} to {to} bytes", path.display()),
            Err(error) => {
                tracing::warn!("volume {volume} keeps its {from} bytes, though there is room for {to}: {error}")
            }
        }
    }
}

/// An image that is smaller than it is to be; sizes in bytes.
struct Growing {
    volume: String,
    path: PathBuf,
    from: u64,
    to: u64,
    allocated: bool,
}

/// The size of a disk's image, and the one that it is to have.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
fn growth(disk: &Disk, path: &Path) -> Option<(u64, u64)> {
    let is_raw = disk.driver.as_ref().is_some_and(|driver| driver.type_ == "raw");
    if disk.source.file.is_empty() || disk.source.data_store.is_some() || !is_raw || disk.read_only.is_some() {
        return None;
    }
    let backend = measure(path)?;
    let to = match backend {
        Backend::File { .. } => wanted_size(disk, backend)?.0,
        Backend::Device(_) => return None,
    };
    let from = std::fs::metadata(path).ok()?.len();
    (to > from).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::domain::DiskDriver;

    const MIB: u64 = 1 << 20;

    fn disk(path: &str, capacity: u64) -> Disk {
        let mut disk = Disk {
            filesystem_overhead: Some("0.1".into()),
            capacity: i64::try_from(capacity).ok(),
            driver: Some(DiskDriver { type_: "raw".into(), ..DiskDriver::default() }),
            ..Disk::default()
        };
        disk.source.file = path.into();
        disk
    }

    fn image(root: &Path, name: &str, content: &[u8], bytes: u64) -> std::path::PathBuf {
        let path = root.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::File::options().write(true).open(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    #[tokio::test]
    async fn image_grows_with_its_claim_and_stays_as_it_was_allocated() {
        let root = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        // What a guest writes into its disk is no image format to believe.
        let sparse = image(root.path(), "sparse", b"QFI\xfb\0\0\0\x03", 2 * MIB);
        let full = image(root.path(), "full", &vec![1; 2 * 1024 * 1024], 2 * MIB);
        let large = image(root.path(), "large", b"", 64 * MIB);
        let disks = [disk("/sparse", 10 * MIB), disk("/full", 10 * MIB), disk("/large", 10 * MIB), disk("/gone", MIB)];
        grow(&Tools::default(), root.path(), &disks).await;
        let size = |path: &Path| std::fs::metadata(path).map(|found| (found.len(), found.blocks() * 512)).unwrap();
        assert_eq!(size(&sparse).0, 9 * MIB);
        assert!(size(&sparse).1 < MIB);
        assert_eq!(size(&full), (9 * MIB, 9 * MIB));
        assert_eq!(size(&large).0, 64 * MIB, "none shrinks");
        assert_eq!(std::fs::read(&sparse).unwrap()[..4], *b"QFI\xfb");
    }

    #[tokio::test]
    async fn what_is_no_raw_file_in_a_claim_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = image(root.path(), "disk.img", b"", MIB);
        let plain = disk("/disk.img", 10 * MIB);
        let nowhere = Tools { qemu_img: "/nonexistent/qemu-img".into(), ..Tools::default() };
        let others = [
            Disk { capacity: None, ..plain.clone() },
            Disk { filesystem_overhead: None, ..plain.clone() },
            Disk { driver: Some(DiskDriver { type_: "qcow2".into(), ..DiskDriver::default() }), ..plain.clone() },
            Disk { read_only: Some(Default::default()), ..plain.clone() },
        ];
        for disk in others {
            assert_eq!(growth(&disk, &path), None, "{disk:?}");
        }
        grow(&nowhere, root.path(), &[plain]).await;
        assert_eq!(std::fs::metadata(&path).unwrap().len(), MIB, "a failure is no end");
    }
}
