//! What holds for every converted VMI: device names, aliases and addresses occur once.
#![allow(clippy::unwrap_used)] // a test ends by panicking

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use virt_launcher::domain::DomainSpec;

/// Every name, alias and address that two devices share, with the devices.
fn shared(spec: &DomainSpec) -> Vec<String> {
    let mut owners: HashMap<String, Vec<String>> = HashMap::new();
    let mut addresses: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for part in spec.parts() {
        let Some(path) = part.path.strip_prefix("devices/") else { continue };
        let (device, rest) = path.split_once('/').unwrap_or((path, ""));
        let kind = device.split('[').next().unwrap();
        match rest {
            "target/@dev" if ["disk", "interface"].contains(&kind) => {
                owners.entry(format!("{kind} name {}", part.value)).or_default().push(device.to_owned());
            }
            "alias/@name" if part.value.starts_with("ua-") => {
                owners.entry(format!("alias {}", part.value)).or_default().push(device.to_owned());
            }
            _ => {
                if let Some(attribute) = rest.strip_prefix("address/@") {
                    addresses.entry(device.to_owned()).or_default().insert(attribute.to_owned(), part.value);
                }
            }
        }
    }
    for (device, address) in addresses {
        let bus = spec_bus(spec, &device);
        let field = |name: &str| address.get(name).map_or("0", |text| text.trim_start_matches("0x")).to_owned();
        let number = |name: &str| u64::from_str_radix(&field(name), 16).unwrap_or(0);
        let key = match address.get("type").map(String::as_str) {
            Some("pci") if address.contains_key("slot") => {
                let numbers = ["domain", "bus", "slot", "function"].map(number);
                format!("PCI address {numbers:x?}")
            }
            Some("drive") => format!("{bus} address {:?}", ["controller", "bus", "target", "unit"].map(field)),
            _ => continue,
        };
        owners.entry(key).or_default().push(device);
    }
    let mut shared: Vec<String> = owners
        .iter()
        .filter(|(_, devices)| devices.len() > 1)
        .map(|(key, devices)| format!("{key}: {devices:?}"))
        .collect();
    shared.sort();
    shared
}

/// The bus of `disk[2]`: drive addresses are counted per bus.
fn spec_bus(spec: &DomainSpec, device: &str) -> String {
    let index = device.strip_prefix("disk[").and_then(|rest| rest.trim_end_matches(']').parse::<usize>().ok());
    index.and_then(|index| spec.devices.disks.get(index)).map_or_else(String::new, |disk| disk.target.bus.clone())
}

#[test]
fn no_golden_define_has_two_devices_of_one_name_alias_or_address() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/domain-xml");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("NOT TESTED: {} does not exist", folder.display());
        return;
    };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // In a `bad-` case the VMI itself names two disks alike, and libvirt refuses the define.
        if name.ends_with(".xml") && !name.starts_with("bad-") && !name.ends_with(".readback.xml") {
            let spec = DomainSpec::from_xml(&std::fs::read_to_string(&path).unwrap()).unwrap();
            found.extend(shared(&spec).into_iter().map(|what| format!("{name}: {what}")));
        }
    }
    found.sort();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_check_sees_what_two_devices_share() {
    let disk = "<disk><target dev='vda' bus='virtio'/><alias name='ua-a'/><address type='pci' slot='1'/></disk>";
    let other =
        "<disk><target dev='vda' bus='sata'/><alias name='ua-a'/><address type='pci' bus='0x00' slot='0x1'/></disk>";
    let spec = DomainSpec::from_xml(&format!("<domain><devices>{disk}{other}</devices></domain>")).unwrap();
    assert_eq!(shared(&spec).len(), 3, "{:?}", shared(&spec));
}
