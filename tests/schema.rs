//! A real libvirt, schema validation on, accepts every define that we make for the golden amd64 cases whose domain the
//! original's libvirt took. `make test` says by VIRT_LAUNCHER_IMAGE which image has it; without it nothing is looked at.
//!
//! libvirt has no KVM here, so the cases are converted for a machine without /dev/kvm that permits emulation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test ends by panicking

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use support::pod::{image, podman, text};
use virt_launcher::convert::{Defines, HostFacts};

/// Starts libvirtd and waits for it, defines and undefines everything in /defines, and says what happened.
const SCRIPT: &str = r#"
libvirtd --daemon >/tmp/libvirtd.log 2>&1
for try in $(seq 300); do virsh -q -c qemu:///system version >/dev/null 2>&1 && break; sleep 0.1; done
virsh -c qemu:///system < /defines/script 2>&1
"#;

/// One case's defines, or `None` where the case is no amd64 domain that libvirt took.
fn defines(folder: &Path, case: &str) -> Option<Vec<String>> {
    let read = |suffix: &str| fs::read_to_string(folder.join(format!("{case}.{suffix}"))).ok();
    let golden = read("xml")?;
    if read("rejected").is_some() || !golden.contains(r#"<type arch="x86_64""#) {
        return None;
    }
    let vmi = virt_launcher::vmi::parse(read("vmi.json").unwrap().as_bytes()).unwrap();
    let mut facts: HostFacts = serde_json::from_str(&read("ctx.json").unwrap()).unwrap();
    facts.hypervisor.device_present = false;
    facts.allow_emulation = true;
    let mut boot = Defines::new(&vmi, &facts).unwrap_or_else(|error| panic!("{case}: {error}"));
    let mut defines = vec![boot.xml()];
    while !boot.is_last() {
        boot.next(read("readback.xml").as_deref()).unwrap_or_else(|error| panic!("{case}: {error}"));
        defines.push(boot.xml());
    }
    Some(defines)
}

#[test]
fn libvirt_accepts_every_define_of_the_golden_cases() {
    let Some(image) = image() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/domain-xml");
    let Ok(entries) = fs::read_dir(&folder) else {
        eprintln!("NOT TESTED: {} does not exist", folder.display());
        return;
    };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut cases: Vec<String> = names.filter_map(|name| Some(name.strip_suffix(".vmi.json")?.to_owned())).collect();
    cases.sort();
    let files = tempfile::tempdir().unwrap();
    let mut script = String::new();
    // Family: cases, defines, accepted defines.
    let mut table: BTreeMap<String, (u32, u32, u32)> = BTreeMap::new();
    let mut asked = Vec::new();
    for case in &cases {
        let Some(defines) = defines(&folder, case) else { continue };
        let family = case.split('-').next().unwrap().to_owned();
        table.entry(family.clone()).or_default().0 += 1;
        for (index, xml) in defines.iter().enumerate() {
            let name = format!("{case}.{}", index + 1);
            let domain = xml.split_once("<name>").unwrap().1.split_once("</name>").unwrap().0;
            fs::write(files.path().join(&name), xml).unwrap();
            writeln!(script, "echo @{name}\ndefine --validate /defines/{name}\nundefine --nvram {domain}").unwrap();
            asked.push((family.clone(), name));
        }
    }
    assert!(asked.len() > 300, "only {} defines", asked.len());
    fs::write(files.path().join("script"), script).unwrap();
    let volume = format!("{}:/defines:ro", files.path().display());
    let output = podman()
        .args(["run", "--rm", "--network=none", "-v", &volume, "--entrypoint", "/bin/sh", &image, "-c", SCRIPT])
        .output()
        .unwrap();
    let said = text(&output);
    // What follows a mark, up to the next one, is about that define.
    let answers: BTreeMap<&str, &str> =
        said.split('@').filter_map(|answer| answer.split_once('\n')).map(|(name, rest)| (name.trim(), rest)).collect();
    let mut refused = Vec::new();
    for (family, name) in &asked {
        let answer = answers.get(name.as_str()).copied().unwrap_or("no answer");
        let row = table.get_mut(family).unwrap();
        row.1 += 1;
        if answer.contains("defined from") && answer.contains("has been undefined") {
            row.2 += 1;
        } else {
            refused.push(format!("{name}: {}", answer.trim()));
        }
    }
    println!("{:10}{:>7}{:>9}{:>10}", "family", "cases", "defines", "accepted");
    for (family, (cases, defines, accepted)) in &table {
        println!("{family:10}{cases:>7}{defines:>9}{accepted:>10}");
    }
    assert!(refused.is_empty(), "{} of {} refused:\n{}\n{said:.500}", refused.len(), asked.len(), refused.join("\n"));
}
