//! What devices of all kinds share: aliases, boot orders, PCI addresses and slots.

use super::super::arch::Arch;
use super::super::pci_address;
use super::super::steps::bus_of;
use super::{Rules, shown};

/// Largest number that libvirt reads as a boot order and QEMU as a boot index.
const MOST_ORDER: u64 = i32::MAX as u64;
/// Root ports on the 30 slots of the root bus that the chipset leaves, with eight functions each.
const MOST_PCI_DEVICES: usize = 240;
/// Addresses of a USB bus.
const MOST_USB_DISKS: usize = 127;

const DEVICES: &str = "spec.domain.devices";

pub(super) fn check(rules: &mut Rules<'_>) {
    aliases(rules);
    boot_orders(rules);
    pci_addresses(rules);
    counts(rules);
}

/// Whose name is an alias in libvirt's document as it is, with the field.
fn aliases(rules: &mut Rules<'_>) {
    let devices = &rules.vmi.spec.domain.devices;
    let mut named: Vec<(String, &str)> = Vec::new();
    let add = |list: &str, names: Vec<&'_ str>| -> Vec<String> {
        names.iter().enumerate().map(|(index, _)| format!("{DEVICES}.{list}[{index}].name")).collect()
    };
    let disks: Vec<&str> = devices.disks.iter().map(|disk| disk.name.as_str()).collect();
    let interfaces: Vec<&str> = devices.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let inputs: Vec<&str> = devices.inputs.iter().map(|input| input.name.as_str()).collect();
    for (list, names) in [("disks", disks), ("interfaces", interfaces), ("inputs", inputs)] {
        let paths = add(list, names.clone());
        named.extend(paths.into_iter().zip(names));
    }
    if let Some(sound) = &devices.sound {
        named.push((format!("{DEVICES}.sound.name"), &sound.name));
    }
    if let Some(watchdog) = &devices.watchdog {
        named.push((format!("{DEVICES}.watchdog.name"), &watchdog.name));
    }
    for (index, (path, name)) in named.iter().enumerate().filter(|(_, (_, name))| !name.is_empty()) {
        let Some((first, _)) = named.iter().take(index).find(|(_, other)| other == name) else { continue };
        // Two of one list are told by the list's own rule, but for inputs, which have none.
        let list = |path: &str| path.split('[').next().unwrap_or_default().to_owned();
        if list(path) != list(first) || path.contains(".inputs[") {
            rules.refuse(
                path.clone(),
                format!("{} is {first} too, and devices are told apart by their names", shown(name)),
            );
        }
    }
    for (list, names) in [
        ("gpus", devices.gpus.iter().map(|gpu| gpu.name.as_str()).collect::<Vec<_>>()),
        ("hostDevices", devices.host_devices.iter().map(|device| device.name.as_str()).collect()),
    ] {
        rules.unique(&format!("{DEVICES}.{list}"), "name", names.into_iter());
    }
}

fn boot_orders(rules: &mut Rules<'_>) {
    let devices = &rules.vmi.spec.domain.devices;
    let disks = devices.disks.iter().enumerate().map(|(index, disk)| (format!("disks[{index}]"), disk.boot_order));
    let cards = devices.interfaces.iter().enumerate().filter(|(_, card)| card.state != "absent");
    let cards = cards.map(|(index, card)| (format!("interfaces[{index}]"), card.boot_order));
    let mut seen: Vec<(String, u64)> = Vec::new();
    for (device, order) in disks.chain(cards).filter_map(|(device, order)| Some((device, order?))) {
        let path = format!("{DEVICES}.{device}.bootOrder");
        if !(1..=MOST_ORDER).contains(&order) {
            rules.refuse(path, format!("{order} is not between 1 and {MOST_ORDER}"));
            continue;
        }
        if let Some((first, _)) = seen.iter().find(|(_, other)| *other == order) {
            rules.refuse(path, format!("{order} is the bootOrder of {DEVICES}.{first} too"));
        }
        seen.push((device, order));
    }
}

fn pci_addresses(rules: &mut Rules<'_>) {
    let devices = &rules.vmi.spec.domain.devices;
    let disks = devices.disks.iter().enumerate().filter_map(|(index, disk)| {
        Some((format!("{DEVICES}.disks[{index}].disk.pciAddress"), disk.disk.as_ref()?.pci_address.as_str(), true))
    });
    let cards = devices.interfaces.iter().enumerate().filter(|(_, card)| card.state != "absent");
    let cards = cards.map(|(index, card)| {
        // Cards of other models sit on a bridge's bus, which has more slots than a root port.
        let is_express = matches!(card.model.as_str(), "" | "virtio" | "e1000e" | "igb");
        (format!("{DEVICES}.interfaces[{index}].pciAddress"), card.pci_address.as_str(), is_express)
    });
    let is_q35 =
        rules.arch == Arch::Amd64 && !matches!(rules.machine(), "pc") && !rules.machine().starts_with("pc-i440fx");
    let mut seen: Vec<(String, String)> = Vec::new();
    for (path, text, is_express) in disks.chain(cards) {
        // What is not an address is told by the conversion.
        let Some(address) = pci_address::address(text) else { continue };
        let number = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_default();
        let [domain, bus, slot] = [&address.domain, &address.bus, &address.slot].map(|text| number(text));
        let problem = match (domain, bus, slot, address.function.as_str()) {
            (1.., ..) => Some("the machine has the PCI domain 0000 alone"),
            (_, bus, ..) if bus as usize > MOST_PCI_DEVICES => Some("the machine cannot have so many buses"),
            (_, _, 0x20.., _) => Some("a bus has the slots 00 to 1f"),
            (_, 0, 0x1f, "0x0" | "0x2") if is_q35 => Some("that is the chipset's own"),
            (_, 1.., 1.., _) if is_q35 && is_express => Some("a root port has slot 00 alone"),
            _ => None,
        };
        if let Some(problem) = problem {
            rules.refuse(path, format!("{text}: {problem}"));
            continue;
        }
        // An address of zeros asks for any.
        let name = pci_address::kernel_name(&address).to_ascii_lowercase();
        if name == "0000:00:00.0" {
            continue;
        }
        if let Some((first, _)) = seen.iter().find(|(_, other)| *other == name) {
            rules.refuse(path, format!("{text} is the address of {first} too"));
        } else {
            seen.push((path, name));
        }
    }
}

fn counts(rules: &mut Rules<'_>) {
    let devices = &rules.vmi.spec.domain.devices;
    let on = |bus: &str| devices.disks.iter().filter(|disk| bus_of(disk) == bus).count();
    let pci = on("virtio")
        + devices.interfaces.len()
        + devices.gpus.len()
        + devices.host_devices.len()
        + devices.filesystems.len();
    if pci > MOST_PCI_DEVICES {
        rules.refuse(
            DEVICES,
            format!("{pci} PCI devices (disks on virtio, interfaces, …) are more than {MOST_PCI_DEVICES}"),
        );
    }
    let usb = on("usb");
    if usb > MOST_USB_DISKS {
        rules.refuse(format!("{DEVICES}.disks"), format!("{usb} disks on usb are more than {MOST_USB_DISKS}"));
    }
}
