//! Every field of a catalogue entry has an effect: each is changed in turn, and what the launcher makes of the entry has to
//! change with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::hypervisor_facts;
use crate::convert::{Defines, HostFacts};
use crate::hypervisor::{Catalogue, Entry, Environment, Hypervisor, LibvirtWrapper, Runtime, VmSetup, Way};
use crate::libvirt::{Connection, Deadlines};

/// For the maker of the pod, or for choosing a hypervisor by name; `virt-launcher hypervisors -o yaml` prints them.
const FOR_THE_POD: [&str; 4] = ["/aliases", "/hypervisorDevice", "/shouldRunPrivileged", "/virtLauncherOverheads"];

/// What has an effect only on a VM that runs.
const ON_A_RUNNING_VM: [&str; 2] = ["/vcpuRegex", "/launcher/hotPlug"];

const VMI: &str = r#"{"metadata": {"name": "vm", "namespace": "ns", "uid": "u"}, "spec": {
    "domain": {"resources": {"requests": {"memory": "64Mi"}}, "devices": {"disks": [
        {"name": "a", "disk": {"bus": "virtio"}}, {"name": "b", "disk": {"bus": "virtio"}, "bootOrder": 1}]}},
    "volumes": [{"name": "a", "emptyDisk": {"capacity": "1Gi"}}, {"name": "b", "emptyDisk": {"capacity": "1Gi"}}]}}"#;

/// All that the launcher makes of an entry without a VM that runs, on the machine whose file system is `machine`.
async fn effects(name: &str, entry: &Entry, machine: &Path) -> String {
    let mut effects = Vec::new();
    for root in [true, false] {
        for modular in [true, false] {
            let exists = |path: &Path| modular || path != entry.libvirt_daemon.libvirt_daemon_executable;
            match Runtime::resolve(name, entry, root, exists) {
                Ok(runtime) => effects.push(of_runtime(&runtime).await),
                Err(error) => effects.push(error.to_string()),
            }
        }
    }
    let vmi = crate::vmi::parse(VMI.as_bytes()).unwrap();
    for domain in ["ns_vm".to_owned(), format!("ns_{}", "x".repeat(90))] {
        let hypervisor = hypervisor_facts(entry, machine, &domain);
        effects.push(format!("{hypervisor:?}"));
        let facts = HostFacts { hypervisor, ..HostFacts::default() };
        effects.push(match Defines::new(&vmi, &facts) {
            Ok(defines) => defines.xml(),
            Err(error) => error.to_string(),
        });
    }
    effects.join("\n")
}

async fn of_runtime(runtime: &Runtime) -> String {
    let environment =
        Environment { hugepages: true, virtiofsd_debug: true, shared_filesystems: vec!["/shared".to_owned()] };
    let (events, _) = tokio::sync::mpsc::unbounded_channel();
    let setup = VmSetup {
        connection: Connection::new("test:///nowhere".to_owned(), Deadlines::default(), events.clone()),
        events,
        domain: "ns_vm".to_owned(),
        private: "/private".into(),
        owner: (107, 107),
    };
    let refused = runtime.vm_control(setup).shutdown(Way::Agent).await.unwrap_err();
    format!(
        "{:?}",
        (
            (runtime.name(), runtime.supports_iso(), runtime.follows_backing_chains()),
            (runtime.domain_name(&"n".repeat(90)), runtime.domain_log("d"), runtime.pid_dir()),
            (runtime.hypervisor_command_prefixes(), runtime.libvirt_uri_and_user(), runtime.remarks()),
            (runtime.start_hypervisor_daemon((107, 107)), runtime.start_virtlog(), runtime.daemon_restart()),
            (runtime.setup_libvirt(Some("1:qemu"), &environment), runtime.features(), refused.to_string()),
        )
    )
}

/// Every field with a value as a JSON pointer, lists as a whole.
fn fields(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, member)| fields(member, &format!("{at}/{name}"), found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            found.insert(at.to_owned());
        }
    }
}

/// Another value that the schema takes.
fn other(field: &str, value: &Value) -> Value {
    let empty_list = |list: &Vec<Value>| list.is_empty();
    match (field, value) {
        ("/launcher/conversion" | "/launcher/control", value) => {
            json!(if value == "cloud-hypervisor" {
                if field.ends_with("control") { "libvirt" } else { "qemu" }
            } else {
                "cloud-hypervisor"
            })
        }
        ("/cloudInitFileType", value) => json!(if value == "iso" { "raw" } else { "iso" }),
        ("/launcher/domainNameLimit", Value::Null) => json!(40),
        ("/launcher/device", _) => json!("/dev/other"),
        (_, Value::Bool(yes)) => json!(!yes),
        (_, Value::Number(number)) => number.as_u64().map_or_else(|| json!(0.5), |number| json!(number + 1)),
        (_, Value::String(text)) => json!(format!("{text}x")),
        (_, Value::Null) => json!("/other"),
        ("/launcher/features", _) => json!([{ "path": "spec.x", "level": "ignored" }]),
        ("/launcher/otherDevices", Value::Array(list)) if empty_list(list) => {
            json!([{ "device": "/dev/mshv", "virtType": "hyperv" }])
        }
        ("/launcher/otherDevices", _) => json!([]),
        (_, Value::Array(list)) if empty_list(list) => json!(["/firmware"]),
        (_, Value::Array(_)) => json!(["other"]),
        (_, Value::Object(_)) => unreachable!("a field is not an object"),
    }
}

#[tokio::test]
async fn every_field_of_an_entry_changes_what_the_launcher_does() {
    let machine = tempfile::tempdir().unwrap();
    for path in ["dev/kvm", "dev/mshv", "firmware", "usr/share/cloud-hypervisor/CLOUDHV.fd"] {
        let path = machine.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    // A field of one hypervisor need not mean anything to another.
    let mut has_effect: BTreeMap<String, bool> = BTreeMap::new();
    let catalogue = Catalogue::builtin().unwrap();
    for (name, entry) in catalogue.iter() {
        let before = effects(name, entry, machine.path()).await;
        let written = serde_json::to_value(entry).unwrap();
        let mut names = BTreeSet::new();
        fields(&written, "", &mut names);
        names.extend(["/launcher/features", "/launcher/otherDevices", "/launcher/firmwareImages"].map(str::to_owned));
        for field in names {
            let mut changed = written.clone();
            if changed.pointer(&field).is_none() {
                let (parent, member) = field.rsplit_once('/').unwrap();
                changed.pointer_mut(parent).unwrap()[member] = json!([]);
            }
            let value = changed.pointer_mut(&field).unwrap();
            *value = other(&field, value);
            // A value of the wrong type, such as a path for a list of fields.
            let Ok(changed) = serde_json::from_value::<Entry>(changed) else { continue };
            let differs = effects(name, &changed, machine.path()).await != before;
            *has_effect.entry(field).or_default() |= differs;
        }
    }
    assert!(has_effect.len() > 50, "{has_effect:?}");
    let known = |field: &String| {
        let known = FOR_THE_POD.iter().chain(&ON_A_RUNNING_VM);
        known.into_iter().any(|known| field.starts_with(known))
    };
    let ornaments: Vec<&String> =
        has_effect.iter().filter(|(field, differs)| !**differs && !known(field)).map(|(field, _)| field).collect();
    assert!(ornaments.is_empty(), "changing these fields changes nothing: {ornaments:?}");
}
