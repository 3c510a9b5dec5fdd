//! A real libvirt accepts every define that we make for the golden amd64 cases whose domain the original's libvirt took,
//! and for VMIs of our own: byte for byte as the launcher defines it, and once more with schema validation on.
//!
//! `make test` says by VIRT_LAUNCHER_IMAGE which image has the libvirt. There is no KVM, so everything is converted for a machine without /dev/kvm that permits emulation.
//!
//! The original's XML is not valid against libvirt's schema in a few places, which libvirt reads over (`schema_view`);
//! what is validated is the define without those.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::support::pod::{image, podman, text};
use crate::support::wide_suite;
use virt_launcher::convert::{Defines, HostFacts};

/// Starts libvirtd, waits for it and runs what is in /defines/script.
const SCRIPT: &str = r#"
libvirtd --daemon >/tmp/libvirtd.log 2>&1
for try in $(seq 300); do virsh -q -c qemu:///system version >/dev/null 2>&1 && break; sleep 0.1; done
virsh -c qemu:///system < /defines/script 2>&1
"#;

/// Lines that the original writes and libvirt 11.3 reads over, though its schema has no such elements.
const NOT_IN_THE_SCHEMA: &[&str] = &[
    // Sections of the sysinfo without entries.
    "<system></system>",
    "<bios></bios>",
    "<baseBoard></baseBoard>",
    "<chassis></chassis>",
    // KubeVirt's own.
    "<filesystemOverhead>",
    "<capacity>",
    // Newer than this libvirt.
    "<iommufd ",
    "<clock></clock>",
];

/// The define as the schema would have it: without those lines, and with or without an attribute that libvirt fills in
/// or reads over.
fn schema_view(xml: &str) -> String {
    let mut view = String::new();
    for line in xml.lines() {
        let text = line.trim_start();
        let in_source = view.ends_with("<source>\n");
        if NOT_IN_THE_SCHEMA.iter().any(|start| text.starts_with(start)) {
            continue;
        }
        let named = || text.split_once(r#" name=""#).map(|(before, rest)| (before, rest.split_once('"').unwrap().1));
        view.push_str(&match text {
            "<clock>" => r#"<clock offset="utc">"#.to_owned(),
            _ if text.starts_with(r#"<hostdev type="pci""#) && !text.contains(" mode=") => {
                text.replace(r#"type="pci""#, r#"type="pci" mode="subsystem""#)
            }
            // libvirt writes it in lower case, so that it is empty after a read-back.
            _ if text.starts_with("<filesystem ") => {
                text.replace(r#" accessMode="""#, "").replace(" accessMode=", " accessmode=")
            }
            _ if text.starts_with("<reservations ") => text.replace(r#" migration="yes""#, ""),
            _ if text.starts_with(r#"<source dir="""#) => text.replace(r#" dir="""#, ""),
            // Where a host device comes from.
            _ if in_source => text.replace(r#"<address type="pci""#, "<address"),
            // A CPU feature that the VMI gives no policy.
            _ if text.starts_with("<feature name=") && !text.contains("policy=") => {
                text.replace("></feature>", r#" policy="require"></feature>"#)
            }
            // A block device's source also carries the volume's name.
            _ if text.starts_with("<source dev=") || text.starts_with("<source file=") => {
                named().map_or_else(|| text.to_owned(), |(before, rest)| format!("{before}{rest}"))
            }
            _ => text.to_owned(),
        });
        view.push('\n');
    }
    view
}

/// The define as libvirt could have taken it when the cases were recorded (README.md beside the cases): this machine can
/// encrypt no guest's memory, and its QEMU has no RHEL machine type.
fn as_recorded(xml: &str) -> String {
    let mut xml = xml.replace(r#"machine="pc-q35-rhel9.4.0""#, r#"machine="q35""#);
    if let (Some(start), Some(end)) = (xml.find("\t<launchSecurity"), xml.find("</launchSecurity>\n")) {
        xml.replace_range(start..end + "</launchSecurity>\n".len(), "");
    }
    xml
}

/// All defines of a boot; without a read-back the first one.
fn boot(name: &str, vmi: &str, facts: &str, readback: Option<&str>) -> Vec<String> {
    let vmi = virt_launcher::vmi::parse_document(vmi).unwrap();
    let mut facts: HostFacts = serde_json::from_str(facts).unwrap();
    facts.hypervisor.device_present = false;
    facts.allow_emulation = true;
    let mut boot = Defines::new(&vmi, &facts).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut defines = vec![boot.xml()];
    while !boot.is_last() && readback.is_some() {
        boot.next(readback).unwrap_or_else(|error| panic!("{name}: {error}"));
        defines.push(boot.xml());
    }
    defines
}

/// Family and name of a golden case, with its defines.
fn golden(folder: &Path) -> Vec<(String, Vec<String>)> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut cases: Vec<String> = names.filter_map(|name| Some(name.strip_suffix(".vmi.json")?.to_owned())).collect();
    cases.sort();
    let mut all = Vec::new();
    for case in cases {
        let read = |suffix: &str| fs::read_to_string(folder.join(format!("{case}.{suffix}"))).ok();
        // libvirt was asked about a domain that has more than one define; what it refused has none.
        let (Some(golden), Some(readback)) = (read("xml"), read("readback.xml")) else { continue };
        if !golden.contains(r#"<type arch="x86_64""#) {
            continue;
        }
        let facts = read("ctx.json").unwrap();
        let mut defines = boot(&case, &read("vmi.json").unwrap(), &facts, Some(&readback));
        if facts.contains("syntheticRootPortBusNr") {
            // Its read-back was edited, so that the later defines are such as no libvirt wrote.
            defines.truncate(1);
        }
        all.push((case, defines));
    }
    assert!(all.len() > 200, "only {} golden cases", all.len());
    all
}

/// Whether libvirt took it and let go of it again.
fn accepted(answer: &str) -> bool {
    answer.contains("defined from") && answer.contains("has been undefined")
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn own_defines_are_accepted_by_libvirt() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let facts = fs::read_to_string(project.join("tests/vmis/facts.json")).unwrap();
    let case = |name: &str, file: &str| {
        let vmi = fs::read_to_string(project.join(file)).unwrap();
        (format!("own-{name}"), boot(name, &vmi, &facts, None))
    };
    accepts(&[
        case("demo", "images/demo/vmi.yaml"),
        case("small", "tests/vmis/small.yaml"),
        case("typical", "tests/vmis/typical.yaml"),
        case("big", "tests/vmis/big.yaml"),
    ]);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE and the wide suite, ../shared/conformance; make test"]
fn wide_suite_defines_are_accepted_by_libvirt() {
    accepts(&golden(&wide_suite("domain-xml")));
}

/// Asks a libvirt about every define of the cases.
fn accepts(cases: &[(String, Vec<String>)]) {
    let image = image();
    let files = tempfile::tempdir().unwrap();
    let mut script = String::new();
    let mut ask = |name: &str, xml: &str, flag: &str| {
        let domain = xml.split_once("<name>").unwrap().1.split_once("</name>").unwrap().0;
        fs::write(files.path().join(name), xml).unwrap();
        writeln!(script, "echo @{name}\ndefine {flag} /defines/{name}\nundefine --nvram {domain}").unwrap();
    };
    for (case, defines) in cases {
        for (index, xml) in defines.iter().enumerate() {
            let xml = as_recorded(xml);
            ask(&format!("{case}.{}", index + 1), &xml, "");
            ask(&format!("{case}.{}.valid", index + 1), &schema_view(&xml), "--validate");
        }
    }
    // What must not pass, lest an answer be misread: one that libvirt itself refuses, and one that only the schema does.
    let sample = &cases.last().unwrap().1[0];
    ask("wrong.1", &sample.replace("<devices>", "<devices><disk></disk>"), "");
    ask("wrong.2", &schema_view(&sample.replace("<devices>", "<devices><nosuch></nosuch>")), "--validate");
    fs::write(files.path().join("script"), script).unwrap();

    let volume = format!("{}:/defines:ro", files.path().display());
    let output = podman()
        // System mode, which is root's.
        .args([
            "run",
            "--rm",
            "--network=none",
            "--user",
            "0",
            "-v",
            &volume,
            "--entrypoint",
            "/bin/sh",
            &image,
            "-c",
            SCRIPT,
        ])
        .output()
        .unwrap();
    let said = text(&output);
    // What follows a mark, up to the next one, is about that define.
    let answers: BTreeMap<&str, &str> =
        said.split('@').filter_map(|answer| answer.split_once('\n')).map(|(name, rest)| (name.trim(), rest)).collect();
    let answer = |name: &str| answers.get(name).copied().unwrap_or("no answer");
    let mut refused = Vec::new();
    // Family: cases, defines, accepted, valid.
    let mut table: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
    for (case, defines) in cases {
        let row = table.entry(case.split('-').next().unwrap()).or_default();
        row[0] += 1;
        row[1] += defines.len();
        for index in 1..=defines.len() {
            for (column, name) in [(2, format!("{case}.{index}")), (3, format!("{case}.{index}.valid"))] {
                if accepted(answer(&name)) {
                    row[column] += 1;
                } else {
                    refused.push(format!("{name}: {}", answer(&name).trim()));
                }
            }
        }
    }
    println!("{:10}{:>7}{:>9}{:>10}{:>7}", "family", "cases", "defines", "accepted", "valid");
    for (family, [cases, defines, accepted, valid]) in &table {
        println!("{family:10}{cases:>7}{defines:>9}{accepted:>10}{valid:>7}");
    }
    assert!(refused.is_empty(), "{} refused:\n{}\n{said:.500}", refused.len(), refused.join("\n"));
    for wrong in ["wrong.1", "wrong.2"] {
        assert!(answer(wrong).contains("error: Failed to define domain"), "{wrong}: {}", answer(wrong));
    }
}
