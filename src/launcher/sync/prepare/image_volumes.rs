//! With `--image-volume` the kubelet mounts container disks and boot artefacts; links give them the names that
//! virt-handler's bind mounts have without it (contract/cmd-server.md 5.2). Blocking: looks at a few directory entries.

use std::path::Path;

use super::error::wrapped;
use crate::launcher::error::Error;
use crate::storage::{StorageError, image_volume};
use crate::vmi::VirtualMachineInstance;

/// Where the kubelet mounts the container disks' images, below the root.
const IMAGE_VOLUMES: &str = "var/run/kubevirt-image-volume";
/// Where it mounts the image with kernel and initrd, below the root.
const KERNEL_BOOT: &str = "var/run/kubevirt-kernel-boot";

/// Links every container disk and boot artefact of the VMI into `container_disk_dir`. Links that are there are kept.
pub(crate) fn link_all(root: &Path, container_disk_dir: &Path, vmi: &VirtualMachineInstance) -> Result<(), Error> {
    for (index, volume) in vmi.spec.volumes.iter().enumerate() {
        let Some(disk) = &volume.container_disk else { continue };
        let mounted = root.join(IMAGE_VOLUMES).join(format!("disk_{index}"));
        let file = image_volume::find_disk_file(&mounted, &disk.path).map_err(|error| {
            Error::storage(format!(
                "failed to find disk file from ImageVolume: spec.volumes[{index}] ({}): {error}",
                volume.name
            ))
        })?;
        image_volume::link(container_disk_dir, &format!("disk_{index}.img"), &file)
            .map_err(wrapped("error creating symlink for containerDisk"))?;
    }
    let firmware = vmi.spec.domain.firmware.as_ref();
    let Some(boot) = firmware.and_then(|firmware| firmware.kernel_boot.as_ref()?.container.as_ref()) else {
        return Ok(());
    };
    for path in [&boot.kernel_path, &boot.initrd_path].into_iter().filter(|path| !path.is_empty()) {
        link_artefact(&root.join(KERNEL_BOOT), &container_disk_dir.join("kernel-boot"), path)?;
    }
    Ok(())
}

fn link_artefact(mounted: &Path, directory: &Path, path: &str) -> Result<(), Error> {
    let file = image_volume::artefact(mounted, path)
        .map_err(wrapped("error getting kernel boot artifact path from ImageVolume"))?;
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let made: Result<(), StorageError> = image_volume::link(directory, name, &file);
    made.map_err(wrapped("error creating symlink for KernelPath"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmi;

    fn vmi(path: &str) -> VirtualMachineInstance {
        let text = format!(
            r#"{{"spec":{{"volumes":[{{"name":"e","emptyDisk":{{}}}},{{"name":"c","containerDisk":{{"image":"i","path":"{path}"}}}}],
            "domain":{{"firmware":{{"kernelBoot":{{"container":{{"kernelPath":"/boot/vmlinuz","initrdPath":"/initrd"}}}}}}}}}}}}"#
        );
        vmi::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn disks_and_artefacts_get_the_names_that_the_domain_uses() {
        let root = tempfile::tempdir().unwrap();
        for file in [
            "var/run/kubevirt-image-volume/disk_1/disk/fedora.qcow2",
            "var/run/kubevirt-kernel-boot/boot/vmlinuz",
            "var/run/kubevirt-kernel-boot/initrd",
        ] {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        let links = root.path().join("links");
        for path in ["", "/disk/fedora.qcow2"] {
            link_all(root.path(), &links, &vmi(path)).unwrap();
            for (link, end) in [("disk_1.img", "fedora.qcow2"), ("kernel-boot/vmlinuz", "vmlinuz")] {
                assert!(std::fs::read_to_string(links.join(link)).unwrap().ends_with(end), "{link}");
            }
            assert!(links.join("kernel-boot/initrd").is_file());
        }
        let text = format!("{:?}", link_all(root.path(), &links, &vmi("/other")).unwrap_err());
        assert!(text.contains("failed to find disk file from ImageVolume: spec.volumes[1] (c)"), "{text}");
    }
}
