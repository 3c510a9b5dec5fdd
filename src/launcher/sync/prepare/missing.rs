//! Tells what is missing or closed to QEMU before libvirt does, which would name a path and no volume.

use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Uid, eaccess};

use crate::domain::{Disk, DiskSource, DomainSpec};
use crate::launcher::error::Error;
use crate::launcher::facts::below;
use crate::vmi::{VirtualMachineInstance, Volume};

/// Checks that every file and device that the domain names is there and can be opened, but for what lies in
/// `made_at_start`. What cannot be looked at for another reason is left to libvirt, which may see more.
pub(crate) fn check(
    root: &Path,
    made_at_start: &Path,
    vmi: &VirtualMachineInstance,
    domain: &DomainSpec,
) -> Result<(), Error> {
    for disk in &domain.devices.disks {
        let name = disk.alias_name();
        let volume = vmi.spec.volumes.iter().enumerate().find(|(_, volume)| volume.name == name);
        for (path, writes) in opened(disk).filter(|(path, _)| !Path::new(path).starts_with(made_at_start)) {
            if let (Some((index, volume)), Some(errno)) = (volume, fault(root, path, writes)) {
                let why = match errno {
                    Errno::ENOENT if disk.source.data_store.is_some() && path == disk.source.path() => {
                        "does not exist: the VM's backend storage has lost the overlay of changed block tracking"
                            .to_owned()
                    }
                    Errno::ENOENT => format!("does not exist: {}", explanation(volume)),
                    errno => closed(errno, writes),
                };
                return Err(Error::storage(format!("spec.volumes[{index}] ({name}): {path} {why}")));
            }
        }
    }
    let container = "spec.domain.firmware.kernelBoot.container";
    for (field, path) in [("kernelPath", &domain.os.kernel), ("initrdPath", &domain.os.initrd)] {
        let why = match fault(root, path, false) {
            None => continue,
            Some(Errno::ENOENT) => {
                "does not exist: the image is not mounted into this container, or has no such file".to_owned()
            }
            Some(errno) => closed(errno, false),
        };
        return Err(Error::storage(format!("{container}.{field}: {path} {why}")));
    }
    Ok(())
}

/// The paths that QEMU opens for the disk, and whether it writes to them.
fn opened(disk: &Disk) -> impl Iterator<Item = (&str, bool)> {
    let backing = disk.backing_store.as_ref().and_then(|store| store.source.as_ref());
    let writes = disk.read_only.is_none() && disk.device != "cdrom";
    let own = [disk.source.path(), disk.backend().path()].map(|path| (path, writes));
    own.into_iter().chain(backing.map(|backing| (DiskSource::path(backing), false)))
}

/// What keeps QEMU from opening the path. It runs as this launcher's user; for root the permissions of files say nothing.
fn fault(root: &Path, path: &str, writes: bool) -> Option<Errno> {
    let wanted = match writes {
        _ if Uid::effective().is_root() => AccessFlags::F_OK,
        true => AccessFlags::R_OK | AccessFlags::W_OK,
        false => AccessFlags::R_OK,
    };
    let told = [Errno::ENOENT, Errno::EACCES, Errno::EROFS];
    eaccess(&below(root, path), wanted).err().filter(|errno| !path.is_empty() && told.contains(errno))
}

fn closed(errno: Errno, writes: bool) -> String {
    format!("cannot be opened for {}: {}", if writes { "reading and writing" } else { "reading" }, errno.desc())
}

/// Who should have put it there.
fn explanation(volume: &Volume) -> &'static str {
    if volume.persistent_volume_claim.is_some() || volume.data_volume.is_some() || volume.ephemeral.is_some() {
        "the claim is not mounted into this container, or holds no disk.img"
    } else if volume.host_disk.is_some() {
        "there is no such image on the node or in the claim"
    } else if volume.container_disk.is_some() {
        "the image is not mounted into this container"
    } else if volume.sysprep.is_some() {
        "the volume names neither a ConfigMap nor a Secret"
    } else {
        "it was not made"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::HostFacts;
    use crate::launcher::facts;
    use crate::vmi;

    #[test]
    fn volume_of_a_missing_file_is_named() {
        let text = r#"{"metadata":{"name":"vm","namespace":"ns"},"spec":{
            "volumes":[{"name":"seed","cloudInitNoCloud":{"userData":"x"}},
                {"name":"data","persistentVolumeClaim":{"claimName":"c"}}],
            "domain":{"firmware":{"kernelBoot":{"container":{"kernelPath":"/k"}}},"devices":{"disks":[
                {"name":"seed","disk":{"bus":"virtio"}},{"name":"data","disk":{"bus":"virtio"}}]}}}}"#;
        let vmi = vmi::parse(text.as_bytes()).unwrap();
        let mut facts = HostFacts::default();
        facts.hypervisor.device_present = true;
        let domain = facts::draft(&vmi, &facts).unwrap();
        let root = tempfile::tempdir().unwrap();
        let seeds = Path::new(&facts.ephemeral_disk_dir).join("cloud-init-data");
        let look = || check(root.path(), &seeds, &vmi, &domain).map_err(|failure| failure.to_string());
        let make = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        let text = look().unwrap_err();
        assert!(
            text.starts_with("spec.volumes[1] (data): /var/run/kubevirt-private/vmi-disks/data/disk.img"),
            "{text}"
        );
        make("var/run/kubevirt-private/vmi-disks/data/disk.img");
        let text = look().unwrap_err();
        assert!(text.starts_with("spec.domain.firmware.kernelBoot.container.kernelPath: "), "{text}");
        make("var/run/kubevirt/container-disks/kernel-boot/k");
        look().unwrap();
    }
}
