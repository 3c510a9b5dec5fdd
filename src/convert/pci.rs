//! PCI placement (contract/domain-xml-qemu.md 11).

use super::arch::Arch;
use super::context::Context;
use super::error::ConvertError;
use crate::domain::{Address, DomainSpec};

/// Addresses of the PCI devices in the walk's order (11.1): interfaces, PCI host devices, controllers that are not
/// roots, virtio disks, virtio inputs, watchdogs, rng, memory balloon. Only devices count whose address is absent, has an
/// empty type, or is a PCI address.
pub(super) fn walk(domain: &mut DomainSpec) -> Vec<&mut Option<Address>> {
    let devices = &mut domain.devices;
    let mut slots: Vec<&mut Option<Address>> = Vec::new();
    slots.extend(devices.interfaces.iter_mut().map(|device| &mut device.address));
    slots.extend(
        devices.host_devices.iter_mut().filter(|device| device.type_ == "pci").map(|device| &mut device.address),
    );
    slots.extend(
        devices
            .controllers
            .iter_mut()
            .filter(|controller| !matches!(controller.model.as_str(), "pci-root" | "pcie-root" | "pcie-expander-bus"))
            .map(|device| &mut device.address),
    );
    slots.extend(devices.disks.iter_mut().filter(|disk| disk.target.bus == "virtio").map(|device| &mut device.address));
    slots.extend(devices.inputs.iter_mut().filter(|input| input.bus == "virtio").map(|device| &mut device.address));
    slots.extend(devices.watchdogs.iter_mut().map(|device| &mut device.address));
    slots.extend(devices.rng.iter_mut().map(|device| &mut device.address));
    slots.extend(devices.ballooning.iter_mut().map(|device| &mut device.address));
    slots.retain(|address| address.as_ref().is_none_or(|address| matches!(address.type_.as_str(), "" | "pci")));
    slots
}

/// The annotation that puts devices on the root complex.
pub(super) fn on_root_complex(context: &Context<'_>) -> bool {
    context.vmi.annotation("kubevirt.io/placePCIDevicesOnRootComplex") == Some("true")
}

/// Gives every PCI device without an address a slot on bus 0 (11.2), if the annotation asks for it.
pub(super) fn place_on_root_complex(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    if !on_root_complex(context) || context.arch == Arch::S390x {
        return Ok(());
    }
    let mut next: u32 = 2;
    for address in walk(domain) {
        if address.as_ref().is_some_and(|address| !address.domain.is_empty()) {
            continue;
        }
        // The chipset's own functions.
        if next == 0x1b || next == 0x1f {
            next += 1;
        }
        if next >= 0x20 {
            return Err(ConvertError::known("No space left on the root PCI bus."));
        }
        *address = Some(Address {
            type_: "pci".into(),
            domain: "0x0000".into(),
            bus: "0x00".into(),
            slot: format!("0x{next:02x}"),
            function: "0x0".into(),
            ..Address::default()
        });
        next += 1;
    }
    Ok(())
}
