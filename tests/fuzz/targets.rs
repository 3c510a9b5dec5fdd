//! What is fed, with what it starts from.

use std::path::Path;

use virt_launcher::domain::{Domain, DomainSpec};
use virt_launcher::vmi::{self, Quantity};

pub struct Target {
    pub name: &'static str,
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Whether the input was accepted; panics where a promise is broken.
    pub run: fn(&[u8]) -> bool,
}

pub const TARGETS: &[Target] = &[
    Target { name: "domain-xml", seeds: domain_xml_seeds, run: domain_xml },
    Target { name: "domain-json", seeds: domain_json_seeds, run: domain_json },
    Target { name: "vmi-json", seeds: vmi_seeds, run: vmi_json },
    Target { name: "vmi-document", seeds: vmi_seeds, run: vmi_document },
    Target { name: "quantity", seeds: quantity_seeds, run: quantity },
];

/// What is read can be written, and reads the same again.
fn domain_xml(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let Ok(mut spec) = DomainSpec::from_xml(&text) else { return false };
    let written = spec.to_xml();
    let again = DomainSpec::from_xml(&written).unwrap();
    assert_eq!(again.to_xml(), written);
    serde_json::to_string(&spec).unwrap();
    if let Ok(define) = DomainSpec::from_define_xml(&text) {
        spec = define.round_trip().unwrap();
        assert_eq!(spec.to_xml(), define.to_xml());
    }
    true
}

fn domain_json(input: &[u8]) -> bool {
    let Ok(domain) = serde_json::from_slice::<Domain>(input) else { return false };
    let written = serde_json::to_string(&domain).unwrap();
    assert_eq!(serde_json::to_string(&serde_json::from_str::<Domain>(&written).unwrap()).unwrap(), written);
    true
}

/// What is accepted is accepted again as we write it.
fn vmi_json(input: &[u8]) -> bool {
    let Ok(vmi) = vmi::parse(input) else { return false };
    let written = serde_json::to_vec(&vmi).unwrap();
    assert_eq!(vmi::parse(&written).unwrap(), vmi);
    true
}

/// A file a person wrote: YAML or JSON.
fn vmi_document(input: &[u8]) -> bool {
    vmi::parse_document(&String::from_utf8_lossy(input)).is_ok()
}

fn quantity(input: &[u8]) -> bool {
    let Ok(quantity) = Quantity::parse(&String::from_utf8_lossy(input)) else { return false };
    // None of these panics, and a number that is exact is the rounded one.
    let (value, exact) = (quantity.value(), quantity.exact());
    assert!(exact.is_none_or(|exact| exact == value));
    assert!(!quantity.is_zero() || value == 0);
    true
}

fn vmi_seeds() -> Vec<Vec<u8>> {
    let mut seeds = recorded(&[".vmi.json"], 60);
    seeds.push(include_bytes!("seeds/vmi.yaml").to_vec());
    seeds
}

fn quantity_seeds() -> Vec<Vec<u8>> {
    let texts = ["1", "128Mi", "0.5", "1e3", "-2Gi", "100m", "1.5Ei", "9223372036854775807", "12E", "+7k", "3n"];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

fn domain_xml_seeds() -> Vec<Vec<u8>> {
    let mut seeds = recorded(&[".readback.xml", ".define1.xml"], 60);
    seeds.push(include_bytes!("seeds/domain.xml").to_vec());
    seeds
}

fn domain_json_seeds() -> Vec<Vec<u8>> {
    let texts = domain_xml_seeds().into_iter().map(|xml| String::from_utf8(xml).unwrap());
    let domains = texts.map(|xml| Domain { spec: DomainSpec::from_xml(&xml).unwrap(), ..Domain::default() });
    domains.map(|domain| serde_json::to_vec(&domain).unwrap()).collect()
}

/// Up to `limit` golden cases' files, if they are at hand.
fn recorded(suffixes: &[&str], limit: usize) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/domain-xml");
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| suffixes.iter().any(|suffix| path.to_str().unwrap().ends_with(suffix)));
    paths.sort();
    let step = (paths.len() / limit).max(1);
    paths.iter().step_by(step).map(|path| std::fs::read(path).unwrap()).collect()
}
