//! The domain document against what the original wrote: XML read and written again, JSON read and written again.

use std::path::{Path, PathBuf};

use crate::support::wide_suite;
use serde_json::Value;
use virt_launcher::domain::{Domain, DomainSpec};

fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect();
    files.sort();
    files
}

#[test]
#[ignore = "needs the wide suite, ../shared/conformance; make test"]
fn every_define_is_read_and_written_again_byte_for_byte() {
    let folder = wide_suite("domain-xml");
    let mut tested = 0;
    for path in files(&folder, ".xml") {
        if path.to_str().unwrap().ends_with(".readback.xml") {
            continue;
        }
        let recorded = std::fs::read_to_string(&path).unwrap();
        let mut spec = DomainSpec::from_define_xml(&recorded).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        // The namespace declaration of a document without a command line is not read back; the first defines carry it.
        if let Some(namespace) = recorded.lines().next().unwrap().split("xmlns:qemu=\"").nth(1) {
            spec.xml_ns = namespace.trim_end_matches("\">").to_owned();
        }
        assert_eq!(spec.to_xml(), recorded, "{}", path.display());
        tested += 1;
    }
    assert!(tested > 0, "no recordings in {}", folder.display());
}

#[test]
#[ignore = "needs the wide suite, ../shared/conformance; make test"]
fn round_trip_loses_only_the_namespace_declaration() {
    let folder = wide_suite("domain-xml");
    for path in files(&folder, ".define1.xml") {
        let recorded = std::fs::read_to_string(&path).unwrap();
        let mut spec = DomainSpec::from_define_xml(&recorded).unwrap();
        let again = |spec: &DomainSpec| DomainSpec::from_define_xml(&spec.to_xml()).unwrap();
        let settled = again(&spec);
        assert_eq!(settled, spec, "{}", path.display());
        spec.xml_ns = "http://libvirt.org/schemas/domain/qemu/1.0".to_owned();
        assert_eq!(again(&spec), settled, "{}", path.display());
    }
}

#[test]
#[ignore = "needs the wide suite, ../shared/conformance; make test"]
fn every_readback_is_read_and_what_was_read_survives_xml_and_json() {
    let folder = wide_suite("domain-xml");
    for path in files(&folder, ".readback.xml") {
        let spec = DomainSpec::from_xml(&std::fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(DomainSpec::from_xml(&spec.to_xml()).unwrap(), spec, "{}", path.display());
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<DomainSpec>(&json).unwrap(), spec, "{}", path.display());
        assert!(!spec.devices.controllers.is_empty(), "{}", path.display());
    }
}

#[test]
#[ignore = "needs the wide suite, ../shared/conformance; make test"]
fn get_domain_and_notify_documents_keep_every_key() {
    let folder = wide_suite("cmd");
    let mut tested = 0;
    for path in files(&folder, ".jsonl") {
        for line in std::fs::read_to_string(&path).unwrap().lines() {
            let record: Value = serde_json::from_str(line).unwrap();
            let document = record["domainJSON"].as_str().or_else(|| record["reply"]["domain"].as_str());
            let Some(document) = document.filter(|text| text.starts_with('{')) else { continue };
            let recorded: Value = serde_json::from_str(document).unwrap();
            let domain: Domain = serde_json::from_str(document).unwrap();
            let ours = serde_json::to_value(&domain).unwrap();
            assert_eq!(differences("", &recorded, &ours), Vec::<String>::new(), "{}", path.display());
            // The same through XML, but for the aliases' and the metadata's own ways.
            let reread = DomainSpec::from_xml(&domain.spec.to_xml()).unwrap();
            if !domain.spec.xml_name.local.is_empty() {
                assert_eq!(reread, domain.spec);
            }
            tested += 1;
        }
    }
    assert!(tested > 0, "no documents in {}", folder.display());
}

/// Every place where two JSON values differ.
fn differences(path: &str, recorded: &Value, ours: &Value) -> Vec<String> {
    match (recorded, ours) {
        (Value::Object(recorded), Value::Object(ours)) => {
            let mut found = Vec::new();
            for (key, value) in recorded {
                match ours.get(key) {
                    Some(other) => found.extend(differences(&format!("{path}.{key}"), value, other)),
                    None => found.push(format!("{path}.{key}: missing")),
                }
            }
            found.extend(ours.keys().filter(|key| !recorded.contains_key(*key)).map(|k| format!("{path}.{k}: extra")));
            found
        }
        (Value::Array(recorded), Value::Array(ours)) if recorded.len() == ours.len() => {
            let pairs = recorded.iter().zip(ours).enumerate();
            pairs.flat_map(|(i, (a, b))| differences(&format!("{path}[{i}]"), a, b)).collect()
        }
        _ if recorded == ours => Vec::new(),
        _ => vec![format!("{path}: recorded {recorded}, ours {ours}")],
    }
}
