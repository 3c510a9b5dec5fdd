//! What disks' files and devices can do: direct I/O, allocation, block sizes (contract/cmd-server.md 5.8,
//! contract/domain-xml-qemu.md 8.8, 8.9).

use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::files::below;
use crate::convert::{BlockSizes, HostFacts};
use crate::domain::{DiskSource, DomainSpec};

/// Blocks that QEMU gives a guest's disk.
const SMALLEST_BLOCK: u64 = 512;
const LARGEST_BLOCK: u64 = 2 << 20;
/// What direct I/O is aligned to where it cannot be found out, as by QEMU.
const SAFE_ALIGNMENT: usize = 4096;

/// Where a disk's data is: a path of the domain's document, or what an overlay stands on.
struct Place<'a> {
    path: &'a str,
    is_file: bool,
}

/// All places of all disks; an overlay with a data store counts as that store.
fn places(domain: &DomainSpec) -> impl Iterator<Item = Place<'_>> {
    domain.devices.disks.iter().flat_map(|disk| {
        let backing = disk.backing_store.as_ref().and_then(|store| store.source.as_ref());
        std::iter::once(&disk.source).chain(backing).map(place).filter(|place| !place.path.is_empty())
    })
}

fn place(source: &DiskSource) -> Place<'_> {
    let source = source.data_store.as_ref().and_then(|store| store.source.as_deref()).unwrap_or(source);
    match source.file.as_str() {
        "" => Place { path: &source.dev, is_file: false },
        file => Place { path: file, is_file: true },
    }
}

/// Finds out where O_DIRECT works and which raw images are fully allocated; best after the disks are made. Blocking:
/// opens the VM's disks.
pub fn probe_disks(root: &Path, domain: &DomainSpec, facts: &mut HostFacts) {
    facts.direct_io.paths.clear();
    facts.preallocated_images.clear();
    for Place { path, is_file } in places(domain) {
        facts.direct_io.paths.insert(path.to_owned(), direct_io(&below(root, path), is_file));
    }
    for disk in &domain.devices.disks {
        let Place { path, is_file } = place(&disk.source);
        // What stands behind an overlay with a data store is raw, whatever the overlay is.
        let raw = disk.source.data_store.is_some() || disk.driver.as_ref().is_some_and(|driver| driver.type_ == "raw");
        if raw && is_file && is_allocated(&below(root, path)) {
            facts.preallocated_images.push(path.to_owned());
        }
    }
}

/// Reads block sizes of every device and of the file system under every file. For a file that will only be made, the
/// folder that it will be made in tells.
pub(super) fn block_sizes(root: &Path, domain: &DomainSpec, facts: &mut HostFacts) {
    for Place { path, is_file } in places(domain) {
        let there = below(root, path);
        if is_file {
            let size = there.ancestors().find_map(|path| nix::sys::statfs::statfs(path).ok());
            if let Some(size) = size.and_then(|found| u64::try_from(found.block_size()).ok()) {
                facts.file_block_sizes.insert(path.to_owned(), possible_block(size));
            }
        } else if let Some(sizes) = device_block_sizes(root, &there) {
            facts.block_sizes.insert(path.to_owned(), sizes);
        }
    }
}

/// What a file system calls its block size may be what it likes to transfer at once (4 MiB on CephFS): the largest power of
/// two in it that QEMU takes.
fn possible_block(size: u64) -> u64 {
    let size = size.clamp(SMALLEST_BLOCK, LARGEST_BLOCK);
    1 << size.ilog2()
}

/// The kernel's view of a block device's queue (`/sys/dev/block/MAJOR:MINOR/queue`); a partition's is its parent's.
/// `None` if the path is not a block device; zeros where the kernel does not say.
fn device_block_sizes(root: &Path, device: &Path) -> Option<BlockSizes> {
    let found = std::fs::metadata(device).ok()?;
    let number = found.rdev();
    let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
    found.file_type().is_block_device().then(|| queue(&root.join(format!("sys/dev/block/{major}:{minor}"))))
}

fn queue(entry: &Path) -> BlockSizes {
    let queue = [entry.join("queue"), entry.join("../queue")].into_iter().find(|queue| queue.is_dir());
    let read = |name: &str| {
        let text = queue.as_ref().and_then(|queue| std::fs::read_to_string(queue.join(name)).ok());
        text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    };
    BlockSizes {
        logical: read("logical_block_size"),
        physical: read("physical_block_size"),
        discard_granularity: read("discard_granularity"),
    }
}

/// Whether O_DIRECT works on a path: `yes`, `no`, `error` (contract/cmd-server.md 5.8). A file that does not exist yet is
/// probed through one of the same name that is removed again.
pub fn direct_io(path: &Path, is_file: bool) -> String {
    let existed = path.exists();
    let mut options = std::fs::OpenOptions::new();
    // Not to wait for the writer of a FIFO that is in a disk's place.
    options.read(true).custom_flags(libc::O_DIRECT | libc::O_CLOEXEC | libc::O_NONBLOCK);
    if is_file && !existed {
        options.write(true).create_new(true).mode(0o600);
    }
    let opened = options.open(path);
    if opened.is_ok() && is_file && !existed {
        // Only a file that this probe made is removed.
        let _ = std::fs::remove_file(path);
    }
    match opened {
        Ok(_) => "yes",
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => "no",
        Err(_) if !existed => probe_directory(path),
        Err(_) => "error",
    }
    .to_owned()
}

/// What direct I/O to this file is aligned to, in bytes, found out as by QEMU (`block/file-posix.c`): by reads of ever
/// larger parts of its beginning. A file system that takes a single byte does not say.
pub fn direct_io_alignment(path: &Path) -> u64 {
    let options = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path);
    let Ok(file) = options else { return SAFE_ALIGNMENT as u64 };
    let mut buffer = vec![0; 2 * SAFE_ALIGNMENT];
    let start = buffer.as_ptr().align_offset(SAFE_ALIGNMENT);
    let mut is_aligned = |bytes: usize| {
        let Some(part) = buffer.get_mut(start..start.saturating_add(bytes)) else { return false };
        let read = std::os::unix::fs::FileExt::read_at(&file, part, 0);
        // Any other error is not about alignment.
        !read.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
    };
    if is_aligned(1) {
        return SAFE_ALIGNMENT as u64;
    }
    let found = [512, 1024, 2048].into_iter().find(|bytes| is_aligned(*bytes));
    found.unwrap_or(SAFE_ALIGNMENT) as u64
}

/// For a file whose folder does not exist yet: what the nearest existing folder's file system says.
fn probe_directory(path: &Path) -> &'static str {
    let Some(directory) = path.ancestors().skip(1).find(|ancestor| ancestor.is_dir()) else { return "error" };
    let probe = directory.join(".direct-io-probe");
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(&probe);
    match opened {
        Ok(_) => {
            // Only a file that this probe made is removed.
            let _ = std::fs::remove_file(&probe);
            "yes"
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let _ = std::fs::remove_file(&probe);
            "no"
        }
        Err(_) => "error",
    }
}

/// Whether every block of a raw image is there.
pub fn is_allocated(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.blocks().saturating_mul(512) >= found.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn direct_io_probes_leave_nothing_behind() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (there, deep) = (folder.path().join("a"), folder.path().join("b/c/d"));
        std::fs::write(&there, vec![1; 8192]).unwrap();
        let answer = direct_io(&there, true);
        assert!(matches!(answer.as_str(), "yes" | "no"), "{answer}");
        assert_eq!(direct_io(&deep, true), answer);
        assert_eq!(direct_io(&folder.path().join("e"), true), answer);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(is_allocated(&there));
    }

    #[test]
    fn what_direct_io_is_aligned_to_is_what_the_storage_says() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let file = folder.path().join("a");
        std::fs::write(&file, vec![1; 8192]).unwrap();
        let alignment = direct_io_alignment(&file);
        assert!([512, 1024, 2048, 4096].contains(&alignment), "{alignment}");
        assert_eq!(direct_io_alignment(&folder.path().join("missing")), 4096);
    }

    #[test]
    fn file_systems_block_is_one_that_qemu_takes() {
        for (said, taken) in [(4096, 4096), (512, 512), (1, 512), (0, 512), (1 << 20, 1 << 20), (4 << 20, 2 << 20)] {
            assert_eq!(possible_block(said), taken, "{said}");
        }
        assert_eq!((possible_block(3000), possible_block(u64::MAX)), (2048, 2 << 20));
    }

    #[test]
    fn allocated_image_behind_an_overlay_counts() {
        let root = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let disk = |format: &str, source: &str| {
            format!("<disk type='file'><driver name='qemu' type='{format}'/><source {source}</source></disk>")
        };
        let store = "<dataStore type='file'><format type='raw'/><source file='/b'/></dataStore>";
        let disks = [
            disk("raw", "file='/a'>"),
            disk("qcow2", &format!("file='/overlay'>{store}")),
            disk("qcow2", "file='/c'>"),
            disk("raw", "file='/sparse'>"),
        ];
        for name in ["a", "b", "c", "overlay", "sparse"] {
            std::fs::write(root.path().join(name), vec![1; 8192]).unwrap();
        }
        std::fs::File::options().write(true).open(root.path().join("sparse")).unwrap().set_len(1 << 20).unwrap();
        let domain = format!("<domain><devices>{}</devices></domain>", disks.concat());
        let mut facts = HostFacts::default();
        probe_disks(root.path(), &DomainSpec::from_xml(&domain).unwrap(), &mut facts);
        assert_eq!(facts.preallocated_images, ["/a", "/b"]);
    }

    #[test]
    fn queues_sizes_are_the_devices_or_its_parents() {
        let entry = tempfile::tempdir().unwrap();
        let (disk, partition) = (entry.path().join("sda"), entry.path().join("sda/sda1"));
        std::fs::create_dir_all(disk.join("queue")).unwrap();
        std::fs::create_dir_all(&partition).unwrap();
        for (name, value) in [("logical_block_size", "512\n"), ("physical_block_size", "4096\n")] {
            std::fs::write(disk.join("queue").join(name), value).unwrap();
        }
        let wanted = BlockSizes { logical: 512, physical: 4096, discard_granularity: 0 };
        assert_eq!((queue(&disk), queue(&partition)), (wanted, wanted));
        assert_eq!(queue(Path::new("/nonexistent")), BlockSizes::default());
        assert_eq!(device_block_sizes(Path::new("/"), &disk), None);
    }
}
