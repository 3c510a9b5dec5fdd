//! Whether a VM can be moved while it runs, and how its disks come along: what virt-handler writes into the condition
//! `LiveMigratable` and into `status.migrationMethod` (contract/migration.md 1.5).

use serde::Serialize;

use super::{FeatureState, HostDisk, Interface, VirtualMachineInstance, Volume, VolumeStatus};

/// `status.migrationMethod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Method {
    /// Both nodes see all disks: memory alone is sent.
    LiveMigration,
    /// Some disks are the pod's own and are copied.
    BlockMigration,
}

/// A field that keeps a VM from being moved.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Obstacle {
    /// The field with its indices.
    pub path: String,
    /// The condition's reason, such as `DisksNotLiveMigratable`.
    pub reason: &'static str,
    /// Why, for the VMI's author.
    pub message: String,
    /// What of the cluster would remove the obstacle; `None` if nothing would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unless: Option<String>,
}

/// What virt-handler concludes for one VMI.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Migratability {
    pub method: Method,
    /// Names of the volumes whose contents are copied.
    pub copied: Vec<String>,
    /// In virt-handler's order: the condition shows the first one.
    pub obstacles: Vec<Obstacle>,
}

impl Migratability {
    /// Judges a VMI. What only the cluster knows counts as an obstacle with [`Obstacle::unless`].
    pub fn of(vmi: &VirtualMachineInstance) -> Self {
        let mut obstacles: Vec<Obstacle> = Vec::new();
        obstacles.extend(pod_network(vmi));
        obstacles.extend(host_devices(vmi));
        obstacles.extend(guest_secrets(vmi));
        obstacles.extend(clock_and_features(vmi));
        let mut copied = Vec::new();
        let mut shared = true;
        for (index, volume) in vmi.spec.volumes.iter().enumerate() {
            match place(vmi, volume) {
                Place::Shared => {}
                Place::Copied => copied.push(volume.name.clone()),
                Place::Bound { message, unless } => {
                    shared = false;
                    let path = format!("spec.volumes[{index}]");
                    obstacles.push(Obstacle { path, reason: "DisksNotLiveMigratable", message, unless });
                }
            }
        }
        let is_block = !shared || !copied.is_empty() || !vmi.status.migrated_volumes.is_empty();
        let method = if is_block { Method::BlockMigration } else { Method::LiveMigration };
        Migratability { method, copied, obstacles }
    }

    /// Whether nothing of this VMI keeps it from being moved, in whatever cluster.
    pub fn is_certain(&self) -> bool {
        self.obstacles.is_empty()
    }

    /// Whether no cluster could move it.
    pub fn is_impossible(&self) -> bool {
        self.obstacles.iter().any(|obstacle| obstacle.unless.is_none())
    }
}

fn obstacle(path: &str, reason: &'static str, message: &str) -> Obstacle {
    Obstacle { path: path.to_owned(), reason, message: message.to_owned(), unless: None }
}

fn pod_network(vmi: &VirtualMachineInstance) -> Option<Obstacle> {
    const REASON: &str = "InterfaceNotLiveMigratable";
    let interfaces = &vmi.spec.domain.devices.interfaces;
    let network = vmi.spec.networks.iter().find(|network| network.pod.is_some())?;
    if interfaces.is_empty() {
        return None;
    }
    let Some(index) = interfaces.iter().position(|interface| interface.name == network.name) else {
        let message = format!("no primary interface found for network {}", network.name);
        return Some(obstacle("spec.domain.devices.interfaces", REASON, &message));
    };
    let unless = match interfaces.get(index)? {
        Interface { masquerade: Some(_), .. } | Interface { passt_binding: Some(_), .. } => return None,
        Interface { bridge: Some(_), .. } => {
            if vmi.annotation("kubevirt.io/allow-pod-bridge-network-live-migration").is_some() {
                return None;
            }
            None
        }
        Interface { binding: Some(binding), .. } => {
            Some(format!("the cluster's network binding plugin {:?} has `migration` set", binding.name))
        }
        Interface { .. } => None,
    };
    let message =
        "cannot migrate VMI which does not use masquerade or a migratable plugin to connect to the pod network";
    let path = format!("spec.domain.devices.interfaces[{index}]");
    Some(Obstacle { path, reason: REASON, message: message.to_owned(), unless })
}

fn host_devices(vmi: &VirtualMachineInstance) -> Option<Obstacle> {
    const REASON: &str = "HostDeviceNotLiveMigratable";
    let devices = &vmi.spec.domain.devices;
    if !devices.host_devices.is_empty() {
        let message = "VMI specifies non-migratable generic PCI host device";
        return Some(obstacle("spec.domain.devices.hostDevices", REASON, message));
    }
    match devices.gpus.as_slice() {
        [] => None,
        [gpu] => Some(Obstacle {
            path: "spec.domain.devices.gpus[0]".to_owned(),
            reason: REASON,
            message: "VMI specifies non-migratable GPU device".to_owned(),
            unless: Some(format!(
                "the cluster has the feature gate VGPULiveMigration, and {:?} is one of its mediated devices",
                gpu.device_name
            )),
        }),
        [_, _, ..] => Some(obstacle("spec.domain.devices.gpus", REASON, "VMI specifies too many GPUs")),
    }
}

fn guest_secrets(vmi: &VirtualMachineInstance) -> Option<Obstacle> {
    let security = vmi.spec.domain.launch_security.as_ref()?;
    let found = |name, reason, message| Some(obstacle(&format!("spec.domain.launchSecurity{name}"), reason, message));
    if security.sev.is_some() {
        return found(".sev", "SEVNotLiveMigratable", "VMI uses SEV");
    }
    if security.snp.is_some() {
        return found(".snp", "SEVNotLiveMigratable", "VMI uses SEV");
    }
    if security.tdx.is_some() {
        return found(".tdx", "TDXNotLiveMigratable", "VMI uses TDX");
    }
    match vmi.spec.architecture.as_str() {
        "s390x" => found("", "SecureExecutionNotLiveMigratable", "VMI uses Secure Execution"),
        _ => None,
    }
}

fn clock_and_features(vmi: &VirtualMachineInstance) -> Option<Obstacle> {
    let features = vmi.spec.domain.features.as_ref()?;
    let is_on = |state: &Option<FeatureState>| state.as_ref().is_some_and(FeatureState::is_on);
    let reenlightenment = features.hyperv.as_ref().is_some_and(|hyperv| is_on(&hyperv.reenlightenment));
    let cpu = vmi.spec.domain.cpu.as_ref();
    // Such a guest does not even start without a known frequency.
    let invariant = cpu.is_some_and(|cpu| {
        let needed = |policy: &str| matches!(policy, "require" | "force");
        cpu.features.iter().any(|feature| feature.name == "invtsc" && needed(&feature.policy))
    });
    let frequency = vmi.status.topology_hints.as_ref().and_then(|hints| hints.tsc_frequency);
    if reenlightenment && !invariant && frequency.is_none() {
        return Some(Obstacle {
            path: "spec.domain.features.hyperv.reenlightenment".to_owned(),
            reason: "NoTSCFrequencyNotLiveMigratable",
            message: "HyperV Reenlightenment VMIs cannot migrate when TSC Frequency is not exposed on the cluster: \
                      guest timers might be inconsistent"
                .to_owned(),
            unless: Some("the cluster's nodes expose their TSC frequency".to_owned()),
        });
    }
    is_on(&features.hyperv_passthrough).then(|| {
        let (path, reason) = ("spec.domain.features.hypervPassthrough", "HypervPassthroughNotLiveMigratable");
        obstacle(path, reason, "VMI uses hyperv passthrough")
    })
}

/// Where the contents of a volume are.
enum Place {
    /// On both nodes.
    Shared,
    /// In the pod: they are sent along.
    Copied,
    /// On one node, for good.
    Bound { message: String, unless: Option<String> },
}

fn place(vmi: &VirtualMachineInstance, volume: &Volume) -> Place {
    let status = vmi.status.volume_status.iter().find(|status| status.name == volume.name);
    let claim = volume.persistent_volume_claim.as_ref().map(|claim| claim.claim_name.as_str());
    if let Some(claim) = claim.or(volume.data_volume.as_ref().map(|volume| volume.name.as_str())) {
        return claimed(vmi, volume, claim, status);
    }
    if let Some(disk) = &volume.host_disk {
        return on_host(vmi, volume, disk, status);
    }
    let devices = &vmi.spec.domain.devices;
    let is_read_only = |disk: &super::Disk| {
        disk.name == volume.name && disk.cdrom.as_ref().is_some_and(|drive| drive.readonly.unwrap_or(true))
    };
    let is_filesystem = devices.filesystems.iter().any(|filesystem| filesystem.name == volume.name);
    match is_filesystem || devices.disks.iter().any(is_read_only) {
        true => Place::Shared,
        false => Place::Copied,
    }
}

/// A claim is shared if each node may write to it; what the VMI's status does not say, the cluster does.
fn claimed(vmi: &VirtualMachineInstance, volume: &Volume, claim: &str, status: Option<&VolumeStatus>) -> Place {
    const ALL: &str = "live migration requires that all PVCs must be shared (using ReadWriteMany access mode)";
    let Some(info) = status.and_then(|status| status.persistent_volume_claim_info.as_ref()) else {
        return Place::Bound {
            message: format!("cannot migrate VMI: Unable to determine if PVC {claim} is shared, {ALL}"),
            unless: Some(format!("the claim {claim} has the access mode ReadWriteMany")),
        };
    };
    let moves = vmi.status.migrated_volumes.iter().any(|moved| moved.volume_name == volume.name);
    match moves || info.access_modes.iter().any(|mode| mode == "ReadWriteMany") {
        true => Place::Shared,
        false => {
            Place::Bound { message: format!("cannot migrate VMI: PVC {claim} is not shared, {ALL}"), unless: None }
        }
    }
}

fn on_host(vmi: &VirtualMachineInstance, volume: &Volume, disk: &HostDisk, status: Option<&VolumeStatus>) -> Place {
    // virt-handler shows a launcher the file of a claim as a host disk.
    if let Some(info) = status.and_then(|status| status.persistent_volume_claim_info.as_ref()) {
        return claimed(vmi, volume, &info.claim_name, status);
    }
    match disk.shared {
        Some(true) => Place::Shared,
        Some(false) | None => {
            Place::Bound { message: "cannot migrate VMI with non-shared HostDisk".to_owned(), unless: None }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn judged(spec: &Value, status: &Value) -> Migratability {
        let vmi = json!({ "metadata": { "name": "a" }, "spec": spec, "status": status });
        Migratability::of(&super::super::parse(vmi.to_string().as_bytes()).unwrap())
    }

    /// The only obstacle: path, reason, whether the cluster can remove it.
    fn only(spec: &Value, status: &Value) -> (String, &'static str, bool) {
        let judged = judged(spec, status);
        assert_eq!(judged.obstacles.len(), 1, "{judged:?}");
        let obstacle = &judged.obstacles[0];
        (obstacle.path.clone(), obstacle.reason, obstacle.unless.is_some())
    }

    #[test]
    fn volumes_of_the_pod_are_copied_unless_they_are_read_only_or_file_systems() {
        let spec = json!({
            "domain": { "devices": {
                "disks": [
                    { "name": "os", "disk": {} }, { "name": "iso", "cdrom": {} }, { "name": "rw", "cdrom": { "readonly": false } },
                ],
                "filesystems": [{ "name": "fs", "virtiofs": {} }],
            } },
            "volumes": [
                { "name": "os", "containerDisk": { "image": "i" } }, { "name": "iso", "containerDisk": { "image": "i" } },
                { "name": "rw", "emptyDisk": { "capacity": "1Gi" } }, { "name": "fs", "configMap": { "name": "c" } },
            ],
        });
        let judged = judged(&spec, &json!({}));
        assert_eq!(judged.method, Method::BlockMigration);
        assert_eq!(judged.copied, ["os", "rw"]);
        assert!(judged.is_certain());
    }

    #[test]
    fn claims_must_be_read_write_many() {
        let spec = json!({ "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }] });
        let path = "spec.volumes[0]".to_owned();
        assert_eq!(only(&spec, &json!({})), (path.clone(), "DisksNotLiveMigratable", true));
        let status = |modes: &[&str]| {
            json!({ "volumeStatus": [{
                "name": "v", "target": "", "persistentVolumeClaimInfo": { "claimName": "c", "accessModes": modes },
            }] })
        };
        assert_eq!(only(&spec, &status(&["ReadWriteOnce"])), (path.clone(), "DisksNotLiveMigratable", false));
        let shared = judged(&spec, &status(&["ReadWriteOnce", "ReadWriteMany"]));
        assert_eq!((shared.method, shared.is_certain()), (Method::LiveMigration, true));
        let mut moved = status(&["ReadWriteOnce"]);
        moved["migratedVolumes"] = json!([{ "volumeName": "v" }]);
        let moved = judged(&spec, &moved);
        assert_eq!((moved.method, moved.is_certain()), (Method::BlockMigration, true));
    }

    #[test]
    fn host_disks_must_be_shared_or_files_of_shared_claims() {
        let spec = |shared: Value| json!({ "volumes": [{ "name": "v", "hostDisk": { "path": "/d", "type": "Disk", "shared": shared } }] });
        assert_eq!(only(&spec(json!(null)), &json!({})).1, "DisksNotLiveMigratable");
        assert!(judged(&spec(json!(true)), &json!({})).is_certain());
        let claim = json!({ "volumeStatus": [{
            "name": "v", "target": "", "persistentVolumeClaimInfo": { "claimName": "c", "accessModes": ["ReadWriteOnce"] },
        }] });
        let judged = judged(&spec(json!(true)), &claim);
        assert!(judged.obstacles[0].message.contains("PVC c is not shared"), "{judged:?}");
    }

    #[test]
    fn pod_network_needs_a_binding_that_moves() {
        let judged = |binding: &str, annotations: Value| {
            let vmi = json!({
                "metadata": { "name": "a", "annotations": annotations },
                "spec": {
                    "networks": [{ "name": "other", "multus": { "networkName": "n" } }, { "name": "pod", "pod": {} }],
                    "domain": { "devices": { "interfaces": [
                        { "name": "other", "bridge": {} }, { "name": "pod", binding: { "name": "p" } },
                    ] } },
                },
            });
            Migratability::of(&super::super::parse(vmi.to_string().as_bytes()).unwrap())
        };
        for moves in ["masquerade", "passtBinding"] {
            assert!(judged(moves, json!({})).is_certain(), "{moves}");
        }
        for stays in ["bridge", "sriov"] {
            let judged = judged(stays, json!({}));
            assert_eq!(judged.obstacles[0].path, "spec.domain.devices.interfaces[1]");
            assert!(judged.is_impossible(), "{stays}");
        }
        let plugin = judged("binding", json!({}));
        assert!(!plugin.is_certain() && !plugin.is_impossible(), "{plugin:?}");
        let allowed = json!({ "kubevirt.io/allow-pod-bridge-network-live-migration": "" });
        assert!(judged("bridge", allowed).is_certain());
    }

    #[test]
    fn devices_and_features_that_stay_are_named() {
        let domain = |domain: Value| json!({ "domain": domain });
        for (spec, path, reason, depends) in [
            (
                domain(json!({ "devices": { "hostDevices": [{ "name": "h", "deviceName": "d" }] } })),
                "spec.domain.devices.hostDevices",
                "HostDeviceNotLiveMigratable",
                false,
            ),
            (
                domain(json!({ "devices": { "gpus": [{ "name": "g", "deviceName": "d" }] } })),
                "spec.domain.devices.gpus[0]",
                "HostDeviceNotLiveMigratable",
                true,
            ),
            (
                domain(json!({ "devices": { "gpus": [{ "name": "g" }, { "name": "h" }] } })),
                "spec.domain.devices.gpus",
                "HostDeviceNotLiveMigratable",
                false,
            ),
            (
                domain(json!({ "launchSecurity": { "sev": {} } })),
                "spec.domain.launchSecurity.sev",
                "SEVNotLiveMigratable",
                false,
            ),
            (
                domain(json!({ "launchSecurity": { "snp": {} } })),
                "spec.domain.launchSecurity.snp",
                "SEVNotLiveMigratable",
                false,
            ),
            (
                domain(json!({ "launchSecurity": { "tdx": {} } })),
                "spec.domain.launchSecurity.tdx",
                "TDXNotLiveMigratable",
                false,
            ),
            (
                json!({ "architecture": "s390x", "domain": { "launchSecurity": {} } }),
                "spec.domain.launchSecurity",
                "SecureExecutionNotLiveMigratable",
                false,
            ),
            (
                domain(json!({ "features": { "hyperv": { "reenlightenment": {} } } })),
                "spec.domain.features.hyperv.reenlightenment",
                "NoTSCFrequencyNotLiveMigratable",
                true,
            ),
            (
                domain(json!({ "features": { "hypervPassthrough": {} } })),
                "spec.domain.features.hypervPassthrough",
                "HypervPassthroughNotLiveMigratable",
                false,
            ),
        ] {
            assert_eq!(only(&spec, &json!({})), (path.to_owned(), reason, depends));
        }
        let frequency = json!({ "topologyHints": { "tscFrequency": 1 } });
        let spec = domain(json!({ "features": { "hyperv": { "reenlightenment": { "enabled": true } } } }));
        assert!(judged(&spec, &frequency).is_certain());
        let off = domain(json!({ "features": { "hypervPassthrough": { "enabled": false } } }));
        assert!(judged(&off, &json!({})).is_certain());
    }
}
