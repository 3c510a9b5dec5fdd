//! Machine, firmware, kernel, and the texts that the guest reads in its SMBIOS tables.

use super::super::arch::Arch;
use super::{Rules, shown};
use crate::vmi::Firmware;

/// Bytes of one argument of QEMU's command line that the kernel takes (MAX_ARG_STRLEN), less the room for what stands
/// beside a text.
const LONGEST_ARGUMENT: usize = 131_072 - 1024;

pub(super) fn check(rules: &mut Rules<'_>) {
    machine(rules);
    if let Some(chassis) = &rules.vmi.spec.domain.chassis {
        let texts = [&chassis.manufacturer, &chassis.version, &chassis.serial, &chassis.asset, &chassis.sku]
            .map(String::as_str);
        fits(rules, "spec.domain.chassis", &texts);
    }
    let acpi = rules.vmi.spec.domain.features.as_ref().is_none_or(|features| {
        // Without `features` the document has none, and libvirt adds it where the firmware needs it.
        features.acpi.as_ref().is_none_or(|acpi| acpi.enabled.unwrap_or(true))
    });
    let firmware = rules.vmi.spec.domain.firmware.as_ref();
    let loader = firmware.and_then(|firmware| firmware.bootloader.as_ref());
    let efi = loader.and_then(|loader| loader.efi.as_ref());
    match efi {
        Some(_) if !acpi && rules.arch == Arch::Amd64 => {
            rules.refuse("spec.domain.features.acpi", "cannot be off, since firmware.bootloader.efi needs it");
        }
        None if rules.vmi.spec.domain.features.is_some() && acpi && rules.arch == Arch::Arm64 => {
            rules.refuse("spec.domain.firmware.bootloader.efi", "is missing, and ACPI needs it on arm64");
        }
        _ => {}
    }
    if let Some(firmware) = firmware {
        texts(rules, firmware);
        boot(rules, firmware);
    }
}

/// The types of QEMU's machines begin with their architecture's names.
fn machine(rules: &mut Rules<'_>) {
    let machine = rules.machine().to_owned();
    if machine.is_empty() {
        return;
    }
    let (known, names): (bool, &str) = match rules.arch {
        Arch::Amd64 => {
            (machine == "q35" || machine == "pc" || machine.starts_with("pc-"), "q35, pc, pc-q35-…, pc-i440fx-…")
        }
        Arch::Arm64 => (machine.starts_with("virt"), "virt, virt-…"),
        Arch::S390x => (machine.starts_with("s390-ccw"), "s390-ccw-virtio, s390-ccw-virtio-…"),
    };
    if !known {
        rules.refuse("spec.domain.machine.type", format!("{} is none of {names}", shown(&machine)));
    }
}

fn texts(rules: &mut Rules<'_>, firmware: &Firmware) {
    let uuid = &firmware.uuid;
    if !uuid.is_empty() && !is_uuid(uuid) {
        rules.refuse("spec.domain.firmware.uuid", format!("{} is not a UUID", shown(uuid)));
    }
    fits(rules, "spec.domain.firmware.serial", &[&firmware.serial]);
}

/// 32 hexadecimal digits, with hyphens or without.
fn is_uuid(text: &str) -> bool {
    let digits = text.trim_start().bytes().filter(|byte| *byte != b'-');
    let mut count = 0;
    let all = digits.inspect(|_| count += 1).all(|byte| byte.is_ascii_hexdigit());
    all && count == 32
}

fn boot(rules: &mut Rules<'_>, firmware: &Firmware) {
    let domain = &rules.vmi.spec.domain;
    if let Some(loader) = &firmware.bootloader {
        if loader.efi.is_some() && loader.bios.is_some() {
            rules.refuse("spec.domain.firmware.bootloader", "has both efi and bios; a machine boots by one");
        }
        let serial = loader.bios.as_ref().is_some_and(|bios| bios.use_serial == Some(true));
        if serial && !domain.devices.has_serial_console() {
            let reason = "needs the serial console, and autoattachSerialConsole is false";
            rules.refuse("spec.domain.firmware.bootloader.bios.useSerial", reason);
        }
        let security = domain.launch_security.as_ref();
        let confidential =
            security.is_some_and(|security| security.sev.is_some() || security.snp.is_some() || security.tdx.is_some());
        if loader.efi.as_ref().is_some_and(|efi| efi.secure_boot.unwrap_or(true)) && !confidential {
            secure_boot(rules);
        }
    }
    if let Some(kernel) = &firmware.kernel_boot {
        let container = kernel.container.as_ref();
        if container.is_none_or(|container| container.kernel_path.is_empty()) {
            let path = "spec.domain.firmware.kernelBoot";
            if !kernel.kernel_args.is_empty() {
                rules.refuse(
                    format!("{path}.kernelArgs"),
                    "there is no container.kernelPath, and thus no kernel to read them",
                );
            }
            if container.is_some_and(|container| !container.initrd_path.is_empty()) {
                let reason = "there is no container.kernelPath, and thus no kernel to load it";
                rules.refuse(format!("{path}.container.initrdPath"), reason);
            }
        }
        fits(rules, "spec.domain.firmware.kernelBoot.kernelArgs", &[&kernel.kernel_args]);
    }
}

fn secure_boot(rules: &mut Rules<'_>) {
    if rules.arch != Arch::Amd64 || rules.facts.ovmf.firmware_auto_selection {
        return;
    }
    let path = "spec.domain.firmware.bootloader.efi.secureBoot";
    let machine = rules.machine();
    if machine == "pc" || machine.starts_with("pc-i440fx") {
        rules.refuse(
            path,
            format!("a {machine} machine has no Secure Boot; q35 has (secureBoot is true unless it says false)"),
        );
        return;
    }
    let smm = rules.vmi.spec.domain.features.as_ref().and_then(|features| features.smm.as_ref());
    if !smm.is_some_and(crate::vmi::FeatureState::is_on) {
        rules.refuse(path, "needs spec.domain.features.smm (secureBoot is true unless it says false)");
    }
}

/// Texts of one argument must fit in it; QEMU's commas are written twice.
fn fits(rules: &mut Rules<'_>, path: &str, texts: &[&str]) {
    let bytes = |text: &&str| text.len() + text.bytes().filter(|byte| *byte == b',').count();
    let length: usize = texts.iter().map(bytes).sum();
    if length > LONGEST_ARGUMENT {
        rules.refuse(path, format!("{length} bytes are more than the {LONGEST_ARGUMENT} that QEMU can be given"));
    }
}
