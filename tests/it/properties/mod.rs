//! What holds for every converted VMI: it converts or errors and never panics; device names, aliases and addresses occur
//! once; reading what was written gives the same document.

mod agreement;
mod generator;
mod hotplug;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

use crate::support::wide_suite;
use generator::{Choices, Input};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use virt_launcher::convert::{Defines, HostFacts};
use virt_launcher::domain::DomainSpec;
use virt_launcher::vmi;

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
            "alias/@name" => {
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
#[ignore = "needs the wide suite, ../shared/conformance; make test"]
fn wide_suite_defines_have_no_two_devices_of_one_name_alias_or_address() {
    let mut found = Vec::new();
    for path in std::fs::read_dir(wide_suite("domain-xml")).unwrap().map(|entry| entry.unwrap().path()) {
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
fn check_sees_what_two_devices_share() {
    let disk = "<disk><target dev='vda' bus='virtio'/><alias name='ua-a'/><address type='pci' slot='1'/></disk>";
    let other =
        "<disk><target dev='vda' bus='sata'/><alias name='ua-a'/><address type='pci' bus='0x00' slot='0x1'/></disk>";
    let spec = DomainSpec::from_xml(&format!("<domain><devices>{disk}{other}</devices></domain>")).unwrap();
    assert_eq!(shared(&spec).len(), 3, "{:?}", shared(&spec));
}

/// What a libvirt could have made of a define: root ports, an address for every disk and interface that has none.
fn read_back(define: &str) -> String {
    let mut spec = DomainSpec::from_xml(define).unwrap();
    let pci = |bus: usize| format!("<address type='pci' domain='0x0000' bus='{bus:#04x}' slot='0x00' function='0x0'/>");
    let mut ports = String::from("<controller type='pci' index='0' model='pcie-root'/>");
    for index in 1..=8 {
        ports += &format!(
            "<controller type='pci' index='{index}' model='pcie-root-port'>{}</controller>",
            pci(0x60 + index)
        );
    }
    let ports = DomainSpec::from_xml(&format!("<domain><devices>{ports}</devices></domain>")).unwrap();
    spec.devices.controllers.retain(|controller| controller.model != "pcie-root");
    spec.devices.controllers.extend(ports.devices.controllers);
    spec.to_xml()
}

/// Reading a define gives the same document, as XML and as the JSON that virt-handler gets.
fn reads_back_the_same(spec: &DomainSpec, xml: &str) {
    let read = DomainSpec::from_define_xml(xml).unwrap();
    assert_eq!(spec.to_xml(), xml);
    assert_eq!(DomainSpec::from_define_xml(&read.to_xml()).unwrap(), read);
    // The namespace is not among what is read (contract/domain-xml-qemu.md 3.1).
    let namespace = format!(" xmlns:qemu=\"{}\"", virt_launcher::domain::QEMU_NAMESPACE);
    assert_eq!(read.to_xml().replacen(&namespace, "", 1), xml.replacen(&namespace, "", 1));
    let json = serde_json::to_string(&read).unwrap();
    let again: DomainSpec = serde_json::from_str(&json).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), json);
}

/// The defines of a boot; what an error says, and that it says where.
fn boot(input: &Input) -> Result<Vec<DomainSpec>, String> {
    let vmi = vmi::parse(input.vmi.to_string().as_bytes()).map_err(|error| error.to_string())?;
    let facts: HostFacts = serde_json::from_value(input.facts.clone()).unwrap();
    let mut boot = Defines::new(&vmi, &facts).map_err(|error| {
        assert!(!error.to_string().is_empty() && !error.with_path().is_empty());
        error.to_string()
    })?;
    let readback = read_back(&boot.xml());
    let mut defines = vec![boot.document().clone()];
    reads_back_the_same(boot.document(), &boot.xml());
    while !boot.is_last() {
        boot.next(Some(&readback)).map_err(|error| error.to_string())?;
        reads_back_the_same(boot.document(), &boot.xml());
        defines.push(boot.document().clone());
    }
    assert!(defines.len() <= 3);
    Ok(defines)
}

/// Runs a property; gives back how many inputs converted, of how many, and the errors of the others with their number.
fn check(cases: u32, wild: bool, property: impl Fn(&[DomainSpec])) -> (u32, BTreeMap<String, u32>) {
    let (converted, errors) = (Cell::new(0), std::cell::RefCell::new(BTreeMap::new()));
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let numbers = proptest::collection::vec(any::<u16>(), 0..600);
    let outcome = runner.run(&numbers, |numbers| {
        match boot(&Choices::new(numbers, wild).input()) {
            Ok(defines) => {
                property(&defines);
                converted.set(converted.get() + 1);
            }
            Err(error) => *errors.borrow_mut().entry(error).or_default() += 1,
        }
        Ok(())
    });
    if let Err(TestError::Fail(why, numbers)) = outcome {
        let Input { vmi, facts } = Choices::new(numbers, wild).input();
        panic!("{why}\nVMI: {vmi}\ncontext: {facts}");
    }
    outcome.unwrap();
    let errors = errors.into_inner();
    println!("{} of {cases} converted; the others: {errors:#?}", converted.get());
    (converted.get(), errors)
}

#[test]
fn generated_vmi_converts_with_unique_names_aliases_and_addresses() {
    let (converted, errors) = check(600, false, |defines| {
        for (index, define) in defines.iter().enumerate() {
            let found = shared(define);
            assert!(found.is_empty(), "define {}: {}", index + 1, found.join("\n"));
        }
    });
    assert!(converted > 150, "only {converted} converted; the others: {errors:#?}");
}

#[test]
fn conversion_ends_in_a_document_or_an_error_whatever_the_vmi_says() {
    let (converted, errors) = check(600, true, |_| {});
    assert!(converted > 20 && errors.len() > 20, "{converted} converted; the others: {errors:#?}");
}
