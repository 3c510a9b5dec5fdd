//! Overlays for changed block tracking (contract/cmd-server.md 5.1 step 4, 7.4). Which disks have one, and where, the
//! conversion says.

use std::path::PathBuf;

use super::error::wrapped;
use super::images::LOOKING;
use crate::convert::HostFacts;
use crate::domain::{Disk, DomainSpec};
use crate::launcher::error::Error;
use crate::launcher::facts::{self, below};
use crate::launcher::sync::means::Boot;
use crate::launcher::sync::storage_io::storage_io;
use crate::launcher::sync::{image_size, volume_files};
use crate::storage;
use crate::vmi::VirtualMachineInstance;

/// Makes the overlays that are missing: all while tracking begins, later those of volumes that are being plugged. Others
/// are where tracking began, and a new one in their place would hide that bitmaps are lost.
pub(crate) async fn make_overlays(boot: &Boot, vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<(), Error> {
    let state = vmi.status.changed_block_tracking.as_ref().map(|tracking| tracking.state.as_str());
    let begins = match state {
        Some("Initializing") => true,
        Some("Enabled") => false,
        _ => return Ok(()),
    };
    let domain = facts::draft(vmi, facts).map_err(|error| Error::vmi(error.to_string()))?;
    for disk in tracked(vmi, &domain, begins) {
        // The overlay is as large as the data, and qemu-storage-daemon opens both.
        let (root, vmi, facts, looked) = (boot.root.clone(), vmi.clone(), facts.clone(), disk.clone());
        storage_io(LOOKING, move || {
            volume_files::check(&root, &vmi, &looked)?;
            image_size::round_up(&root, &vmi, &facts, &looked)
                .or_else(|odd| odd.without_direct_io(&vmi, &looked).map(drop))
        })
        .await??;
        let (overlay, data) = (PathBuf::from(&disk.source.file), PathBuf::from(disk.backend().path()));
        let (overlay, data) = (below(&boot.root, overlay), below(&boot.root, data));
        storage::create_tracking_overlay(&boot.tools, &overlay, &data, boot.owner)
            .await
            .map_err(wrapped("failed to create QCOW2 overlay"))?;
    }
    Ok(())
}

/// Disks whose overlays may have to be made.
fn tracked<'a>(vmi: &VirtualMachineInstance, domain: &'a DomainSpec, begins: bool) -> impl Iterator<Item = &'a Disk> {
    let is_plugged = |name: &str| {
        let mut volumes = vmi.status.volume_status.iter();
        volumes.any(|volume| volume.name == name && volume.hotplug_volume.is_some() && volume.phase == "MountedToPod")
    };
    let disks = domain.devices.disks.iter().filter(|disk| disk.source.data_store.is_some());
    disks.filter(move |disk| begins || disk.alias.as_ref().is_some_and(|alias| is_plugged(&alias.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlays_are_made_when_tracking_begins_and_for_what_is_plugged_later() {
        let text = r#"{"metadata":{"name":"vm","namespace":"ns"},"status":{"runtimeUser":107,
            "changedBlockTracking":{"state":"Enabled"},"volumeStatus":[
                {"name":"late","hotplugVolume":{},"phase":"MountedToPod"},
                {"name":"ready","hotplugVolume":{},"phase":"Ready"}]},
            "spec":{"volumes":[{"name":"root","persistentVolumeClaim":{"claimName":"c"}},
                {"name":"late","persistentVolumeClaim":{"claimName":"d","hotpluggable":true}},
                {"name":"ready","persistentVolumeClaim":{"claimName":"e","hotpluggable":true}},
                {"name":"empty","emptyDisk":{"capacity":"1Mi"}}],
            "domain":{"devices":{"disks":[{"name":"root","disk":{"bus":"virtio"}},
                {"name":"late","disk":{"bus":"scsi"}},{"name":"ready","disk":{"bus":"scsi"}},
                {"name":"empty","disk":{"bus":"virtio"}}]}}}}"#;
        let vmi = crate::vmi::parse(text.as_bytes()).unwrap();
        let mut facts = HostFacts::default();
        facts.hypervisor.device_present = true;
        let domain = facts::draft(&vmi, &facts).unwrap();
        let private = "/var/run/kubevirt-private";
        let overlay = |volume: &str| PathBuf::from(format!("{private}/libvirt/qemu/cbt/{volume}.qcow2"));
        let plugged = |volume: &str| PathBuf::from(format!("/var/run/kubevirt/hotplug-disks/{volume}.img"));
        let later = [(overlay("late"), plugged("late"))];
        let missing_overlays = |begins| -> Vec<(PathBuf, PathBuf)> {
            let disks = tracked(&vmi, &domain, begins);
            disks.map(|disk| (disk.source.file.clone().into(), disk.backend().path().into())).collect()
        };
        assert_eq!(missing_overlays(false), later);
        let root = PathBuf::from(format!("{private}/vmi-disks/root/disk.img"));
        let all = missing_overlays(true);
        assert_eq!(all, [(overlay("root"), root), later[0].clone(), (overlay("ready"), plugged("ready"))]);
    }
}
