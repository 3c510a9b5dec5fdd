//! Carries out the changes of a domain's disks: waits for volumes to be ready, sets their cache, tells the guest of growth.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::disks::{self, DiskChange};
use super::failures::{Failures, field_of_device};
use super::resize::{self, measure, wanted_size};
use super::{Devices, worded};
use crate::convert::{self, HostFacts};
use crate::domain::Disk;
use crate::launcher::error::Error;
use crate::launcher::facts;
use crate::launcher::sync::storage_io::storage_io;
use crate::launcher::sync::{image_size, volume_files};
use crate::launcher::vm::Vm;
use crate::libvirt::BlockSize;
use crate::vmi::VirtualMachineInstance;

const LOOKING: &str = "looking at the VM's volumes";

/// Takes out what is not wanted, then puts in what is missing: the names of disks that are still there, if only because
/// the guest has not let go of them yet, are given to no other.
pub(super) async fn reconcile(
    vm: &Vm,
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    mut devices: Devices,
    failures: &mut Failures<'_>,
) -> Result<Devices, Error> {
    vm.hotplug.forget_overlays_of_absent(&devices.live.devices.disks).await;
    if take_out(vm, vmi, &devices, failures).await? {
        devices = Devices::read(vm, vmi, facts).await?;
        // Now, since the event may come when another disk has the alias and the overlay.
        vm.hotplug.forget_overlays_of_absent(&devices.live.devices.disks).await;
    }
    for change in disks::changes(&devices.live.devices.disks, &devices.wanted.devices.disks) {
        match change {
            // They have been asked for, and the guest has not let go of them.
            DiskChange::Detach(_) | DiskChange::Replace { .. } => {}
            DiskChange::Attach(disk) => plug(vm, vmi, facts, disk, failures).await?,
            DiskChange::ChangeMedium(disk) => change_medium(vm, vmi, &disk, failures).await?,
        }
    }
    for disk in disks::impossible(&devices.live.devices.disks, &devices.wanted.devices.disks) {
        let (name, bus) = (disk.alias_name(), &disk.target.bus);
        let field = field_of_device(vmi, name).unwrap_or_default();
        let why = format!("{field}.disk.bus: no disk on {bus} can be added to a running VM, only on virtio and scsi");
        failures.refuse(name, Error::vmi(why));
    }
    grow(vm, &devices.wanted.devices.disks).await;
    Ok(devices)
}

/// Asks the guest to let go of what is not wanted; whether there was anything.
async fn take_out(
    vm: &Vm,
    vmi: &VirtualMachineInstance,
    devices: &Devices,
    failures: &mut Failures<'_>,
) -> Result<bool, Error> {
    let mut asked = false;
    for change in disks::changes(&devices.live.devices.disks, &devices.wanted.devices.disks) {
        let disk = match change {
            DiskChange::Detach(disk) => disk,
            DiskChange::Replace { old, new } if is_usable(vmi, &new, failures).await => old,
            DiskChange::Replace { .. } => continue,
            DiskChange::Attach(_) | DiskChange::ChangeMedium(_) => continue,
        };
        tracing::info!("unplugging volume {} from {}", disk.alias_name(), disk.target.device);
        vm.hotplug.remember_overlay(&disk);
        let outcome = vm.control.detach_device(disk.to_xml()).await;
        failures.note(disk.alias_name(), outcome)?;
        asked = true;
    }
    Ok(asked)
}

async fn plug(
    vm: &Vm,
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    mut disk: Disk,
    failures: &mut Failures<'_>,
) -> Result<(), Error> {
    let name = disk.alias_name().to_owned();
    if disk.device == "cdrom" {
        let why = "a CD-ROM drive cannot be added to a running VM, only a medium to a drive that it was started with";
        let field = field_of_device(vmi, &name).unwrap_or_else(|| "spec.domain.devices.disks".to_owned());
        failures.refuse(&name, Error::storage(format!("{field} ({name}): {why}")));
        return Ok(());
    }
    if !is_usable(vmi, &disk, failures).await {
        return Ok(());
    }
    if let Err(failure) = probe(vmi, facts, &mut disk).await {
        failures.refuse(&name, failure);
        return Ok(());
    }
    tracing::info!("plugging volume {name} as {}", disk.target.device);
    failures.note(&name, vm.control.attach_device(disk.to_xml()).await)
}

async fn change_medium(
    vm: &Vm,
    vmi: &VirtualMachineInstance,
    disk: &Disk,
    failures: &mut Failures<'_>,
) -> Result<(), Error> {
    let path = disk.source.path();
    if path.is_empty() || is_usable(vmi, disk, failures).await {
        let medium = if path.is_empty() { "nothing" } else { path };
        tracing::info!("putting {medium} into the CD-ROM drive {}", disk.target.device);
        failures.note(disk.alias_name(), vm.control.update_device(disk.to_xml()).await)?;
    }
    Ok(())
}

/// [`is_ready`]; a volume that cannot become ready is a failure of its own.
async fn is_usable(vmi: &VirtualMachineInstance, disk: &Disk, failures: &mut Failures<'_>) -> bool {
    is_ready(vmi, disk).await.unwrap_or_else(|failure| {
        failures.refuse(disk.alias_name(), failure);
        false
    })
}

/// Whether the volume can be used; one that cannot yet is left for the next sync. One that must not be is an error.
async fn is_ready(vmi: &VirtualMachineInstance, disk: &Disk) -> Result<bool, Error> {
    let (volume, path) = (disk.alias_name().to_owned(), PathBuf::from(disk.backend().path()));
    let (of, checked) = (vmi.clone(), disk.clone());
    let writes = disk.read_only.is_none() && disk.device != "cdrom";
    let looked = storage_io(LOOKING, move || {
        // Before virt-handler mounts the volume, a directory may stand in its place.
        if !path.is_dir() {
            volume_files::check(Path::new("/"), &of, &checked)?;
        }
        Ok::<_, Error>(readiness(&path, writes))
    });
    match looked.await?? {
        Ok(Ok(())) => Ok(true),
        Ok(Err(why)) => {
            tracing::info!("volume {volume} is not ready, the next sync tries again: {why}");
            Ok(false)
        }
        Err(why) => Err(Error::storage(format!("{}: {why}", volume_files::place(vmi, disk)))),
    }
}

/// Ready, or why not yet; an error is one that waiting does not cure. virt-handler gives the volume to the launcher's user
/// before it syncs: one that may not be opened then stays so (contract/cmd-server.md 11, W32).
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
fn readiness(path: &Path, writes: bool) -> Result<Result<(), String>, String> {
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(Err(format!("{} does not exist", path.display())));
        }
        Err(error) => return Err(format!("{} cannot be looked at: {error}", path.display())),
    };
    let writes = writes && !found.file_type().is_block_device();
    let Err(error) = File::options().read(true).write(writes).open(path) else { return Ok(Ok(())) };
    let why = format!("{} cannot be opened: {error}", path.display());
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Err(why),
        _ => Ok(Err(why)),
    }
}

/// Cache and IO mode of a disk that is new (contract/cmd-server.md 5.8).
async fn probe(vmi: &VirtualMachineInstance, facts: &HostFacts, disk: &mut Disk) -> Result<(), Error> {
    let (of, mut facts, plugged) = (vmi.clone(), facts.clone(), disk.clone());
    let facts = storage_io(LOOKING, move || {
        let odd = image_size::round_up(Path::new("/"), &of, &facts, &plugged).err();
        let without_direct_io = odd.map_or(Ok(false), |odd| odd.without_direct_io(&of, &plugged))?;
        let source = plugged.backend();
        let (path, is_file) = (source.path(), !source.file.is_empty());
        let direct = if without_direct_io { "no".to_owned() } else { facts::direct_io(Path::new(path), is_file) };
        facts.direct_io.paths.insert(path.to_owned(), direct);
        if is_file && facts::is_allocated(Path::new(path)) {
            facts.preallocated_images.push(path.to_owned());
        }
        Ok::<_, Error>(facts)
    });
    convert::set_io_modes(vmi, &facts.await??, disk).map_err(worded)
}

/// Tells the guest of claims that have grown. What fails is tried again at the next sync.
async fn grow(vm: &Vm, wanted: &[Disk]) {
    let claims: Vec<Disk> = wanted.iter().filter(|disk| disk.capacity.is_some()).cloned().collect();
    let sizes =
        storage_io(LOOKING, move || claims.iter().filter_map(size).collect::<Vec<_>>()).await.unwrap_or_default();
    let state_file = &vm.hotplug.state_file;
    let resizes = state_file.change(|state| resize::resizes(&mut state.claim_sizes, sizes));
    for resize in resizes {
        match vm.control.block_resize(&resize.path, resize.size).await {
            Ok(()) => {
                tracing::info!("{} has grown to {} bytes", resize.path, resize.bytes);
                state_file.change(|state| state.claim_sizes.insert(resize.path, resize.bytes));
            }
            Err(error) => tracing::warn!("{} has grown, but the guest cannot be told: {error}", resize.path),
        }
    }
}

fn size(disk: &Disk) -> Option<(String, u64, BlockSize)> {
    let (bytes, size) = wanted_size(disk, measure(Path::new(disk.backend().path()))?)?;
    Some((disk.source.path().to_owned(), bytes, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_is_ready_once_it_can_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.img");
        let why = readiness(&path, true).unwrap().unwrap_err();
        assert!(why.contains("v.img") && why.contains("does not exist"), "{why}");
        // A folder stands where the volume is to be mounted.
        let why = readiness(folder.path(), true).unwrap().unwrap_err();
        assert!(why.contains("cannot be opened"), "{why}");
        std::fs::write(&path, "x").unwrap();
        assert_eq!(readiness(&path, true).unwrap(), Ok(()));
        let through_a_file = path.join("below");
        let why = readiness(&through_a_file, true).unwrap_err();
        assert!(why.contains("below cannot be looked at"), "waiting does not cure this: {why}");
        // A program that runs is closed to writers, root or not, for a while.
        let busy = readiness(&std::env::current_exe().unwrap(), true).unwrap().unwrap_err();
        assert!(busy.contains("cannot be opened"), "{busy}");
        assert_eq!(readiness(&std::env::current_exe().unwrap(), false), Ok(Ok(())), "a CD-ROM is only read");
    }
}
