//! `virt-launcher domain-xml` as a process: the golden cases' files in, their XML out, and what cannot be used is named.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::wide_suite;

fn domain_xml(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virt-launcher"));
    command.arg("domain-xml").args(words).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A file of a golden case.
fn file(folder: &Path, case: &str, suffix: &str) -> String {
    folder.join(format!("{case}.{suffix}")).display().to_string()
}

/// A VMI that needs nothing of the machine, and a context for it.
const VMI: &str = r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: small, namespace: ns, uid: u-1}
spec:
  architecture: amd64
  domain:
    memory: {guest: 128Mi}
    devices: {disks: [{name: a, disk: {bus: virtio}}]}
  volumes: [{name: a, emptyDisk: {capacity: 1Gi}}]
"#;
const CONTEXT: &str = r#"{"hostArch":"amd64","allowEmulation":true,"optionsPresent":true,"directIO":{"default":true}}"#;

/// A folder with `vmi.yaml` and `ctx.json`.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Files(tempfile::tempdir().unwrap());
        files.write("vmi.yaml", VMI);
        files.write("ctx.json", CONTEXT);
        files
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn refused(&self, words: &[&str], said: &str) {
        let output = domain_xml(words);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {text}");
        assert!(text.contains(said) && text.lines().count() == 1, "{words:?}: {text}");
        assert!(output.stdout.is_empty(), "{words:?}");
    }
}

#[test]
#[ignore = "needs the wide suite, ../shared/conformance; make test"]
fn wide_suite_cases_come_out_byte_for_byte_with_every_define_in_its_file() {
    let folder = wide_suite("domain-xml");
    let cases = [
        "arch-arm64-basic",
        "arch-arm64-bios-requested",
        "big-240-vcpus-maxsockets",
        "big-32-virtio-disks",
        "example-vmi-fedora",
        "pci-i440fx-no-ports",
        "pci-root-complex-false",
    ];
    let files = Files::new();
    for case in cases {
        let (vmi, context) = (file(&folder, case, "vmi.json"), file(&folder, case, "ctx.json"));
        let (readback, defines) = (file(&folder, case, "readback.xml"), files.path(case));
        let mut words = vec![vmi.as_str(), "--context", &context, "--defines-dir", &defines];
        if Path::new(&readback).exists() {
            words.extend(["--readback", &readback]);
        }
        let output = domain_xml(&words);
        assert!(output.status.success(), "{case}: {}", stderr(&output));
        assert_eq!(stdout(&output), fs::read_to_string(file(&folder, case, "xml")).unwrap(), "{case}");
        let expected: Vec<String> = ["define1.xml", "define2.xml", "xml"]
            .iter()
            .filter_map(|suffix| fs::read_to_string(file(&folder, case, suffix)).ok())
            .collect();
        for (index, expected) in expected.iter().enumerate() {
            assert_eq!(&fs::read_to_string(format!("{defines}/{}.xml", index + 1)).unwrap(), expected, "{case}");
        }
        assert_eq!(fs::read_dir(&defines).unwrap().count(), expected.len(), "{case}");
    }
}

#[test]
fn yaml_json_and_standard_input_are_the_same() {
    let files = Files::new();
    let context = files.path("ctx.json");
    let yaml = domain_xml(&[&files.path("vmi.yaml"), "--context", &context]);
    assert!(yaml.status.success(), "{}", stderr(&yaml));
    assert!(stdout(&yaml).contains("<name>ns_small</name>"), "{}", stdout(&yaml));
    let value: serde_json::Value = serde_norway::from_str(VMI).unwrap();
    let mut json = Vec::new();
    let indented = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    serde::Serialize::serialize(&value, &mut serde_json::Serializer::with_formatter(&mut json, indented)).unwrap();
    let json = domain_xml(&[&files.write("vmi.json", json), "--context", &context]);
    assert_eq!(stdout(&json), stdout(&yaml));
    let piped = Command::new(env!("CARGO_BIN_EXE_virt-launcher"))
        .args(["domain-xml", "-", "--context", &context])
        .stdin(fs::File::open(files.path("vmi.yaml")).unwrap())
        .output()
        .unwrap();
    assert_eq!(stdout(&piped), stdout(&yaml));
}

#[test]
fn domain_xml_without_a_context_uses_the_facts_of_this_machine() {
    let files = Files::new();
    // A VMI that has its defaults: with a context it is taken as virt-handler sends it.
    let whole = VMI
        .replace("devices: {", "devices: {autoattachPodInterface: false, ")
        .replace("guest: 128Mi}", "guest: 128Mi}\n    cpu: {model: host-model, sockets: 1, cores: 1, threads: 1}")
        .replace("  domain:\n", "  domain:\n    features: {acpi: {enabled: true}}\n    machine: {type: q35}\n")
        .replace("  domain:\n", "  domain:\n    firmware: {uuid: c3ecdb42-282e-44c3-8266-91b99ac91261}\n");
    let vmi = files.write("whole.yaml", whole);
    let emulated = ["--", "--allow-emulation"];
    let here = domain_xml(&[&[vmi.as_str()], &emulated[..]].concat());
    assert!(here.status.success(), "{}", stderr(&here));
    let facts = domain_xml(&[&[vmi.as_str(), "--facts"], &emulated[..]].concat());
    let context = files.write("here.json", &facts.stdout);
    let again = domain_xml(&[&vmi, "--context", &context]);
    assert_eq!(stdout(&again), stdout(&here), "{}", stderr(&again));
    files.refused(&[&vmi, "--", "--grace-period-seconds=soon"], "grace-period-seconds");
}

#[test]
fn explanation_names_steps_and_reads_back() {
    let files = Files::new();
    let (vmi, context) = (files.path("vmi.yaml"), files.path("ctx.json"));
    let words = [vmi.as_str(), "--context", &context, "--explain"];
    let first = domain_xml(&words);
    assert!(first.status.success(), "{}", stderr(&first));
    let says = |output: &Output, step: &str, element: &str| {
        let text = stdout(output);
        let found =
            text.lines().any(|line| line.starts_with(step) && line[step.len()..].trim_start().starts_with(element));
        assert!(found, "{step}: {element}:\n{text}");
    };
    says(&first, "name", "name = ns_small");
    says(&first, "disks", "devices/disk[0]");
    says(&first, "hypervisor", "@type = qemu");
    says(&first, "cache and IO modes", "devices/disk[0]/driver/@cache = none");
    assert!(stderr(&first).contains("--readback"), "{}", stderr(&first));

    let xml = stdout(&domain_xml(&words[..3]));
    let read =
        xml.replace("<controller ", "<controller type='pci' index='0' model='pcie-root'></controller><controller ");
    let readback = files.write("readback.xml", read);
    let last = domain_xml(&[&words[..], &["--readback", &readback]].concat());
    says(&last, "libvirt's read-back", "devices/controller[");
    says(&last, "hot-plug topology", "devices/controller[");
    assert!(last.stderr.is_empty(), "{}", stderr(&last));
}

#[test]
fn hypervisor_is_the_flags_then_the_vmis() {
    let files = Files::new();
    let context = CONTEXT.replace("\"allowEmulation\":true", "\"hypervisor\":{\"devicePresent\":true}");
    let context = files.write("device.json", context);
    let own = files.write("hyperv.yaml", VMI.replace("spec:\n", "spec:\n  hypervisor: hyperv-direct\n"));
    let cases =
        [("vmi.yaml", None, "kvm"), ("vmi.yaml", Some("hyperv-direct"), "hyperv"), ("hyperv.yaml", Some("kvm"), "kvm")];
    let kind = |words: &[&str]| stdout(&domain_xml(words)).split('"').nth(1).map(str::to_owned);
    for (vmi, flag, expected) in cases {
        let vmi = files.path(vmi);
        let mut words = vec![vmi.as_str(), "--context", &context];
        words.extend(flag.iter().flat_map(|name| ["--hypervisor", name]));
        assert_eq!(kind(&words).as_deref(), Some(expected), "{words:?}");
    }
    assert_eq!(kind(&[&own, "--context", &context]).as_deref(), Some("hyperv"));
}

#[test]
fn domain_xml_names_input_that_it_cannot_use() {
    let files = Files::new();
    let (vmi, context) = (files.path("vmi.yaml"), files.path("ctx.json"));
    files.refused(&["/nonexistent/vmi.yaml", "--context", &context], "/nonexistent/vmi.yaml: No such file");
    files.refused(&[&vmi, "--context", "/nonexistent/ctx.json"], "/nonexistent/ctx.json: No such file");
    files.refused(
        &[&vmi, "--context", &context, "--readback", "/nonexistent/rb.xml"],
        "/nonexistent/rb.xml: No such file",
    );
    files.refused(&[&vmi, "--context", &context, "--hypervisor", "xen"], "--hypervisor: ");
    files.refused(
        &[&vmi, "--context", &context, "--hypervisor", "cloud-hypervisor"],
        "no firmware for Cloud Hypervisor",
    );
    files.refused(&[&vmi, "--context", &context, "--defines-dir", &vmi], "vmi.yaml");
    for (text, said) in [
        ("{", "bad:1:1: EOF while parsing"),
        ("\t: x\n- [", "bad:"),
        ("just words", "not an object"),
        ("kind: Pod", "Pod"),
        ("kind: VirtualMachine\nmetadata: {name: x}\n", "spec.template"),
        ("spec: {domain: {cpu: {cores: two}}}", "spec.domain.cpu.cores: "),
        ("spec: {domain: {memory: {guest: lots}}}", "spec.domain.memory.guest: "),
        ("spec: {domain: {devices: {rng: []}}}", "spec.domain.devices.rng: "),
        ("spec: {domain: {devices: {interfaces: [{masquerade: true}]}}}", "interfaces[0].masquerade: "),
        ("spec: {volumes: [{name: a}, {name: [b]}]}", "spec.volumes[1].name: "),
        ("spec: {hypervisor: xen, domain: {}}", "spec.hypervisor: "),
    ] {
        files.refused(&[&files.write("bad", text), "--context", &context], said);
    }
    files.refused(&[&files.write("bad", [0xff, 0xfe, 0]), "--context", &context], "bad: ");
    let sound = VMI.replace("devices: {", "devices: {sound: {name: s, model: sb16}, ");
    files.refused(&[&files.write("bad", sound), "--context", &context], "spec.domain.devices.sound");
    for (text, said) in [("[", "bad.json: "), ("{\"cpuSet\":\"0-3\"}", "cpuSet: "), ("{} {}", "bad.json: ")] {
        files.refused(&[&vmi, "--context", &files.write("bad.json", text)], said);
    }
    files.refused(&[&vmi, "--context", &context, "--readback", &files.write("bad.xml", "<domain>")], "bad.xml: ");
    let odd = files.write("odd.json", CONTEXT.replace("hostArch", "allowEmulatoin\":true,\"hostArch"));
    let noted = domain_xml(&[&vmi, "--context", &odd]);
    assert!(noted.status.success() && stderr(&noted).contains("ignored: allowEmulatoin"), "{}", stderr(&noted));
    let usage = domain_xml(&[]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(stderr(&usage).contains("VMI"), "{}", stderr(&usage));
}
