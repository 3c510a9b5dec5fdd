//! Container disks of a VM that runs. Their images are mounted under names that carry the place which the volume had in the
//! VMI when the VM was started (contract/domain-xml-qemu.md 8.4). A volume before them that goes, as when a CD-ROM is
//! ejected, moves them in the VMI, and nothing in the pod (contract/cmd-server.md 11, W29).

use std::collections::BTreeMap;

use crate::domain::DomainSpec;
use crate::launcher::error::Error;
use crate::launcher::vm::{Vm, domain_xml};
use crate::storage::ImageInfo;
use crate::vmi::VirtualMachineInstance;

/// Format of an image that nothing is known of, as where the hypervisor got a copy of it. A VM that runs reads it no more.
const UNKNOWN: &str = "raw";

/// The images of the VMI's container disks, by volume, as the running domain has them; `None` if there is no VM that runs,
/// and the files are to be looked at.
pub(crate) async fn images(
    vm: &Vm,
    vmi: &VirtualMachineInstance,
) -> Result<Option<BTreeMap<String, ImageInfo>>, Error> {
    if !vmi.spec.volumes.iter().any(|volume| volume.container_disk.is_some()) || !vm.control.exists().await? {
        return Ok(None);
    }
    let snapshot = vm.control.snapshot().await?;
    let Some(xml) = snapshot.xml.filter(|_| !snapshot.state.may_be_started()) else { return Ok(None) };
    Ok(Some(images_of(vmi, &domain_xml::read(&xml)?)))
}

fn images_of(vmi: &VirtualMachineInstance, live: &DomainSpec) -> BTreeMap<String, ImageInfo> {
    let format = |volume: &str| {
        let mut disks = live.devices.disks.iter();
        let disk =
            disks.find(|disk| disk.alias.as_ref().is_some_and(|alias| alias.user_defined && alias.name == volume))?;
        let format = disk.backing_store.as_ref()?.format.as_ref()?;
        (!format.type_.is_empty()).then(|| format.type_.clone())
    };
    let image = |volume: &str| ImageInfo {
        format: format(volume).unwrap_or_else(|| UNKNOWN.to_owned()),
        ..ImageInfo::default()
    };
    let volumes = vmi.spec.volumes.iter().filter(|volume| volume.container_disk.is_some());
    volumes.map(|volume| (volume.name.clone(), image(&volume.name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_a_running_vm_are_the_domains_wherever_their_volumes_are_by_now() {
        let vmi = crate::vmi::parse(
            br#"{"spec":{"volumes":[{"name":"os","containerDisk":{"image":"i"}},{"name":"late","containerDisk":{"image":"j"}},
                {"name":"data","emptyDisk":{"capacity":"1Mi"}}]}}"#,
        )
        .unwrap();
        let live = DomainSpec::from_xml(
            "<domain><devices><disk><alias name='ua-os'/><backingStore type='file'><format type='qcow2'/>\
             <source file='/var/run/kubevirt/container-disks/disk_7.img'/></backingStore></disk></devices></domain>",
        )
        .unwrap();
        let image = |format: &str| ImageInfo { format: format.into(), ..ImageInfo::default() };
        let expected = [("late".to_owned(), image("raw")), ("os".to_owned(), image("qcow2"))];
        assert_eq!(images_of(&vmi, &live), BTreeMap::from(expected));
    }
}
