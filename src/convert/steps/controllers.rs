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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{run, vmi, written};

    const NO_USB: &str = r#"<controller type="usb" index="0" model="none"/>"#;
    const USB: &str = r#"<controller type="usb" index="0" model="qemu-xhci"/>"#;
    const SCSI: &str = r#"<controller type="scsi" index="0" model="virtio-non-transitional"/>"#;
    const SERIAL: &str = r#"<controller type="virtio-serial" index="0" model="virtio-non-transitional"/>"#;

    fn controllers(devices: Value) -> String {
        written(super::controllers, json!({"devices": devices}))
    }

    #[test]
    fn controllers_are_those_that_devices_and_hot_plug_need() {
        assert_eq!(controllers(json!({})), [NO_USB, SCSI, SERIAL].concat());
        let fewer = json!({"disableHotplug": true, "autoattachSerialConsole": false});
        assert_eq!(controllers(fewer.clone()), NO_USB);
        let mut scsi = fewer;
        scsi["disks"] = json!([{"name": "a", "lun": {"bus": "scsi"}}]);
        assert_eq!(controllers(scsi), [NO_USB, SCSI].concat());
    }

    #[test]
    fn controllers_have_usb_where_something_is_on_it() {
        let is_usb = |devices| controllers(devices).starts_with(USB);
        assert!(is_usb(json!({"inputs": [{"name": "t", "type": "tablet"}]})));
        assert!(!is_usb(json!({"inputs": [{"name": "t", "type": "tablet", "bus": "virtio"}]})));
        assert!(is_usb(json!({"disks": [{"name": "a", "cdrom": {"bus": "usb"}}]})));
        assert!(is_usb(json!({"clientPassthrough": {}})));
        let device = vmi(json!({"devices": {"hostDevices": [{"name": "d", "deviceName": "a.b/c"}]}}));
        let plugin = |variable: &str, value: &str| json!({"env": {variable: value}});
        let usb = run(super::controllers, device.clone(), plugin("USB_RESOURCE_A_B_C", "1:2")).unwrap();
        assert!(usb.starts_with(USB), "{usb}");
        let pci = run(super::controllers, device, plugin("PCI_RESOURCE_A_B_C", "0000:01:00.0")).unwrap();
        assert!(pci.starts_with(NO_USB), "{pci}");
        let on = |arch: &str| run(super::controllers, vmi(json!({})), json!({"hostArch": arch})).unwrap();
        assert!(on("arm64").starts_with(USB) && on("s390x").starts_with(NO_USB));
    }

    #[test]
    fn controllers_lose_the_64_bit_pci_hole_by_annotation_on_amd64_only() {
        let hole =
            r#"<controller type="pci" index="0" model="pcie-root"><pcihole64 unit="KiB">0</pcihole64></controller>"#;
        let mut vmi = vmi(json!({}));
        vmi["metadata"]["annotations"] = json!({"kubevirt.io/disablePCIHole64": "TRUE"});
        let on = |arch: &str| run(super::controllers, vmi.clone(), json!({"hostArch": arch})).unwrap();
        assert_eq!(on("amd64"), [NO_USB, SCSI, hole, SERIAL].concat());
        assert!(!on("arm64").contains("pcihole64"));
    }

    #[test]
    fn scsi_controller_has_the_io_thread_after_those_of_the_virtio_disks() {
        let disk =
            |name: &str, bus: &str, own: bool| json!({"name": name, "disk": {"bus": bus}, "dedicatedIOThread": own});
        let domain = json!({
            "ioThreadsPolicy": "auto",
            "resources": {"requests": {"cpu": "4"}},
            "devices": {"disks": [disk("a", "virtio", false), disk("b", "scsi", true)]},
        });
        let driver = r#"model="virtio-non-transitional"><driver iothread="1" queues="4"/></controller>"#;
        let written = written(super::controllers, domain);
        assert!(written.contains(driver), "{written}");
    }
}
