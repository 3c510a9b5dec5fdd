//! `check` says that a VMI can run where `domain-xml` makes its XML, and nowhere else: for generated VMIs, and for each of
//! these with one fault that no API server lets through. Both are run as processes, since that is where they could differ.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use super::generator::Choices;

/// Generated VMIs of each kind.
const VMIS: usize = 60;
/// VMIs that each fault is put into.
const WITH_FAULT: usize = 6;

fn run(tool: &str, file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virt-launcher"));
    command.arg(tool).arg(file).stdin(Stdio::null()).output().unwrap()
}

/// What both say of a VMI; the test fails where they do not agree.
fn verdict(folder: &Path, vmi: &Value) -> Result<(), String> {
    let file = folder.join("vmi.json");
    std::fs::write(&file, vmi.to_string()).unwrap();
    let (check, xml) = (run("check", &file), run("domain-xml", &file));
    let words = |output: &Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let agree = check.status.success() == xml.status.success();
    assert!(agree, "{vmi}\ncheck: {}\ndomain-xml: {}", words(&check), words(&xml));
    for output in [&check, &xml] {
        assert!(matches!(output.status.code(), Some(0..=2)), "{vmi}\n{}", words(output));
    }
    if check.status.success() { Ok(()) } else { Err(words(&check) + &String::from_utf8_lossy(&xml.stderr)) }
}

/// VMIs as a person writes them into a file.
fn generated(count: usize, wild: bool) -> Vec<Value> {
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let numbers = proptest::collection::vec(proptest::num::u16::ANY, 0..400);
    (0..count)
        .map(|_| {
            let numbers = numbers.new_tree(&mut runner).unwrap().current();
            let mut vmi = Choices::new(numbers, wild).input().vmi;
            vmi["apiVersion"] = json!("kubevirt.io/v1");
            vmi["kind"] = json!("VirtualMachineInstance");
            vmi
        })
        .collect()
}

#[test]
fn check_and_domain_xml_agree_on_whatever_a_vmi_says() {
    let folder = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for vmi in [generated(VMIS, false), generated(VMIS, true)].concat() {
        refused += usize::from(verdict(folder.path(), &vmi).is_err());
    }
    assert!((1..2 * VMIS).contains(&refused), "{refused} of {} refused", 2 * VMIS);
}

/// A fault: its name, what it does to a VMI, and a part of the path that both name.
type Fault = (&'static str, fn(&mut Value), &'static str);

fn list<'a>(vmi: &'a mut Value, pointer: &str) -> &'a mut Vec<Value> {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let list = &mut vmi.pointer_mut(parent).unwrap()[key];
    if !list.is_array() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap()
}

fn add_disk(vmi: &mut Value, disk: Value, volume: Value) {
    list(vmi, "/spec/domain/devices/disks").push(disk);
    list(vmi, "/spec/volumes").push(volume);
}

fn empty(name: &str, capacity: &str) -> Value {
    json!({"name": name, "emptyDisk": {"capacity": capacity}})
}

const DISKS: &str = "spec.domain.devices.disks[";

const FAULTS: &[Fault] = &[
    ("less than no memory", |vmi| vmi["spec"]["domain"]["memory"] = json!({"guest": "-5Gi"}), "spec.domain.memory"),
    (
        "2^63 bytes",
        |vmi| vmi["spec"]["domain"]["memory"] = json!({"guest": "9223372036854775808"}),
        "spec.domain.memory",
    ),
    ("8 EiB", |vmi| vmi["spec"]["domain"]["memory"] = json!({"guest": "8Ei"}), "spec.domain.memory"),
    ("a part of a byte", |vmi| vmi["spec"]["domain"]["memory"] = json!({"guest": "1n"}), "spec.domain.memory"),
    (
        "less at most than at first",
        |vmi| vmi["spec"]["domain"]["memory"] = json!({"guest": "1Gi", "maxGuest": "512Mi"}),
        "spec.domain.memory.maxGuest",
    ),
    (
        "a page larger than the guest",
        |vmi| vmi["spec"]["domain"]["memory"] = json!({"guest": "1Gi", "hugepages": {"pageSize": "2Gi"}}),
        "spec.domain.memory.hugepages.pageSize",
    ),
    (
        "absurdly many vCPUs",
        |vmi| vmi["spec"]["domain"]["cpu"] = json!({"cores": 70_000, "sockets": 70_000, "threads": 2}),
        "spec.domain.cpu",
    ),
    (
        "a product that is 1 in 32 bits",
        |vmi| vmi["spec"]["domain"]["cpu"] = json!({"cores": 65_537, "sockets": 65_537, "threads": 65_537}),
        "spec.domain.cpu",
    ),
    (
        "less than no CPU",
        |vmi| {
            vmi["spec"]["domain"]["cpu"] = Value::Null;
            vmi["spec"]["domain"]["resources"]["requests"]["cpu"] = json!("-1");
            vmi["spec"]["domain"]["resources"]["limits"] = json!({});
        },
        "spec.domain.resources.requests.cpu",
    ),
    (
        "less than no CPU beside a topology",
        |vmi| {
            vmi["spec"]["domain"]["cpu"] = json!({"cores": 1});
            vmi["spec"]["domain"]["resources"]["limits"] = json!({"cpu": "-1"});
        },
        "spec.domain.resources.limits.cpu",
    ),
    (
        "a disk that is a CD-ROM",
        |vmi| add_disk(vmi, json!({"name": "x", "disk": {"bus": "sata"}, "cdrom": {"bus": "sata"}}), empty("x", "1Gi")),
        DISKS,
    ),
    (
        "a disk that is nothing",
        |vmi| add_disk(vmi, json!({"name": "x", "serial": "s"}), empty("x", "-1Gi")),
        "emptyDisk",
    ),
    (
        "a disk without its volume",
        |vmi| list(vmi, "/spec/domain/devices/disks").push(json!({"name": "nowhere", "disk": {"bus": "sata"}})),
        DISKS,
    ),
    (
        "a volume with two sources",
        |vmi| {
            let both =
                json!({"name": "x", "emptyDisk": {"capacity": "1Gi"}, "hostDisk": {"path": "/x.img", "type": "Disk"}});
            add_disk(vmi, json!({"name": "x", "disk": {"bus": "sata"}}), both);
        },
        "spec.volumes[",
    ),
    (
        "two volumes of one name",
        |vmi| {
            add_disk(vmi, json!({"name": "x", "disk": {"bus": "sata"}}), empty("x", "1Gi"));
            list(vmi, "/spec/volumes").push(empty("x", "2Gi"));
        },
        "spec.volumes[",
    ),
    (
        "two disks of one name",
        |vmi| {
            add_disk(vmi, json!({"name": "x", "disk": {"bus": "sata"}}), empty("x", "1Gi"));
            list(vmi, "/spec/domain/devices/disks").push(json!({"name": "x", "disk": {"bus": "sata"}}));
        },
        DISKS,
    ),
    (
        "an empty disk of less than nothing",
        |vmi| add_disk(vmi, json!({"name": "x", "disk": {"bus": "sata"}}), empty("x", "-1Gi")),
        "emptyDisk.capacity",
    ),
    (
        "an empty disk of 2^63 bytes",
        |vmi| add_disk(vmi, json!({"name": "x", "disk": {"bus": "sata"}}), empty("x", "9223372036854775808")),
        "emptyDisk.capacity",
    ),
    (
        "two networks of one name",
        |vmi| {
            list(vmi, "/spec/networks").push(json!({"name": "x", "multus": {"networkName": "a"}}));
            list(vmi, "/spec/networks").push(json!({"name": "x", "multus": {"networkName": "b"}}));
        },
        "spec.networks[",
    ),
    (
        "two interfaces of one name",
        |vmi| {
            list(vmi, "/spec/networks").push(json!({"name": "x", "multus": {"networkName": "a"}}));
            for _ in 0..2 {
                list(vmi, "/spec/domain/devices/interfaces").push(json!({"name": "x", "bridge": {}}));
            }
        },
        "spec.domain.devices.interfaces[",
    ),
    (
        "an interface without its network",
        |vmi| list(vmi, "/spec/domain/devices/interfaces").push(json!({"name": "nowhere", "bridge": {}})),
        "spec.domain.devices.interfaces[",
    ),
    (
        "more IO threads than there can be",
        |vmi| {
            vmi["spec"]["domain"]["ioThreadsPolicy"] = json!("supplementalPool");
            vmi["spec"]["domain"]["ioThreads"] = json!({"supplementalPoolThreadCount": u32::MAX});
        },
        "spec.domain.ioThreads",
    ),
    ("a machine of no processor", |vmi| vmi["spec"]["domain"]["machine"] = json!({"type": "a b"}), "machine.type"),
    ("a model with a comma", |vmi| vmi["spec"]["domain"]["cpu"] = json!({"model": "a,b"}), "spec.domain.cpu.model"),
];

#[test]
fn check_and_domain_xml_refuse_each_fault_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let mut good = generated(10 * VMIS, false).into_iter().filter(|vmi| verdict(folder.path(), vmi).is_ok());
    let good: Vec<Value> = good.by_ref().take(WITH_FAULT).collect();
    assert_eq!(good.len(), WITH_FAULT, "too few VMIs can run");
    let mut missed: BTreeMap<&str, String> = BTreeMap::new();
    for (name, put, path) in FAULTS {
        for vmi in &good {
            let mut vmi = vmi.clone();
            put(&mut vmi);
            match verdict(folder.path(), &vmi) {
                Ok(()) => drop(missed.insert(name, format!("taken: {vmi}"))),
                Err(said) if !said.contains(path) => drop(missed.insert(name, format!("{path} not named: {said}"))),
                Err(_) => {}
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
