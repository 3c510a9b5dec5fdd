//! What stands in the place of a volume's image: a claim is filled by whoever may mount it, and may hold a symbolic link
//! to another file of the pod, or a FIFO (as in GHSA-qw6q-3pgr-5cwq). Blocking: looks at the VM's volumes.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use crate::domain::{Disk, DiskSource, DomainSpec, HOTPLUG_DISKS, VMI_DISKS};
use crate::launcher::error::Error;
use crate::launcher::facts::below;
use crate::storage::kind;
use crate::vmi::VirtualMachineInstance;

/// Where the images of volumes are: a file in each volume's own folder, and files that virt-handler mounts one by one.
const VOLUMES: [&str; 2] = [VMI_DISKS, HOTPLUG_DISKS];

/// Checks the images of a disk's volume, also behind an overlay. One that is missing is not this check's affair.
pub(super) fn check(root: &Path, vmi: &VirtualMachineInstance, disk: &Disk) -> Result<(), Error> {
    let backing = disk.backing_store.as_ref().and_then(|store| store.source.as_ref());
    let sources = [&disk.source, disk.backend()].into_iter().chain(backing);
    for path in sources.map(DiskSource::path).filter(|path| VOLUMES.iter().any(|at| Path::new(path).starts_with(at))) {
        image(&below(root, path)).map_err(|why| Error::storage(format!("{}: {path} {why}", place(vmi, disk))))?;
    }
    Ok(())
}

/// Checks what the VM boots by: kernel, initrd, and the firmware's variables, which may be kept on a claim.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
pub(super) fn check_boot(root: &Path, domain: &DomainSpec) -> Result<(), Error> {
    let container = "spec.domain.firmware.kernelBoot.container";
    for (field, path) in [("kernelPath", &domain.os.kernel), ("initrdPath", &domain.os.initrd)] {
        let found = (!path.is_empty()).then(|| std::fs::metadata(below(root, path)));
        if let Some(Ok(found)) = found
            && !found.is_file()
        {
            let kind = kind(found.file_type());
            return Err(Error::storage(format!("{container}.{field}: {path} is {kind}, not a regular file")));
        }
    }
    let variables = domain.os.nvram.as_ref().map(|nvram| nvram.nvram.as_str()).filter(|path| !path.is_empty());
    if let Some(path) = variables
        && let Ok(found) = std::fs::symlink_metadata(below(root, path))
        && !found.is_file()
    {
        let kind = if found.is_symlink() { "a symbolic link" } else { kind(found.file_type()) };
        return Err(Error::storage(format!(
            "spec.domain.firmware.bootloader.efi: {path} is {kind}, not a regular file"
        )));
    }
    Ok(())
}

/// The place in the VMI of a disk's volume, for messages.
pub(super) fn place(vmi: &VirtualMachineInstance, disk: &Disk) -> String {
    let name = disk.alias_name();
    match vmi.spec.volumes.iter().position(|volume| volume.name == name) {
        Some(index) => format!("spec.volumes[{index}] ({name})"),
        None => format!("volume {name}"),
    }
}

/// Why QEMU must not open this path.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
fn image(path: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot be looked at: {error}");
    let entry = match std::fs::symlink_metadata(path) {
        Ok(entry) => entry,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if entry.is_symlink() {
        let target = std::fs::read_link(path).map_err(failed)?;
        let leads = |where_: &str| format!("is a symbolic link that leads {where_}: {}", target.display());
        let real = match std::fs::canonicalize(path) {
            Ok(real) => real,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(leads("nowhere")),
            Err(error) => return Err(failed(error)),
        };
        let volume = path.parent().unwrap_or(Path::new("/")).canonicalize().map_err(failed)?;
        if !real.starts_with(volume) {
            return Err(leads("out of the volume"));
        }
    }
    let found = std::fs::metadata(path).map_err(failed)?.file_type();
    match found.is_file() || found.is_block_device() {
        true => Ok(()),
        false => Err(format!("is {}, neither a regular file nor a block device", kind(found))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;
    use crate::convert::HostFacts;
    use crate::launcher::facts;

    /// A VMI with a claim, an ephemeral claim and a hot-plugged one.
    fn vmi() -> VirtualMachineInstance {
        let text = r#"{"metadata":{"name":"vm","namespace":"ns"},
            "status":{"volumeStatus":[{"name":"hot","hotplugVolume":{},"phase":"Ready"}]},
            "spec":{"volumes":[
                {"name":"data","persistentVolumeClaim":{"claimName":"c"}},
                {"name":"eph","ephemeral":{"persistentVolumeClaim":{"claimName":"d"}}},
                {"name":"hot","persistentVolumeClaim":{"claimName":"e","hotpluggable":true}}],
            "domain":{"firmware":{"kernelBoot":{"container":{"kernelPath":"/k"}}},"devices":{"disks":[
                {"name":"data","disk":{"bus":"virtio"}},{"name":"eph","disk":{"bus":"virtio"}},
                {"name":"hot","disk":{"bus":"scsi"}}]}}}}"#;
        crate::vmi::parse(text.as_bytes()).unwrap()
    }

    fn domain(vmi: &VirtualMachineInstance) -> DomainSpec {
        let mut facts = HostFacts::default();
        facts.hypervisor.device_present = true;
        facts::draft(vmi, &facts).unwrap()
    }

    fn looked(root: &Path) -> Result<(), String> {
        let vmi = vmi();
        let domain = domain(&vmi);
        let checked = domain.devices.disks.iter().try_for_each(|disk| check(root, &vmi, disk));
        checked.and_then(|()| check_boot(root, &domain)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn link_out_of_the_volume_is_refused_whatever_stands_before_it() {
        let root = tempfile::tempdir().unwrap();
        let volumes = root.path().join("var/run/kubevirt-private/vmi-disks");
        let hot = root.path().join("var/run/kubevirt/hotplug-disks");
        let secret = root.path().join("secret");
        std::fs::write(&secret, "token").unwrap();
        for folder in [volumes.join("data"), volumes.join("eph"), hot.clone()] {
            std::fs::create_dir_all(folder).unwrap();
        }
        assert_eq!(looked(root.path()), Ok(()), "what is missing is reported elsewhere");
        std::fs::write(volumes.join("data/other.img"), "x").unwrap();
        symlink("other.img", volumes.join("data/disk.img")).unwrap();
        assert_eq!(looked(root.path()), Ok(()), "a link inside the volume");
        for (image, index, name) in [
            (volumes.join("data/disk.img"), 0, "data"),
            (volumes.join("eph/disk.img"), 1, "eph"),
            (hot.join("hot.img"), 2, "hot"),
        ] {
            let told = format!("/{}", image.strip_prefix(root.path()).unwrap().display());
            for (target, leads) in [(secret.clone(), "out of the volume"), (PathBuf::from("../../gone"), "nowhere")] {
                let _ = std::fs::remove_file(&image);
                symlink(&target, &image).unwrap();
                let why = format!("is a symbolic link that leads {leads}: {}", target.display());
                assert_eq!(looked(root.path()), Err(format!("spec.volumes[{index}] ({name}): {told} {why}")));
            }
            std::fs::remove_file(&image).unwrap();
        }
    }

    #[test]
    fn what_is_not_a_file_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            path
        };
        let image = make("var/run/kubevirt-private/vmi-disks/data/disk.img");
        let path = "/var/run/kubevirt-private/vmi-disks/data/disk.img";
        let why = "is a FIFO, neither a regular file nor a block device";
        assert_eq!(looked(root.path()), Err(format!("spec.volumes[0] (data): {path} {why}")));
        std::fs::remove_file(image).unwrap();
        make("var/run/kubevirt/container-disks/kernel-boot/k");
        let text = looked(root.path()).unwrap_err();
        assert!(text.starts_with("spec.domain.firmware.kernelBoot.container.kernelPath: "), "{text}");
        assert!(text.ends_with("/k is a FIFO, not a regular file"), "{text}");
    }

    #[test]
    fn firmware_variables_are_not_looked_for_through_a_link() {
        let root = tempfile::tempdir().unwrap();
        let mut domain = DomainSpec::default();
        domain.os.nvram.get_or_insert_default().nvram = "/nvram/vm_VARS.fd".to_owned();
        std::fs::create_dir(root.path().join("nvram")).unwrap();
        check_boot(root.path(), &domain).unwrap();
        symlink("/etc/passwd", root.path().join("nvram/vm_VARS.fd")).unwrap();
        let text = check_boot(root.path(), &domain).unwrap_err().to_string();
        assert_eq!(
            text,
            "spec.domain.firmware.bootloader.efi: /nvram/vm_VARS.fd is a symbolic link, not a regular file"
        );
    }
}
