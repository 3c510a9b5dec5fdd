//! The sizes of raw images against what the launcher chooses for them. QEMU does not write to an image with direct I/O
//! whose size is not a multiple of what the storage transfers at a time ("Cannot get 'write' permission without
//! 'resize'"), and a guest that is shown larger blocks does not see what follows the last whole one. So such an image is
//! rounded up before QEMU opens it, as the original rounds those that it makes. Blocking: opens the VM's images.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::volume_files;
use crate::convert::HostFacts;
use crate::domain::Disk;
use crate::files::{Folder, split};
use crate::launcher::error::Error;
use crate::launcher::facts::{self, below};
use crate::vmi::{BlockSize, FeatureState, VirtualMachineInstance};

/// What sizes are rounded up to: a multiple of everything that storage asks for today.
const WHOLE: u64 = 4096;
/// A guest's sector.
const SECTOR: u64 = 512;

/// An image that is not a multiple of the blocks that it is to be used in, and stays so.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Odd {
    bytes: u64,
    block: u64,
    /// Whether direct I/O is what asks for the blocks.
    direct: bool,
    /// Why it cannot be rounded up.
    why: String,
}

/// Rounds the disk's raw image up where the disk needs it. A disk that the VM only reads stays as it is: QEMU reads past
/// the end of an image as zeros.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
pub(super) fn round_up(root: &Path, vmi: &VirtualMachineInstance, facts: &HostFacts, disk: &Disk) -> Result<(), Odd> {
    let Some(image) = written_image(disk) else { return Ok(()) };
    let path = below(root, image);
    let Some(bytes) = std::fs::metadata(&path).ok().filter(|found| found.is_file()).map(|found| found.len()) else {
        return Ok(());
    };
    let asked = Asked::of(vmi, disk);
    let wants_direct = matches!(asked.cache, "" | "none" | "directsync") && facts::direct_io(&path, true) == "yes";
    let transfer = if wants_direct { facts::direct_io_alignment(&path) } else { 1 };
    let block = transfer.max(asked.guest_block(facts, image));
    if bytes.is_multiple_of(block) {
        return Ok(());
    }
    let wanted = bytes.next_multiple_of(block.max(WHOLE));
    match grow(&path, bytes, wanted) {
        Ok(()) => {
            tracing::info!("{}: {image} is rounded up from {bytes} to {wanted} bytes", volume_files::place(vmi, disk));
            Ok(())
        }
        Err(error) => {
            let direct = !bytes.is_multiple_of(transfer);
            Err(Odd { bytes, block: if direct { transfer } else { block }, direct, why: error.to_string() })
        }
    }
}

impl Odd {
    /// Whether the disk can do without direct I/O. A disk that cannot, since the VMI says so, is refused.
    pub(super) fn without_direct_io(&self, vmi: &VirtualMachineInstance, disk: &Disk) -> Result<bool, Error> {
        let Asked { cache, io, .. } = Asked::of(vmi, disk);
        let Odd { bytes, direct, why, .. } = self;
        let unit = if bytes.is_multiple_of(SECTOR) { self.block } else { SECTOR };
        let place = volume_files::place(vmi, disk);
        let name = Path::new(disk.backend().path()).file_name().unwrap_or_default().to_string_lossy();
        let what =
            format!("{place}: {name} has {bytes} bytes, not a multiple of {unit}, and cannot be rounded up: {why}");
        if !direct {
            tracing::warn!("{what}; the guest does not see what follows its last whole block");
            return Ok(false);
        }
        match (cache, io) {
            ("", "native") => Err(Error::storage(format!("{what}; I/O mode native needs direct I/O"))),
            ("", _) => {
                tracing::warn!("{what}; its cache mode is writethrough");
                Ok(true)
            }
            (cache, _) => Err(Error::storage(format!("{what}; cache mode {cache} needs direct I/O"))),
        }
    }
}

/// The raw image that the guest writes to, as a path of the pod.
fn written_image(disk: &Disk) -> Option<&str> {
    let is_raw = disk.source.data_store.is_some() || disk.driver.as_ref().is_some_and(|driver| driver.type_ == "raw");
    let is_written = disk.read_only.is_none() && matches!(disk.device.as_str(), "" | "disk" | "lun");
    let image = disk.backend().file.as_str();
    (is_raw && is_written && !image.is_empty()).then_some(image)
}

/// What the VMI itself says of a disk; the domain's disk has what was chosen for it besides.
struct Asked<'a> {
    cache: &'a str,
    io: &'a str,
    block_size: Option<&'a BlockSize>,
}

impl<'a> Asked<'a> {
    fn of(vmi: &'a VirtualMachineInstance, disk: &Disk) -> Self {
        let name = disk.alias_name();
        let Some(asked) = vmi.spec.domain.devices.disks.iter().find(|disk| disk.name == name) else {
            return Asked { cache: "", io: "", block_size: None };
        };
        let is_shared = asked.disk.is_some() && asked.shareable == Some(true);
        let cache = if is_shared { "none" } else { asked.cache.as_str() };
        Asked { cache, io: &asked.io, block_size: asked.block_size.as_ref() }
    }

    /// Bytes of the blocks that the guest is shown.
    fn guest_block(&self, facts: &HostFacts, image: &str) -> u64 {
        let matches_volume = |size: &BlockSize| size.match_volume.as_ref().is_some_and(FeatureState::is_on);
        let logical = self.block_size.and_then(|size| match &size.custom {
            Some(custom) => Some(custom.logical),
            None if matches_volume(size) => facts.file_block_sizes.get(image).copied(),
            None => None,
        });
        // What is not a size of a block, libvirt or QEMU refuses.
        logical.filter(|size| size.is_power_of_two()).unwrap_or(1)
    }
}

/// Makes the image larger, if it is still as large as it was.
fn grow(path: &Path, from: u64, to: u64) -> io::Result<()> {
    // A link may lead to another file of the same volume (`volume_files`); what is opened then is opened through none.
    let real = path.canonicalize()?;
    let (folder, name) = split(&real)?;
    let file: File = Folder::open(folder)?.file(name, OFlag::O_RDWR, Mode::empty())?;
    match file.metadata()?.len() {
        now if now == from => file.set_len(to),
        now => Err(io::Error::other(format!("it has {now} bytes by now"))),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const IMAGE: &str = "var/run/kubevirt-private/vmi-disks/pvc/disk.img";

    /// A VMI with a claim whose disk has these fields, besides its name.
    fn vmi(disk: &str) -> VirtualMachineInstance {
        let text = format!(
            r#"{{"metadata":{{"name":"vm","namespace":"ns"}},"spec":{{
            "volumes":[{{"name":"pvc","persistentVolumeClaim":{{"claimName":"c"}}}}],
            "domain":{{"devices":{{"disks":[{{"name":"pvc",{disk}}}]}}}}}}}}"#
        );
        crate::vmi::parse(text.as_bytes()).unwrap()
    }

    /// The claim's image with so many bytes, on a file system that knows direct I/O.
    fn image(bytes: u64) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = root.path().join(IMAGE);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(&path).unwrap().set_len(bytes).unwrap();
        (root, path)
    }

    fn disk(vmi: &VirtualMachineInstance) -> Disk {
        let mut facts = HostFacts::default();
        facts.hypervisor.device_present = true;
        facts::draft(vmi, &facts).unwrap().devices.disks.remove(0)
    }

    /// The image's size afterwards.
    fn rounded(disk_fields: &str, facts: &HostFacts, bytes: u64) -> u64 {
        let (root, path) = image(bytes);
        let vmi = vmi(disk_fields);
        round_up(root.path(), &vmi, facts, &disk(&vmi)).unwrap();
        std::fs::metadata(path).unwrap().len()
    }

    const PLAIN: &str = r#""disk":{"bus":"virtio"}"#;

    #[test]
    fn image_of_odd_size_is_rounded_up_for_direct_io_alone() {
        let facts = HostFacts::default();
        let none = r#""disk":{"bus":"virtio"},"cache":"none""#;
        for (fields, bytes, wanted) in [
            (PLAIN, 7_000_000_001, 7_000_002_560),
            (none, 7_000_000_001, 7_000_002_560),
            (r#""disk":{"bus":"virtio"},"shareable":true"#, 100, 4096),
            (r#""lun":{"bus":"scsi"}"#, 8191, 8192),
            (PLAIN, 8192, 8192),
            (PLAIN, 0, 0),
            (r#""disk":{"bus":"virtio"},"cache":"writeback""#, 8191, 8191),
            (r#""disk":{"bus":"virtio","readonly":true}"#, 8191, 8191),
            (r#""cdrom":{"bus":"sata"}"#, 8191, 8191),
        ] {
            assert_eq!(rounded(fields, &facts, bytes), wanted, "{fields} {bytes}");
        }
    }

    #[test]
    fn image_has_whole_blocks_of_those_that_the_guest_is_shown() {
        let mut facts = HostFacts::default();
        facts.file_block_sizes.insert(format!("/{IMAGE}"), 8192);
        let sized = |size: &str| format!(r#"{PLAIN},"cache":"writethrough","blockSize":{size}"#);
        let custom = sized(r#"{"custom":{"logical":4096,"physical":4096}}"#);
        for (fields, bytes, wanted) in [
            (custom.clone(), 4096 + 512, 8192),
            (custom, 4096, 4096),
            (sized(r#"{"matchVolume":{}}"#), 4096, 8192),
            (sized(r#"{"matchVolume":{"enabled":false}}"#), 512, 512),
        ] {
            assert_eq!(rounded(&fields, &facts, bytes), wanted, "{fields}");
        }
    }

    #[test]
    fn image_is_rounded_up_behind_a_link_of_its_volume_and_only_while_it_does_not_change() {
        let (root, path) = image(8191);
        std::fs::rename(&path, path.with_file_name("other.img")).unwrap();
        std::os::unix::fs::symlink("other.img", &path).unwrap();
        let vmi = vmi(PLAIN);
        round_up(root.path(), &vmi, &HostFacts::default(), &disk(&vmi)).unwrap();
        assert_eq!(std::fs::metadata(path.with_file_name("other.img")).unwrap().len(), 8192);
        assert_eq!(grow(&path, 8191, 8192).unwrap_err().to_string(), "it has 8192 bytes by now");
    }

    #[test]
    fn image_that_stays_odd_does_without_direct_io_or_is_refused_by_name() {
        let judged = |fields: &str, block, direct| {
            let odd = Odd { bytes: 7_000_000_001, block, direct, why: "No space left on device".to_owned() };
            let vmi = vmi(&format!("{PLAIN}{fields}"));
            odd.without_direct_io(&vmi, &disk(&vmi)).map_err(|failure| failure.to_string())
        };
        assert_eq!(judged("", 512, true), Ok(true));
        assert_eq!(judged(r#","blockSize":{"custom":{"logical":4096,"physical":4096}}"#, 4096, false), Ok(false));
        for (fields, why) in [
            (r#","cache":"none""#, "; cache mode none needs direct I/O"),
            (r#","shareable":true"#, "; cache mode none needs direct I/O"),
            (r#","io":"native""#, "; I/O mode native needs direct I/O"),
        ] {
            let what = "spec.volumes[0] (pvc): disk.img has 7000000001 bytes, not a multiple of 512, and cannot be \
                        rounded up: No space left on device";
            assert_eq!(judged(fields, 4096, true), Err(format!("{what}{why}")));
        }
    }
}
