//! Networks and interfaces.

use super::super::facts::Profile;
use super::{Rules, shown};
use crate::vmi::{Interface, Network};

/// Models of network cards that the API knows, and others that QEMU has.
const MODELS: &[&str] = &["virtio", "e1000", "e1000e", "igb", "ne2k_pci", "pcnet", "rtl8139", "vmxnet3", "tulip"];
/// Families of models: `i82559c`, `virtio-net-pci`, `e1000-82545em`.
const FAMILIES: &[&str] = &["i825", "virtio-", "e1000-"];
/// Largest index of a PCI device in ACPI, as QEMU bounds it.
const MOST_ACPI_INDEX: i64 = 16_383;

pub(super) fn check(rules: &mut Rules<'_>) {
    let networks = &rules.vmi.spec.networks;
    rules.unique("spec.networks", "name", networks.iter().map(|network| network.name.as_str()));
    let mut primary = None;
    for (index, network) in networks.iter().enumerate() {
        let path = format!("spec.networks[{index}]");
        if let [first, second, ..] = sources(network).as_slice() {
            rules.refuse(&path, format!("has more than one source: {first} and {second}"));
        }
        if network.pod.is_some() || network.multus.as_ref().is_some_and(|multus| multus.default) {
            match primary {
                Some(first) => rules.refuse(&path, format!("is the pod's own network, as spec.networks[{first}] is")),
                None => primary = Some(index),
            }
        }
    }
    let interfaces = &rules.vmi.spec.domain.devices.interfaces;
    rules.unique("spec.domain.devices.interfaces", "name", interfaces.iter().map(|interface| interface.name.as_str()));
    for (index, interface) in interfaces.iter().enumerate().filter(|(_, interface)| interface.state != "absent") {
        one(rules, &format!("spec.domain.devices.interfaces[{index}]"), interface);
    }
}

fn sources(network: &Network) -> Vec<&'static str> {
    let sources = [
        ("pod", network.pod.is_some()),
        ("multus", network.multus.is_some()),
        ("resourceClaim", network.resource_claim.is_some()),
    ];
    sources.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
}

fn one(rules: &mut Rules<'_>, path: &str, interface: &Interface) {
    let bindings: Vec<&str> = [
        ("bridge", interface.bridge.is_some()),
        ("masquerade", interface.masquerade.is_some()),
        ("sriov", interface.sriov.is_some()),
        ("passtBinding", interface.passt_binding.is_some()),
        ("binding", interface.binding.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, given)| given.then_some(name))
    .collect();
    if let [first, second, ..] = bindings.as_slice() {
        rules.refuse(path, format!("has more than one binding: {first} and {second}"));
    }
    if !interface.state.is_empty() {
        rules.one_of(format!("{path}.state"), &interface.state, &["absent", "down", "up"]);
    }
    let is_tap = rules.facts.options().interface_domain_attachment.get(&interface.name).is_some_and(|how| how == "tap");
    let is_device = is_tap || interface.passt_binding.is_some();
    // Some calls for a VM that runs come without the options that say which interfaces are on taps.
    let is_known = rules.facts.options_present || !rules.is_running;
    if is_known && interface.sriov.is_none() && interface.binding.is_none() && !is_device {
        rules.refuse(
            path,
            "has no binding that gives the guest a network card: bridge, masquerade, passtBinding or sriov",
        );
    }
    mac(rules, path, &interface.mac_address);
    if rules.facts.hypervisor.profile == Profile::Qemu && (is_device || interface.sriov.is_some()) {
        card(rules, path, interface);
    }
}

fn card(rules: &mut Rules<'_>, path: &str, interface: &Interface) {
    let model = interface.model.as_str();
    // libvirt reads them without regard to case.
    let lower = model.to_ascii_lowercase();
    let is_family = FAMILIES.iter().any(|family| lower.starts_with(family));
    let known = model.is_empty() || MODELS.contains(&lower.as_str()) || is_family;
    if !known && interface.sriov.is_none() {
        rules.refuse(format!("{path}.model"), format!("{} is none of {}", shown(model), MODELS.join(", ")));
    }
    if !(0..=MOST_ACPI_INDEX).contains(&interface.acpi_index) {
        let reason = format!("{} is not between 0 and {MOST_ACPI_INDEX}", interface.acpi_index);
        rules.refuse(format!("{path}.acpiIndex"), reason);
    } else if interface.acpi_index > 0 {
        let all = &rules.vmi.spec.domain.devices.interfaces;
        let same = |other: &Interface| other.acpi_index == interface.acpi_index && other.state != "absent";
        let first = all.iter().position(same).unwrap_or_default();
        let first = format!("spec.domain.devices.interfaces[{first}]");
        if first != path {
            rules.refuse(
                format!("{path}.acpiIndex"),
                format!("{} is the acpiIndex of {first} too", interface.acpi_index),
            );
        }
    }
    if interface.passt_binding.is_some() {
        for (index, port) in interface.ports.iter().enumerate().filter(|(_, port)| !(1..=65535).contains(&port.port)) {
            rules.refuse(format!("{path}.ports[{index}].port"), format!("{} is not a port", port.port));
        }
    }
}

/// A card's address has six bytes and belongs to one card. Other forms than hexadecimal numbers are the conversion's.
fn mac(rules: &mut Rules<'_>, path: &str, text: &str) {
    let digits: String = text.chars().filter(|character| !matches!(character, ':' | '-' | '.')).collect();
    if text.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return;
    }
    let path = format!("{path}.macAddress");
    if digits.len() > 12 {
        rules.refuse(path, format!("{} has more than six bytes", shown(text)));
        return;
    }
    let first = text.split([':', '-', '.']).next().unwrap_or_default();
    let first = u32::from_str_radix(first, 16).map(|first| if first > 0xff { first >> 8 } else { first });
    if first.is_ok_and(|first| first & 1 == 1) {
        rules.refuse(path, format!("{} is the address of a group, not of a card", shown(text)));
    }
}
