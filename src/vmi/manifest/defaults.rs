//! What the API server would have added to a person's object.
//!
//! The rules are those of KubeVirt's mutating webhook at commit d923fdb815 with the default configuration, in its order:
//! `pkg/defaults` (defaults.go, amd64.go, arm64.go, s390x.go, hyperv.go), `pkg/network/vmispec/defaults.go`,
//! `SetDefaultVolumeDisk` of `pkg/util`, `staging/src/kubevirt.io/api/core/v1/defaults.go`. [`TABLE`] has them.
//!
//! Left out is what only a cluster needs or knows: image pull policies, the eviction strategy, probes' times, finalizers,
//! topology status, `status.memory` (a later file would change what the guest booted with), and the headroom for hot-plug
//! (`cpu.maxSockets`, `memory.maxGuest`) that the rollout strategy LiveUpdate reserves.

use serde_json::{Map, Value, json};

use super::Options;
use crate::vmi::Quantity;

/// A rule: what it sets, where the original does so, and how.
struct Rule {
    /// The fields.
    #[cfg_attr(not(test), allow(dead_code, reason = "the table is also what a reader looks up"))]
    fields: &'static str,
    /// Where the original sets them.
    #[cfg_attr(not(test), allow(dead_code, reason = "the table is also what a reader looks up"))]
    source: &'static str,
    set: fn(&mut Map<String, Value>, &Options<'_>),
}

/// All rules, in the original's order: later ones look at what earlier ones have set.
const TABLE: &[Rule] = &[
    Rule { fields: "architecture", source: "defaults.go setDefaultArchitecture", set: architecture },
    Rule { fields: "domain.machine.type", source: "defaults.go setDefaultMachineType", set: machine },
    Rule { fields: "domain.resources.requests.cpu", source: "defaults.go setDefaultResourceRequests", set: requests },
    Rule { fields: "domain.memory.guest", source: "defaults.go setGuestMemory", set: memory },
    Rule {
        fields: "domain.cpu.sockets, cores, threads",
        source: "defaults.go SetDefaultGuestCPUTopology",
        set: topology,
    },
    Rule {
        fields: "networks, domain.devices.interfaces",
        source: "vmispec/defaults.go SetDefaultNetworkInterface",
        set: pod_network,
    },
    Rule { fields: "domain.devices.disks", source: "util.go SetDefaultVolumeDisk", set: disks_of_volumes },
    Rule {
        fields: "domain.features.acpi of s390x",
        source: "s390x.go setS390xDefaultFeatures",
        set: features_of_s390x,
    },
    Rule {
        fields: "domain.firmware.uuid",
        source: "watch/vm/firmware.go CalculateLegacyUUID; a VMI's is random there",
        set: firmware_uuid,
    },
    Rule { fields: "domain.clock.timer.*.present", source: "api/core/v1/defaults.go SetDefaults_*Timer", set: timers },
    Rule {
        fields: "domain.features.*.enabled, hyperv.spinlocks.spinlocks",
        source: "api/core/v1/defaults.go SetDefaults_Feature*",
        set: features,
    },
    Rule {
        fields: "disks[].disk, disks[].cdrom.readonly and tray",
        source: "api/core/v1/defaults.go SetDefaults_DiskDevice, SetDefaults_CDRomTarget",
        set: disk_devices,
    },
    Rule { fields: "inputs[].bus, type", source: "api/core/v1/defaults.go setDefaults_Input", set: inputs },
    Rule {
        fields: "hyperv.vpindex, synic, vapic; cpu.features vmx",
        source: "hyperv.go SetHypervFeatureDependencies",
        set: hyperv_dependencies,
    },
    Rule { fields: "disks[].*.bus", source: "amd64.go, arm64.go, s390x.go setDefault*DisksBus", set: disk_buses },
    Rule { fields: "watchdog.*.action", source: "amd64.go, s390x.go Set*Watchdog", set: watchdog },
    Rule {
        fields: "firmware.bootloader of arm64",
        source: "arm64.go setDefaultArm64Bootloader",
        set: bootloader_of_arm,
    },
    Rule {
        fields: "cpu.model",
        source: "defaults.go setDefaultCPUModel, arm64.go setDefaultArm64CPUModel",
        set: cpu_model,
    },
];

/// Adds the defaults to an instance whose fields have the API's types.
pub(super) fn add(instance: &mut Map<String, Value>, options: &Options<'_>) {
    for rule in TABLE {
        (rule.set)(instance, options);
    }
}

/// The object of a key, made if it is not there. A null is made one; other types were refused before.
fn object<'a>(above: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    if !above.get(key).is_some_and(Value::is_object) {
        above.insert(key.to_owned(), json!({}));
    }
    match above.get_mut(key) {
        Some(Value::Object(object)) => object,
        Some(_) | None => unreachable!("an object was put there"),
    }
}

fn at<'a>(instance: &'a mut Map<String, Value>, path: &[&str]) -> &'a mut Map<String, Value> {
    path.iter().fold(instance, |above, key| object(above, key))
}

fn domain(instance: &mut Map<String, Value>) -> &mut Map<String, Value> {
    at(instance, &["spec", "domain"])
}

/// An object that is there.
fn existing<'a>(instance: &'a mut Map<String, Value>, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    path.iter().try_fold(instance, |above, key| above.get_mut(*key)?.as_object_mut())
}

fn elements<'a>(
    instance: &'a mut Map<String, Value>,
    path: &[&str],
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = path.split_last().and_then(|(last, above)| existing(instance, above)?.get_mut(*last)?.as_array_mut());
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// Sets a field that is absent, null or empty, as Go's zero values count.
fn set(object: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    let absent = object.get(key).is_none_or(|value| value.is_null() || value.as_str().is_some_and(str::is_empty));
    if absent {
        object.insert(key.to_owned(), value.into());
    }
}

fn arch(instance: &Map<String, Value>) -> &str {
    instance.get("spec").and_then(|spec| spec.get("architecture")).and_then(Value::as_str).unwrap_or_default()
}

fn architecture(instance: &mut Map<String, Value>, options: &Options<'_>) {
    set(object(instance, "spec"), "architecture", options.host_arch);
}

fn machine(instance: &mut Map<String, Value>, _: &Options<'_>) {
    let machine = match arch(instance) {
        "arm64" => "virt",
        "s390x" => "s390-ccw-virtio",
        _ => "q35",
    };
    set(at(instance, &["spec", "domain", "machine"]), "type", machine);
}

/// A resource; a quantity of nothing counts as absent.
fn resource(instance: &mut Map<String, Value>, list: &str, name: &str) -> Option<Value> {
    let value = existing(instance, &["spec", "domain", "resources", list])?.get(name)?.clone();
    quantity(&value).filter(|quantity| !quantity.is_zero()).map(|_| value)
}

fn quantity(value: &Value) -> Option<Quantity> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Quantity::parse(&text).ok()
}

fn requests(instance: &mut Map<String, Value>, _: &Options<'_>) {
    if let Some(limit) = resource(instance, "limits", "cpu")
        && resource(instance, "requests", "cpu").is_none()
    {
        at(instance, &["spec", "domain", "resources", "requests"]).insert("cpu".to_owned(), limit);
    }
}

fn memory(instance: &mut Map<String, Value>, _: &Options<'_>) {
    let request = resource(instance, "requests", "memory").or_else(|| resource(instance, "limits", "memory"));
    let page = existing(instance, &["spec", "domain", "memory", "hugepages"])
        .and_then(|hugepages| hugepages.get("pageSize").cloned())
        .filter(|size| quantity(size).is_some());
    if let Some(size) = request.or(page) {
        set(at(instance, &["spec", "domain", "memory"]), "guest", size);
    }
}

fn topology(instance: &mut Map<String, Value>, _: &Options<'_>) {
    let wanted = resource(instance, "limits", "cpu").or_else(|| resource(instance, "requests", "cpu"));
    // A number that no machine has is left where it is written, for the conversion to refuse it there.
    let Ok(sockets) = wanted.as_ref().and_then(quantity).map_or(Ok(1), |quantity| u32::try_from(quantity.value()))
    else {
        return;
    };
    let cpu = at(instance, &["spec", "domain", "cpu"]);
    let is_zero = |key: &str| cpu.get(key).is_none_or(|value| value.is_null() || value.as_u64() == Some(0));
    if ["cores", "sockets", "threads"].into_iter().all(is_zero) {
        for (key, value) in [("sockets", sockets), ("cores", 1), ("threads", 1)] {
            cpu.insert(key.to_owned(), value.into());
        }
    }
}

fn pod_network(instance: &mut Map<String, Value>, options: &Options<'_>) {
    let devices = at(instance, &["spec", "domain", "devices"]);
    let wanted = devices.get("autoattachPodInterface").and_then(Value::as_bool).unwrap_or(true);
    let is_empty = |list: Option<&Value>| list.and_then(Value::as_array).is_none_or(Vec::is_empty);
    let free = is_empty(devices.get("interfaces")) && is_empty(object(instance, "spec").get("networks"));
    if wanted && free && options.pod_network {
        let interfaces = json!([{"name": "default", "bridge": {}}]);
        at(instance, &["spec", "domain", "devices"]).insert("interfaces".to_owned(), interfaces);
        object(instance, "spec").insert("networks".to_owned(), json!([{"name": "default", "pod": {}}]));
    }
}

fn disks_of_volumes(instance: &mut Map<String, Value>, _: &Options<'_>) {
    let name = |object: &mut Map<String, Value>| object.get("name").and_then(Value::as_str).map(str::to_owned);
    let devices = ["spec", "domain", "devices"];
    let mut known: Vec<String> = Vec::new();
    for list in ["disks", "filesystems"] {
        known.extend(elements(instance, &[devices.as_slice(), &[list]].concat()).filter_map(name));
    }
    let volumes: Vec<String> = elements(instance, &["spec", "volumes"]).filter_map(name).collect();
    let missing: Vec<Value> =
        volumes.into_iter().filter(|volume| !known.contains(volume)).map(|volume| json!({ "name": volume })).collect();
    if missing.is_empty() {
        return;
    }
    match at(instance, &devices).entry("disks").or_insert_with(|| json!([])) {
        Value::Array(disks) => disks.extend(missing),
        other => *other = Value::Array(missing),
    }
}

fn features_of_s390x(instance: &mut Map<String, Value>, _: &Options<'_>) {
    if arch(instance) == "s390x" {
        set(at(instance, &["spec", "domain", "features", "acpi"]), "enabled", false);
    }
}

/// The UUID that a VirtualMachine without one gets. The API server gives a VMI a random one, but the same file must be
/// the same machine each time it is read.
fn firmware_uuid(instance: &mut Map<String, Value>, _: &Options<'_>) {
    const OF_KUBEVIRT: uuid::Uuid = uuid::uuid!("6a1a24a1-4061-4607-8bf4-a3963d0c5895");
    let name = instance.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str);
    let uuid = uuid::Uuid::new_v5(&OF_KUBEVIRT, name.unwrap_or_default().as_bytes());
    set(at(instance, &["spec", "domain", "firmware"]), "uuid", uuid.to_string());
}

fn timers(instance: &mut Map<String, Value>, _: &Options<'_>) {
    for timer in ["hpet", "kvm", "pit", "rtc", "hyperv"] {
        if let Some(timer) = existing(instance, &["spec", "domain", "clock", "timer", timer]) {
            set(timer, "present", true);
        }
    }
}

fn features(instance: &mut Map<String, Value>, _: &Options<'_>) {
    set(at(instance, &["spec", "domain", "features", "acpi"]), "enabled", true);
    let features = at(instance, &["spec", "domain", "features"]);
    for name in ["apic", "smm", "pvspinlock"] {
        enable(existing(features, &[name]));
    }
    let Some(hyperv) = existing(features, &["hyperv"]) else { return };
    for name in [
        "relaxed",
        "vapic",
        "spinlocks",
        "vpindex",
        "runtime",
        "synic",
        "synictimer",
        "reset",
        "vendorid",
        "frequencies",
        "reenlightenment",
        "tlbflush",
        "ipi",
        "evmcs",
    ] {
        enable(existing(hyperv, &[name]));
    }
    for path in [["synictimer", "direct"], ["tlbflush", "direct"], ["tlbflush", "extended"]] {
        enable(existing(hyperv, &path));
    }
    if let Some(spinlocks) = existing(hyperv, &["spinlocks"])
        && is_on(spinlocks)
    {
        set(spinlocks, "spinlocks", 4096);
    }
}

fn enable(state: Option<&mut Map<String, Value>>) {
    if let Some(state) = state {
        set(state, "enabled", true);
    }
}

fn is_on(state: &Map<String, Value>) -> bool {
    state.get("enabled").and_then(Value::as_bool).unwrap_or_default()
}

const DISKS: [&str; 4] = ["spec", "domain", "devices", "disks"];

fn disk_devices(instance: &mut Map<String, Value>, _: &Options<'_>) {
    for disk in elements(instance, &DISKS) {
        let has = |key: &str| disk.get(key).is_some_and(|value| !value.is_null());
        if !has("disk") && !has("cdrom") && !has("lun") {
            disk.insert("disk".to_owned(), json!({}));
        }
        if let Some(cdrom) = existing(disk, &["cdrom"]) {
            set(cdrom, "readonly", true);
            set(cdrom, "tray", "closed");
        }
        enable(existing(disk, &["blockSize", "matchVolume"]));
    }
}

fn inputs(instance: &mut Map<String, Value>, _: &Options<'_>) {
    for input in elements(instance, &["spec", "domain", "devices", "inputs"]) {
        set(input, "bus", "usb");
        set(input, "type", "tablet");
    }
}

/// What a feature of Hyper-V needs is switched on, unless it was switched off; then the original leaves the rest as it is.
fn hyperv_dependencies(instance: &mut Map<String, Value>, _: &Options<'_>) {
    let Some(hyperv) = existing(instance, &["spec", "domain", "features", "hyperv"]) else { return };
    for (feature, needed) in
        [("evmcs", "vapic"), ("ipi", "vpindex"), ("tlbflush", "vpindex"), ("synictimer", "synic"), ("synic", "vpindex")]
    {
        if !existing(hyperv, &[feature]).is_some_and(|feature| is_on(feature)) {
            continue;
        }
        let needed = object(hyperv, needed);
        set(needed, "enabled", true);
        if !is_on(needed) {
            return;
        }
    }
    if !existing(hyperv, &["evmcs"]).is_some_and(|evmcs| is_on(evmcs)) {
        return;
    }
    let vmx = json!({"name": "vmx", "policy": "require"});
    match at(instance, &["spec", "domain", "cpu"]).entry("features").or_insert_with(|| json!([])) {
        Value::Array(list) => {
            list.retain(|feature| feature.get("name") != vmx.get("name"));
            list.push(vmx);
        }
        other => *other = json!([vmx]),
    }
}

fn disk_buses(instance: &mut Map<String, Value>, _: &Options<'_>) {
    let bus = match arch(instance) {
        "arm64" | "s390x" => "virtio",
        _ => "sata",
    };
    for disk in elements(instance, &DISKS) {
        for device in ["disk", "cdrom", "lun"] {
            if let Some(device) = existing(disk, &[device]) {
                set(device, "bus", bus);
            }
        }
    }
}

fn watchdog(instance: &mut Map<String, Value>, _: &Options<'_>) {
    let model = match arch(instance) {
        "arm64" => return,
        "s390x" => "diag288",
        _ => "i6300esb",
    };
    if let Some(watchdog) = existing(instance, &["spec", "domain", "devices", "watchdog"]) {
        set(object(watchdog, model), "action", "reset");
    }
}

fn bootloader_of_arm(instance: &mut Map<String, Value>, _: &Options<'_>) {
    if arch(instance) != "arm64" {
        return;
    }
    let firmware = at(instance, &["spec", "domain", "firmware"]);
    if existing(firmware, &["bootloader"]).is_none() {
        firmware.insert("bootloader".to_owned(), json!({"efi": {}}));
    }
    if let Some(efi) = existing(firmware, &["bootloader", "efi"]) {
        set(efi, "secureBoot", false);
    }
}

fn cpu_model(instance: &mut Map<String, Value>, _: &Options<'_>) {
    let model = if arch(instance) == "arm64" { "host-passthrough" } else { "host-model" };
    set(object(domain(instance), "cpu"), "model", model);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_defaults(arch: &str, spec: Value) -> Value {
        let mut instance = json!({"metadata": {"name": "vm"}, "spec": spec});
        let options = Options { host_arch: arch, pod_network: true, ..Options::default() };
        add(instance.as_object_mut().unwrap(), &options);
        let again = instance.clone();
        add(instance.as_object_mut().unwrap(), &options);
        assert_eq!(instance, again, "what has its defaults stays as it is");
        instance
    }

    fn of(instance: &Value, pointer: &str) -> Value {
        instance.pointer(&format!("/spec{pointer}")).cloned().unwrap_or_default()
    }

    #[test]
    fn bare_machine_gets_what_the_api_server_gives_it() {
        let vmi = with_defaults(
            "amd64",
            json!({"domain": {"resources": {"requests": {"memory": "1Gi"}, "limits": {"cpu": "1500m"}},
                "devices": {"disks": [{"name": "a", "disk": {}}, {"name": "c", "cdrom": {}}], "watchdog": {"name": "w"},
                            "inputs": [{"name": "t"}]}},
                "volumes": [{"name": "a"}, {"name": "b"}]}),
        );
        for (pointer, value) in [
            ("/architecture", json!("amd64")),
            ("/domain/machine/type", json!("q35")),
            ("/domain/memory/guest", json!("1Gi")),
            ("/domain/resources/requests/cpu", json!("1500m")),
            ("/domain/cpu", json!({"sockets": 2, "cores": 1, "threads": 1, "model": "host-model"})),
            ("/domain/features/acpi/enabled", json!(true)),
            // `uuid5(6a1a24a1-…, "vm")`, as Python's uuid module computes it.
            ("/domain/firmware/uuid", json!("d633a622-2335-5606-93ae-d432b7c7f2d2")),
            ("/domain/devices/disks/0", json!({"name": "a", "disk": {"bus": "sata"}})),
            ("/domain/devices/disks/1/cdrom", json!({"bus": "sata", "readonly": true, "tray": "closed"})),
            ("/domain/devices/disks/2", json!({"name": "b", "disk": {"bus": "sata"}})),
            ("/domain/devices/interfaces", json!([{"name": "default", "bridge": {}}])),
            ("/networks", json!([{"name": "default", "pod": {}}])),
            ("/domain/devices/watchdog", json!({"name": "w", "i6300esb": {"action": "reset"}})),
            ("/domain/devices/inputs/0", json!({"name": "t", "bus": "usb", "type": "tablet"})),
        ] {
            assert_eq!(of(&vmi, pointer), value, "{pointer}");
        }
    }

    #[test]
    fn what_a_person_says_stays() {
        let spec = json!({"architecture": "arm64", "domain": {
            "cpu": {"cores": 2, "model": "cortex-a72"}, "memory": {"guest": "2Gi"}, "machine": {"type": "virt-8.2"},
            "resources": {"requests": {"memory": "1Gi"}}, "firmware": {"uuid": "u", "bootloader": {"efi": {"secureBoot": true}}},
            "features": {"acpi": {"enabled": false}},
            "devices": {"autoattachPodInterface": false, "disks": [{"name": "a", "lun": {"bus": "scsi"}}]}}});
        let vmi = with_defaults("amd64", spec);
        assert_eq!(of(&vmi, "/domain/cpu"), json!({"cores": 2, "model": "cortex-a72"}));
        assert_eq!(of(&vmi, "/domain/memory/guest"), "2Gi");
        assert_eq!(of(&vmi, "/domain/machine/type"), "virt-8.2");
        assert_eq!(of(&vmi, "/domain/firmware"), json!({"uuid": "u", "bootloader": {"efi": {"secureBoot": true}}}));
        assert_eq!(of(&vmi, "/domain/features/acpi/enabled"), false);
        assert_eq!(of(&vmi, "/domain/devices/interfaces"), Value::Null);
        assert_eq!(of(&vmi, "/domain/devices/disks"), json!([{"name": "a", "lun": {"bus": "scsi"}}]));
    }

    #[test]
    fn architectures_differ() {
        let spec = || json!({"domain": {"devices": {"disks": [{"name": "a"}], "watchdog": {"name": "w"}}}});
        let arm = with_defaults("arm64", spec());
        assert_eq!(of(&arm, "/domain/firmware/bootloader/efi/secureBoot"), false);
        assert_eq!(of(&arm, "/domain/cpu/model"), "host-passthrough");
        assert_eq!(of(&arm, "/domain/devices/disks/0/disk/bus"), "virtio");
        assert_eq!(of(&arm, "/domain/devices/watchdog"), json!({"name": "w"}));
        let z = with_defaults("s390x", spec());
        assert_eq!(of(&z, "/domain/machine/type"), "s390-ccw-virtio");
        assert_eq!(of(&z, "/domain/features/acpi/enabled"), false);
        assert_eq!(of(&z, "/domain/devices/watchdog/diag288/action"), "reset");
    }

    #[test]
    fn features_are_on_and_bring_what_they_need() {
        let spec = json!({"domain": {"clock": {"timer": {"hpet": {"present": false}, "pit": {}}},
            "features": {"smm": {}, "hyperv": {"spinlocks": {}, "synictimer": {"direct": {}}, "evmcs": {}}},
            "cpu": {"features": [{"name": "vmx", "policy": "optional"}]}, "devices": {}}});
        let vmi = with_defaults("amd64", spec);
        assert_eq!(of(&vmi, "/domain/clock/timer"), json!({"hpet": {"present": false}, "pit": {"present": true}}));
        assert_eq!(of(&vmi, "/domain/features/smm/enabled"), true);
        assert_eq!(of(&vmi, "/domain/features/hyperv/spinlocks"), json!({"enabled": true, "spinlocks": 4096}));
        for feature in ["synic", "vpindex", "vapic"] {
            assert_eq!(of(&vmi, &format!("/domain/features/hyperv/{feature}/enabled")), true, "{feature}");
        }
        assert_eq!(of(&vmi, "/domain/cpu/features"), json!([{"name": "vmx", "policy": "require"}]));
    }

    #[test]
    fn every_rule_names_its_source() {
        assert!(TABLE.iter().all(|rule| !rule.fields.is_empty() && rule.source.contains(".go ")));
    }
}
