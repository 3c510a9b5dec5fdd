//! Which field of a VMI libvirt or QEMU speak of when they refuse its domain. They know nothing of fields; they name a
//! device by its alias or address, a CPU model, a machine type.
//!
//! What can be seen in the VMI alone has a rule (`rules`) and never gets here. The rest depends on their builds and on the
//! machine; the texts are those of libvirt 11 and QEMU 10, and `tests/refusals` holds them against the real ones.

use crate::vmi::VirtualMachineInstance;

const DEVICES: &str = "spec.domain.devices";

/// Texts that speak of one field.
const TEXTS: &[(&str, &str)] = &[
    ("CPU model", "spec.domain.cpu.model"),
    ("CPU mode ", "spec.domain.cpu.model"),
    ("CPU feature", "spec.domain.cpu.features"),
    ("incompatible with host CPU", "spec.domain.cpu"),
    ("machine type", "spec.domain.machine.type"),
    ("video model", "spec.domain.devices.video.type"),
    ("launch security", "spec.domain.launchSecurity"),
    ("launchSecurity", "spec.domain.launchSecurity"),
    ("hugetlbfs", "spec.domain.memory.hugepages"),
    ("hugepages", "spec.domain.memory.hugepages"),
    ("vhost-vsock", "spec.domain.devices.autoattachVSOCK"),
    ("paravirtual spinlocks", "spec.domain.features.pvspinlock"),
    ("invariant TSC", "spec.domain.cpu.features"),
    ("set up guest memory", "spec.domain.memory"),
    ("phys-bits too low", "spec.domain.memory"),
    ("Address space limit", "spec.domain.memory"),
];

/// Path of the field that the text is about, if that can be found.
pub fn field_of(vmi: &VirtualMachineInstance, text: &str) -> Option<String> {
    device(vmi, text).or_else(|| feature(vmi, text)).or_else(|| {
        let (_, field) = TEXTS.iter().find(|(known, _)| text.contains(known))?;
        Some((*field).to_owned())
    })
}

/// The device whose alias or address the text has.
fn device(vmi: &VirtualMachineInstance, text: &str) -> Option<String> {
    let devices = &vmi.spec.domain.devices;
    let disks = devices.disks.iter().enumerate();
    let interfaces = devices.interfaces.iter().enumerate();
    let alias = |prefix: &str, name: &str| has_word(text, &format!("ua-{prefix}{name}"));
    let disk = disks.clone().find(|(_, disk)| alias("", &disk.name)).map(|(index, _)| ("disks", index));
    let of_interface =
        |name: &str| ["", "sriov-", "dra-sriov-"].iter().any(|prefix| !name.is_empty() && alias(prefix, name));
    let interface = || {
        let mut found = interfaces.clone().filter(|(_, interface)| of_interface(&interface.name));
        found.next().map(|(index, _)| ("interfaces", index))
    };
    let input = || devices.inputs.iter().position(|input| alias("", &input.name)).map(|index| ("inputs", index));
    let gpu = || {
        let is = |name: &str| alias("gpu-", name) || alias("dra-gpu-", name);
        devices.gpus.iter().position(|gpu| is(&gpu.name)).map(|index| ("gpus", index))
    };
    let host_device = || {
        let is = |name: &str| alias("hostdevice-", name) || alias("dra-hostdevice-", name);
        devices.host_devices.iter().position(|device| is(&device.name)).map(|index| ("hostDevices", index))
    };
    if let Some((list, index)) = disk.or_else(interface).or_else(input).or_else(gpu).or_else(host_device) {
        return Some(format!("{DEVICES}.{list}[{index}]"));
    }
    let of_disk = disks.filter_map(|(index, disk)| {
        Some((format!("{DEVICES}.disks[{index}].disk.pciAddress"), disk.disk.as_ref()?.pci_address.as_str()))
    });
    let of_interface = interfaces.map(|(index, interface)| {
        (format!("{DEVICES}.interfaces[{index}].pciAddress"), interface.pci_address.as_str())
    });
    let mut addresses = of_disk.chain(of_interface);
    addresses.find(|(_, address)| !address.is_empty() && has_word(text, address)).map(|(path, _)| path)
}

/// The CPU feature that a text about the CPU has.
fn feature(vmi: &VirtualMachineInstance, text: &str) -> Option<String> {
    let features = &vmi.spec.domain.cpu.as_ref()?.features;
    let about = text.contains("CPU feature") || text.contains("required features");
    let index = features.iter().position(|feature| about && has_word(text, &feature.name))?;
    Some(format!("spec.domain.cpu.features[{index}]"))
}

/// Whether the text has the word, not as a part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    let goes_on = |text: &str| text.starts_with(|next: char| next.is_ascii_alphanumeric() || "_-".contains(next));
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(word).filter(|_| !word.is_empty()) {
        if !goes_on(after) {
            return true;
        }
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn device_or_value_that_a_text_names_is_the_field() {
        let vmi = json!({"spec": {"domain": {
            "cpu": {"model": "x", "features": [{"name": "aes"}, {"name": "nonsense"}]},
            "devices": {
                "disks": [{"name": "a", "disk": {"bus": "virtio", "pciAddress": "0000:00:0a.0"}}, {"name": "a-b", "disk": {}}],
                "interfaces": [{"name": "blue", "sriov": {}}, {"name": "red", "pciAddress": "0000:00:0b.0"}],
                "gpus": [{"name": "a", "deviceName": "g"}],
            },
        }}});
        let vmi = crate::vmi::parse(vmi.to_string().as_bytes()).unwrap();
        let said = |text: &str| field_of(&vmi, text);
        for (text, field) in [
            ("-device {\"driver\":\"virtio-blk-pci\",\"id\":\"ua-a-b\"}: block size", "spec.domain.devices.disks[1]"),
            ("-device {\"id\":\"ua-a\"}: block size", "spec.domain.devices.disks[0]"),
            ("device ua-sriov-blue is in use", "spec.domain.devices.interfaces[0]"),
            ("ua-gpu-a: vfio 0000:01:00.0", "spec.domain.devices.gpus[0]"),
            ("PCI address 0000:00:0b.0 already in use", "spec.domain.devices.interfaces[1].pciAddress"),
            ("internal error: Unknown CPU model x", "spec.domain.cpu.model"),
            ("internal error: unknown CPU feature: nonsense", "spec.domain.cpu.features[1]"),
            ("Host CPU does not provide required features: aes", "spec.domain.cpu.features[0]"),
            ("Emulator '/usr/bin/q' does not support machine type 'x'", "spec.domain.machine.type"),
        ] {
            assert_eq!(said(text).as_deref(), Some(field), "{text}");
        }
        assert_eq!(said("End of file while reading data: Input/output error"), None);
        assert_eq!(said("the id ua-c is taken"), None);
    }
}
