//! What is fed, with what it starts from.

use std::path::{Path, PathBuf};

use serde_json::value::RawValue;
use virt_launcher::convert::{Defines, HostFacts};
use virt_launcher::domain::{Domain, DomainSpec};
use virt_launcher::vmi::manifest::{Manifest, Options};
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
    Target { name: "vmi-document", seeds: document_seeds, run: vmi_document },
    Target { name: "convert", seeds: boot_seeds, run: convert },
    Target { name: "quantity", seeds: quantity_seeds, run: quantity },
];

/// What is read can be written, and reads the same again.
fn domain_xml(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let Ok(spec) = DomainSpec::from_xml(&text) else { return false };
    let written = spec.to_xml();
    let again = DomainSpec::from_xml(&written).unwrap();
    assert_eq!(again.to_xml(), written);
    serde_json::to_string(&spec).unwrap();
    if let Ok(define) = DomainSpec::from_define_xml(&text) {
        assert_eq!(DomainSpec::from_define_xml(&define.to_xml()).unwrap().to_xml(), define.to_xml());
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

/// A file a person wrote, YAML or JSON: what is accepted is typed, and a message about any of its fields is found a place.
fn vmi_document(input: &[u8]) -> bool {
    let text = String::from_utf8_lossy(input);
    let options = Options { file: "f", host_arch: "amd64", pod_network: true, ..Options::default() };
    let Ok(manifest) = Manifest::read(&text, &options) else { return false };
    let json = serde_json::to_vec(&manifest.value).unwrap();
    assert_eq!(vmi::parse(&json).unwrap(), manifest.vmi);
    assert!(manifest.located("x: spec.domain.devices.disks[0].name: y").starts_with("f"));
    true
}

/// A VMI, the facts it meets and what libvirt reads back, in one document.
#[derive(serde::Serialize, serde::Deserialize)]
struct Boot {
    vmi: Box<RawValue>,
    facts: HostFacts,
    readback: String,
}

/// All defines of a boot or an error, and each define reads back.
fn convert(input: &[u8]) -> bool {
    let Ok(input) = serde_json::from_slice::<Boot>(input) else { return false };
    let Ok(vmi) = vmi::parse(input.vmi.get().as_bytes()) else { return false };
    let Ok(mut boot) = Defines::new(&vmi, &input.facts) else { return false };
    loop {
        let xml = boot.xml();
        let read = DomainSpec::from_define_xml(&xml).unwrap();
        assert_eq!(DomainSpec::from_define_xml(&read.to_xml()).unwrap().to_xml(), read.to_xml());
        if boot.is_last() {
            return true;
        }
        // Where there is no read-back, what was defined serves as one.
        let readback = if input.readback.is_empty() { &xml } else { &input.readback };
        if boot.next(Some(readback)).is_err() {
            return false;
        }
    }
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
    seeds.extend(own_cases(".vmi.yaml").map(String::into_bytes));
    seeds.push(include_bytes!("seeds/vmi.yaml").to_vec());
    seeds
}

fn document_seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests/files");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    files.chain(vmi_seeds()).collect()
}

fn boot_seeds() -> Vec<Vec<u8>> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let raw = |text: String| RawValue::from_string(text).unwrap();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let facts: HostFacts = serde_json::from_str(&read(&project.join("tests/vmis/facts.json"))).unwrap();
    let own = ["small", "typical", "big"].map(|name| {
        let vmi = vmi::parse_document(&read(&project.join(format!("tests/vmis/{name}.yaml")))).unwrap();
        Boot { vmi: raw(serde_json::to_string(&vmi).unwrap()), facts: facts.clone(), readback: String::new() }
    });
    let recorded = recorded_paths(&[".vmi.json"], 120).into_iter().filter_map(|path| {
        let beside = |suffix: &str| path.to_str().unwrap().replace(".vmi.json", suffix);
        Some(Boot {
            vmi: raw(read(&path)),
            facts: serde_json::from_str(&read(Path::new(&beside(".ctx.json")))).ok()?,
            readback: std::fs::read_to_string(beside(".readback.xml")).unwrap_or_default(),
        })
    });
    own.into_iter().chain(recorded).map(|boot| serde_json::to_vec(&boot).unwrap()).collect()
}

fn quantity_seeds() -> Vec<Vec<u8>> {
    let texts = ["1", "128Mi", "0.5", "1e3", "-2Gi", "100m", "1.5Ei", "9223372036854775807", "12E", "+7k", "3n"];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

fn domain_xml_seeds() -> Vec<Vec<u8>> {
    let mut seeds = recorded(&[".readback.xml", ".define1.xml"], 60);
    // A case's defines stand in one file, with a comment between them.
    let first = |defines: String| defines.split("\n<!--").next().map(|define| define.as_bytes().to_vec());
    seeds.extend(own_cases(".xml").filter_map(first));
    seeds.push(include_bytes!("seeds/domain.xml").to_vec());
    seeds
}

fn domain_json_seeds() -> Vec<Vec<u8>> {
    let texts = domain_xml_seeds().into_iter().map(|xml| String::from_utf8(xml).unwrap());
    let domains = texts.map(|xml| Domain { spec: DomainSpec::from_xml(&xml).unwrap(), ..Domain::default() });
    domains.map(|domain| serde_json::to_vec(&domain).unwrap()).collect()
}

/// Files of the project's own golden cases.
fn own_cases(suffix: &'static str) -> impl Iterator<Item = String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cases");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_str().unwrap().ends_with(suffix));
    paths.sort();
    paths.into_iter().map(|path| std::fs::read_to_string(path).unwrap())
}

/// The wide suite's cases; what is fuzzed without them is said.
pub fn wide_suite() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/domain-xml")
}

/// Up to `limit` of the wide suite's files, where it is there.
fn recorded(suffixes: &[&str], limit: usize) -> Vec<Vec<u8>> {
    recorded_paths(suffixes, limit).iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn recorded_paths(suffixes: &[&str], limit: usize) -> Vec<PathBuf> {
    let folder = wide_suite();
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| suffixes.iter().any(|suffix| path.to_str().unwrap().ends_with(suffix)));
    paths.sort();
    let step = (paths.len() / limit).max(1);
    paths.into_iter().step_by(step).collect()
}
