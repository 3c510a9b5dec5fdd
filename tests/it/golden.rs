//! The project's own golden documents: VMI and facts in, every define out.
//!
//! `cases/NAME.vmi.yaml` is a VMI whose first line says why the case is there; `NAME.facts.json`, where it exists, is laid
//! over `facts.json`. `NAME.xml` holds the expected defines, `NAME.err` the expected error. `UPDATE_GOLDEN=1 cargo test --test it
//! golden` writes them anew; read the difference before you commit it. A second define is made from the first as if libvirt
//! had added nothing. That the converter's documents are the original's is shown by `tests/conformance`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;
use virt_launcher::convert::{Defines, HostFacts, Profile, steps};
use virt_launcher::domain::DomainSpec;
use virt_launcher::vmi;

/// Between the defines of one case.
const NEXT_DEFINE: &str = "\n<!-- next define -->\n";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cases")
}

/// Names of the cases, sorted.
fn cases() -> Vec<String> {
    let names = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter_map(|name| Some(name.strip_suffix(".vmi.yaml")?.to_owned())).collect();
    names.sort();
    names
}

fn read(case: &str, suffix: &str) -> Option<String> {
    let path = folder().join(format!("{case}.{suffix}"));
    path.exists().then(|| std::fs::read_to_string(path).unwrap())
}

/// Objects are merged, everything else is replaced.
fn lay_over(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn facts(case: &str) -> HostFacts {
    let mut facts: Value = serde_json::from_str(include_str!("../golden/facts.json")).unwrap();
    if let Some(own) = read(case, "facts.json") {
        lay_over(&mut facts, serde_json::from_str(&own).unwrap_or_else(|error| panic!("{case}.facts.json: {error}")));
    }
    serde_json::from_value(facts).unwrap_or_else(|error| panic!("{case}.facts.json: {error}"))
}

/// What a case covers.
#[derive(Default)]
struct Covered {
    /// Profile and name of the steps that changed the document.
    steps: BTreeSet<(String, &'static str)>,
    /// Architectures of guests.
    architectures: BTreeSet<String>,
    /// Catalogue names of hypervisors.
    hypervisors: BTreeSet<String>,
}

/// Every define of a case, or the error.
fn convert(case: &str, covered: &mut Covered) -> Result<String, String> {
    let vmi = vmi::parse_document(&read(case, "vmi.yaml").unwrap()).map_err(|error| error.to_string())?;
    let facts = facts(case);
    covered.architectures.insert(vmi.spec.architecture.clone());
    covered.hypervisors.insert(facts.hypervisor.name.clone());
    let profile = format!("{:?}", facts.hypervisor.profile);
    let mut before = DomainSpec::default().to_xml();
    let mut observe = |step: &'static str, document: &DomainSpec| {
        let after = document.to_xml();
        if after != before {
            covered.steps.insert((profile.clone(), step));
            before = after;
        }
    };
    let mut boot = Defines::observed(&vmi, &facts, &mut observe).map_err(|error| error.with_path())?;
    let mut defines = vec![boot.xml()];
    while !boot.is_last() {
        let read_back = defines.last().cloned();
        boot.next(read_back.as_deref()).map_err(|error| error.with_path())?;
        defines.push(boot.xml());
    }
    Ok(defines.join(NEXT_DEFINE) + "\n")
}

fn write(case: &str, outcome: &Result<String, String>) {
    let (kept, text, gone) = match outcome {
        Ok(xml) => ("xml", xml.clone(), "err"),
        Err(error) => ("err", format!("{error}\n"), "xml"),
    };
    std::fs::write(folder().join(format!("{case}.{kept}")), text).unwrap();
    let _ = std::fs::remove_file(folder().join(format!("{case}.{gone}")));
}

/// The first lines in which two documents differ.
fn difference(expected: &str, ours: &str) -> String {
    let (mut expected, mut ours) = (expected.lines(), ours.lines());
    let mut line = 0;
    loop {
        line += 1;
        match (expected.next(), ours.next()) {
            (None, None) => return "only line ends differ".to_owned(),
            (expected, ours) if expected != ours => {
                return format!(
                    "line {line}\n  expected: {}\n  ours:     {}",
                    expected.unwrap_or("(the end)"),
                    ours.unwrap_or("(the end)")
                );
            }
            _ => {}
        }
    }
}

#[test]
fn documents_are_the_expected_ones() {
    let update = std::env::var("UPDATE_GOLDEN").is_ok_and(|value| value == "1");
    let mut wrong = Vec::new();
    for case in cases() {
        let first = read(&case, "vmi.yaml").unwrap();
        if first.lines().next().is_none_or(|line| !line.starts_with("# ") || line.len() < 12) {
            wrong.push(format!("{case}.vmi.yaml: the first line does not say why the case is there"));
        }
        let outcome = convert(&case, &mut Covered::default());
        if update {
            write(&case, &outcome);
            continue;
        }
        let (expected, ours) = match (read(&case, "xml"), read(&case, "err"), outcome) {
            (Some(expected), None, Ok(ours)) => (expected, ours),
            (None, Some(expected), Err(error)) => (expected, format!("{error}\n")),
            (_, _, Ok(_)) => (String::new(), "a document where an error or nothing is expected".to_owned()),
            (_, _, Err(error)) => (String::new(), format!("an error where a document or nothing is expected: {error}")),
        };
        if expected != ours {
            wrong.push(format!("{case}: {}", difference(&expected, &ours)));
        }
    }
    assert!(wrong.is_empty(), "{}\nUPDATE_GOLDEN=1 writes them anew", wrong.join("\n"));
}

/// Steps that no case can make change a document, with the reason.
const WITHOUT_A_CASE: &[(&str, &str)] = &[];

#[test]
fn cases_cover_every_step_architecture_and_hypervisor() {
    let mut covered = Covered::default();
    let cases = cases();
    assert!(cases.len() >= 20, "only {} cases in {}", cases.len(), folder().display());
    for case in &cases {
        // An error is a case, too; what it covered until then counts.
        let _ = convert(case, &mut covered);
    }
    let mut missing = Vec::new();
    for profile in [Profile::Qemu, Profile::CloudHypervisor] {
        for step in steps(profile) {
            let excused = WITHOUT_A_CASE.iter().any(|(name, _)| *name == step.name);
            if !excused && !covered.steps.contains(&(format!("{profile:?}"), step.name)) {
                missing.push(format!("step \"{}\" of {profile:?}", step.name));
            }
        }
    }
    for architecture in ["amd64", "arm64", "s390x"] {
        if !covered.architectures.contains(architecture) {
            missing.push(format!("architecture {architecture}"));
        }
    }
    for hypervisor in ["kvm", "hyperv-direct", "cloud-hypervisor"] {
        if !covered.hypervisors.contains(hypervisor) {
            missing.push(format!("hypervisor {hypervisor}"));
        }
    }
    assert!(missing.is_empty(), "no case changes the document by:\n{}", missing.join("\n"));
}
