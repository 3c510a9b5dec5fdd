//! Memory hot-plug through one virtio-mem device (contract/cmd-server.md 4.6).

use crate::cmd::Failure;
use crate::domain::{DomainSpec, Memory, MemoryDevice, MemoryTarget};
use crate::launcher::vm::Vm;
use crate::vmi::{Quantity, VirtualMachineInstance};

/// Makes the RPC fail, for functional tests.
const FAIL: &str = "kubevirt.io/func-test-memory-hotplug-fail";
/// Smallest piece of memory that is plugged: a huge page of the CPU.
const BLOCK: u64 = 2 << 20;
/// The same where the guest's memory is of 1 GiB pages.
const LARGE_BLOCK: u64 = 1 << 30;

/// What has to be done to the memory device.
#[derive(Debug, Clone, PartialEq)]
pub enum MemoryChange {
    /// The live device is to ask for another amount.
    Update(MemoryDevice),
    /// There is none yet.
    Attach(MemoryDevice),
}

/// The change that gives the guest the memory its VMI asks for; errors name the field.
pub fn change(vmi: &VirtualMachineInstance, live: &DomainSpec) -> Result<MemoryChange, String> {
    let spec = vmi.spec.domain.memory.clone().unwrap_or_default();
    let status = vmi.status.memory.clone().unwrap_or_default();
    let guest = bytes("spec.domain.memory.guest", spec.guest.as_ref())?;
    let at_boot = bytes("status.memory.guestAtBoot", status.guest_at_boot.as_ref())?;
    let requested = guest.checked_sub(at_boot).ok_or_else(|| {
        format!("spec.domain.memory.guest ({guest} bytes) is less than status.memory.guestAtBoot ({at_boot} bytes)")
    })?;
    if let Some(live) = &live.devices.memory {
        let mut device = live.clone();
        device.target.get_or_insert_default().requested = in_bytes(requested);
        return Ok(MemoryChange::Update(device));
    }
    let most = bytes("spec.domain.memory.maxGuest", spec.max_guest.as_ref())?;
    let size = most.checked_sub(at_boot).ok_or_else(|| {
        format!("spec.domain.memory.maxGuest ({most} bytes) is less than status.memory.guestAtBoot ({at_boot} bytes)")
    })?;
    let large = spec.hugepages.is_some_and(|pages| pages.page_size == "1Gi");
    let target = MemoryTarget {
        size: in_bytes(size),
        requested: in_bytes(requested),
        node: "0".into(),
        block: in_bytes(if large { LARGE_BLOCK } else { BLOCK }),
        ..MemoryTarget::default()
    };
    Ok(MemoryChange::Attach(MemoryDevice {
        model: "virtio-mem".into(),
        target: Some(target),
        ..MemoryDevice::default()
    }))
}

fn in_bytes(value: u64) -> Memory {
    Memory { value, unit: "b".into() }
}

fn bytes(field: &str, quantity: Option<&Quantity>) -> Result<u64, String> {
    let quantity = quantity.ok_or_else(|| format!("{field} is missing"))?;
    u64::try_from(quantity.value()).map_err(|_| format!("{field} ({quantity}) is negative"))
}

/// SyncVirtualMachineMemory. The guest takes or gives the memory in its own time; events tell how far it is.
pub async fn synchronise(vm: &Vm, vmi: &VirtualMachineInstance) -> Result<(), Failure> {
    if vmi.annotation(FAIL).is_some() {
        return Err(Failure::text(FAIL));
    }
    let context = "failed to update Guest Memory";
    let xml = vm.connection.xml(&vm.domain, 0).await.map_err(|error| Failure::wrapped(context, error))?;
    let live = super::read_live(&xml)?;
    let change = change(vmi, &live).map_err(|why| Failure::text(format!("{context}: {why}")))?;
    match change {
        MemoryChange::Update(device) => vm.connection.update_live_device(&vm.domain, device.to_xml()).await?,
        MemoryChange::Attach(device) => vm.connection.attach_device(&vm.domain, device.to_xml()).await?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmi;

    fn vmi(guest: &str, max: &str, pages: &str) -> VirtualMachineInstance {
        let text = format!(
            r#"{{"spec":{{"domain":{{"memory":{{"guest":"{guest}","maxGuest":"{max}"{pages}}}}}}},
            "status":{{"memory":{{"guestAtBoot":"128Mi"}}}}}}"#
        );
        vmi::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_first_device_spans_what_may_be_plugged() {
        let Ok(MemoryChange::Attach(device)) = change(&vmi("256Mi", "1Gi", ""), &DomainSpec::default()) else {
            panic!()
        };
        let target = device.target.clone().unwrap();
        assert_eq!((target.size.value, target.requested.value), (896 << 20, 128 << 20));
        assert_eq!((target.block.value, target.node.as_str()), (2 << 20, "0"));
        let xml = device.to_xml();
        assert!(xml.starts_with("<memory model=\"virtio-mem\">"), "{xml}");
        assert!(xml.contains("<requested unit=\"b\">134217728</requested>"), "{xml}");
    }

    #[test]
    fn large_pages_are_plugged_whole() {
        let vmi = vmi("2Gi", "4Gi", r#","hugepages":{"pageSize":"1Gi"}"#);
        let Ok(MemoryChange::Attach(device)) = change(&vmi, &DomainSpec::default()) else { panic!() };
        assert_eq!(device.target.unwrap().block.value, 1 << 30);
    }

    #[test]
    fn a_device_that_is_there_only_asks_for_another_amount() {
        let xml = "<domain type='kvm'><devices><memory model='virtio-mem'><target><size unit='KiB'>917504</size>\
                   <node>0</node><block unit='KiB'>2048</block><requested unit='KiB'>131072</requested>\
                   <current unit='KiB'>131072</current></target><alias name='virtiomem0'/></memory></devices></domain>";
        let live = DomainSpec::from_xml(xml).unwrap();
        let Ok(MemoryChange::Update(device)) = change(&vmi("128Mi", "1Gi", ""), &live) else { panic!() };
        let mut expected = live.devices.memory.clone().unwrap();
        expected.target.as_mut().unwrap().requested = in_bytes(0);
        assert_eq!(device, expected);
    }

    #[test]
    fn what_is_missing_or_too_little_is_named() {
        let error = |vmi: &VirtualMachineInstance| change(vmi, &DomainSpec::default()).unwrap_err();
        assert!(error(&VirtualMachineInstance::default()).contains("spec.domain.memory.guest is missing"));
        assert!(error(&vmi("64Mi", "1Gi", "")).contains("less than status.memory.guestAtBoot"));
        assert!(error(&vmi("256Mi", "64Mi", "")).contains("spec.domain.memory.maxGuest"));
    }
}
