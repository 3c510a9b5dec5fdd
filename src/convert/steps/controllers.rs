//! Controllers (contract/domain-xml-qemu.md 7.4).

use super::super::arch::Arch;
use super::super::host_devices::{USB, variable};
use super::super::io_threads;
use super::{Context, ConvertError, disks::bus};
use crate::domain::{Controller, ControllerDriver, DomainSpec, PciHole64};

pub(super) fn controllers(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let devices = &context.vmi.spec.domain.devices;
    let controllers = &mut domain.devices.controllers;
    let controller = |kind: &str, model: &str| Controller {
        type_: kind.into(),
        index: "0".into(),
        model: model.into(),
        ..Controller::default()
    };
    controllers.push(controller("usb", if needs_usb(context) { "qemu-xhci" } else { "none" }));
    if !devices.disable_hotplug || context.disks().iter().any(|disk| bus(disk) == "scsi") {
        controllers.push(Controller { driver: scsi_driver(context)?, ..controller("scsi", context.scsi_model()) });
    }
    let no_hole = context.vmi.annotation("kubevirt.io/disablePCIHole64");
    if context.arch == Arch::Amd64 && no_hole.is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        let hole = PciHole64 { value: 0, unit: "KiB".into() };
        controllers.push(Controller { pci_hole64: Some(hole), ..controller("pci", "pcie-root") });
    }
    if devices.has_serial_console() {
        let driver =
            context.launch_iommu.then(|| ControllerDriver { iommu: "on".into(), ..ControllerDriver::default() });
        controllers.push(Controller { driver, ..controller("virtio-serial", context.virtio_model()) });
    }
    Ok(())
}

fn needs_usb(context: &Context<'_>) -> bool {
    let devices = &context.vmi.spec.domain.devices;
    match context.arch {
        Arch::Arm64 => true,
        Arch::S390x => false,
        Arch::Amd64 => {
            let host_usb = |resource: &str| context.facts.env.contains_key(&variable(USB, resource));
            devices.inputs.iter().any(|input| matches!(input.bus.as_str(), "" | "usb"))
                // Also CD-ROMs: the original looks at disks alone, and libvirt refuses the rest (7.4).
                || devices.disks.iter().any(|disk| bus(disk) == "usb")
                || devices.client_passthrough.is_some()
                || devices.host_devices.iter().any(|device| host_usb(&device.device_name))
        }
    }
}

fn scsi_driver(context: &Context<'_>) -> Result<Option<ControllerDriver>, ConvertError> {
    let counts = io_threads::count(context)?;
    let mut driver = ControllerDriver { iommu: context.iommu(), ..ControllerDriver::default() };
    let disks = context.disks();
    let is_dedicated = |disk: &&crate::vmi::Disk| disk.dedicated_io_thread == Some(true);
    if counts.auto > 0 && disks.iter().any(|disk| bus(disk) == "scsi" && is_dedicated(&disk)) {
        let sharing = disks.iter().filter(|disk| bus(disk) == "virtio" && !is_dedicated(disk));
        driver.io_thread = Some(sharing.fold(1, |thread, _| thread % counts.auto + 1));
        driver.queues = Some(context.vcpus());
    }
    Ok((driver != ControllerDriver::default()).then_some(driver))
}
