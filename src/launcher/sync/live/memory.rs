//! Memory hot-plug through one virtio-mem device (contract/cmd-server.md 4.6).

use crate::convert::{self, ConvertError};
use crate::domain::{DomainSpec, Memory, MemoryDevice, MemoryTarget};
use crate::hypervisor::XmlKind;
use crate::launcher::error::Error;
use crate::launcher::vm::{Vm, domain_xml};
use crate::vmi::{Quantity, VirtualMachineInstance};

const GUEST: &str = "spec.domain.memory.guest";
const MAX_GUEST: &str = "spec.domain.memory.maxGuest";
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
pub fn change(vmi: &VirtualMachineInstance, live: &DomainSpec) -> Result<MemoryChange, ConvertError> {
    let spec = vmi.spec.domain.memory.clone().unwrap_or_default();
    let status = vmi.status.memory.clone().unwrap_or_default();
    let guest = bytes(GUEST, spec.guest.as_ref())?;
    let at_boot = bytes("status.memory.guestAtBoot", status.guest_at_boot.as_ref())?;
    let requested = beyond(GUEST, guest, at_boot)?;
    if let Some(live) = &live.devices.memory {
        let mut device = live.clone();
        let target = device.target.get_or_insert_default();
        fits(requested, read_bytes(&target.size), read_bytes(&target.block))?;
        target.requested = in_bytes(requested);
        return Ok(MemoryChange::Update(device));
    }
    let most = bytes(MAX_GUEST, spec.max_guest.as_ref())?;
    let size = beyond(MAX_GUEST, most, at_boot)?;
    let large = spec.hugepages.is_some_and(|pages| pages.page_size == "1Gi");
    let block = if large { LARGE_BLOCK } else { BLOCK };
    in_blocks(MAX_GUEST, size, block)?;
    fits(requested, Some(size), Some(block))?;
    let target = MemoryTarget {
        size: in_bytes(size),
        requested: in_bytes(requested),
        node: "0".into(),
        block: in_bytes(block),
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

/// Bytes that libvirt shows; `None` in a unit that it was not seen to use here.
fn read_bytes(memory: &Memory) -> Option<u64> {
    match memory.unit.as_str() {
        "b" | "bytes" => Some(memory.value),
        "KiB" => memory.value.checked_mul(1024),
        _ => None,
    }
}

fn bytes(field: &str, quantity: Option<&Quantity>) -> Result<u64, ConvertError> {
    let quantity = quantity.ok_or_else(|| ConvertError::field(field, "is missing"))?;
    convert::memory_bytes(field, quantity)
}

/// Bytes beyond those that the guest was started with.
fn beyond(field: &str, bytes: u64, at_boot: u64) -> Result<u64, ConvertError> {
    bytes.checked_sub(at_boot).ok_or_else(|| {
        let reason = format!("{bytes} bytes are less than the {at_boot} of status.memory.guestAtBoot");
        ConvertError::field(field, reason)
    })
}

/// What the device is asked for must fit in it, and be whole blocks of it.
fn fits(requested: u64, size: Option<u64>, block: Option<u64>) -> Result<(), ConvertError> {
    if let Some(size) = size.filter(|size| requested > *size) {
        let reason = format!("{requested} bytes more than at boot are more than the {size} that can be plugged");
        return Err(ConvertError::field(GUEST, reason));
    }
    block.map_or(Ok(()), |block| in_blocks(GUEST, requested, block))
}

fn in_blocks(field: &str, bytes: u64, block: u64) -> Result<(), ConvertError> {
    if block == 0 || bytes.is_multiple_of(block) {
        return Ok(());
    }
    let reason = format!("{bytes} bytes more than at boot are not a multiple of {block}, in which memory is plugged");
    Err(ConvertError::field(field, reason))
}

/// SyncVirtualMachineMemory. The guest takes or gives the memory in its own time; events tell how far it is.
pub async fn synchronise(vm: &Vm, vmi: &VirtualMachineInstance) -> Result<(), Error> {
    if vmi.annotation(FAIL).is_some() {
        return Err(Error::other(FAIL));
    }
    let context = "failed to update Guest Memory";
    let xml = vm.control.xml(XmlKind::Current).await.map_err(|error| Error::during(context, error))?;
    let live = domain_xml::read(&xml)?;
    let change = change(vmi, &live).map_err(|error| Error::vmi(format!("{context}: {error}")))?;
    match change {
        MemoryChange::Update(device) => vm.control.update_live_device(device.to_xml()).await?,
        MemoryChange::Attach(device) => vm.control.attach_device(device.to_xml()).await?,
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
    fn first_device_spans_what_may_be_plugged() {
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
        let mut vmi = vmi("2Gi", "4Gi", r#","hugepages":{"pageSize":"1Gi"}"#);
        vmi.status.memory.as_mut().unwrap().guest_at_boot = Some(Quantity::parse("1Gi").unwrap());
        let Ok(MemoryChange::Attach(device)) = change(&vmi, &DomainSpec::default()) else { panic!() };
        assert_eq!(device.target.unwrap().block.value, 1 << 30);
    }

    #[test]
    fn device_that_is_there_only_asks_for_another_amount() {
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
        let error = |vmi: &VirtualMachineInstance| change(vmi, &DomainSpec::default()).unwrap_err().to_string();
        assert!(error(&VirtualMachineInstance::default()).starts_with("spec.domain.memory.guest: is missing"));
        for (guest, most, field, why) in [
            ("64Mi", "1Gi", GUEST, "less than the 134217728 of status.memory.guestAtBoot"),
            ("256Mi", "64Mi", MAX_GUEST, "less than the 134217728"),
            ("2Gi", "1Gi", GUEST, "more than the 939524096 that can be plugged"),
            ("-1", "1Gi", GUEST, "less than 0"),
            ("8Ei", "8Ei", GUEST, "more than any guest can have"),
            ("9223372036854775808", "1Gi", GUEST, "more than any guest can have"),
            ("256Mi", "9223372036854775808", MAX_GUEST, "more than any guest can have"),
            ("255Mi", "1Gi", GUEST, "not a multiple of 2097152"),
            ("256Mi", "1000M", MAX_GUEST, "not a multiple of 2097152"),
        ] {
            let error = error(&vmi(guest, most, ""));
            assert!(error.starts_with(&format!("{field}: ")) && error.contains(why), "{guest} {most}: {error}");
        }
    }

    #[test]
    fn device_that_is_there_is_not_asked_for_more_than_it_has() {
        let xml = "<domain type='kvm'><devices><memory model='virtio-mem'><target><size unit='KiB'>917504</size>\
                   <node>0</node><block unit='KiB'>2048</block><requested unit='KiB'>131072</requested>\
                   </target></memory></devices></domain>";
        let live = DomainSpec::from_xml(xml).unwrap();
        assert!(change(&vmi("1Gi", "1Gi", ""), &live).is_ok());
        for (guest, why) in [("1026Mi", "more than the 939524096"), ("129Mi", "not a multiple of 2097152")] {
            let error = change(&vmi(guest, "1Gi", ""), &live).unwrap_err();
            assert_eq!(error.path(), Some(GUEST));
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
