//! The VMs that are moved, as virt-handler sends them at each step (contract/migration.md 4, 14).

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::pod::{UID, demo_vmi};

/// The least that a migration can be limited to, so that 128 MiB take long: 1 MiB/s.
pub const SLOW: &str = "1048576";
/// Where the shared disk's folder is in both pods.
pub const SHARED: &str = "/var/run/kubevirt-private/vmi-disks/shared";
/// Below a pod's root; the launcher is told so by `--ephemeral-disk-dir`.
const CLOUD_INIT: &str = "var/run/kubevirt-ephemeral-disks/cloud-init-data";
/// User and group that a disk belongs to.
const QEMU: u32 = 107;

/// A VM with a small Linux guest that writes a heartbeat every second.
pub struct Vm {
    document: Value,
    /// The folder of the disk that both pods have.
    shared: Option<tempfile::TempDir>,
}

/// One migration of it.
#[derive(Debug, Clone)]
pub struct Order {
    /// UID of the VirtualMachineInstanceMigration.
    pub uid: String,
    /// Name of the target's pod.
    pub pod: String,
}

impl Vm {
    /// Its only disk is a file that both pods have, as a volume with ReadWriteMany is.
    pub fn on_a_shared_disk(name: &str) -> Vm {
        let folder = tempfile::Builder::new().prefix("vl").tempdir().unwrap();
        let disk = folder.path().join("disk.img");
        File::create(&disk).unwrap().set_len(32 << 20).unwrap();
        for path in [folder.path(), &disk] {
            chown(path, Some(QEMU), Some(QEMU)).unwrap();
        }
        let host_disk =
            json!({ "path": format!("{SHARED}/disk.img"), "type": "DiskOrCreate", "capacity": "32Mi", "shared": true });
        Vm::new(
            name,
            &json!([{ "name": "shared", "disk": { "bus": "virtio" } }]),
            &json!([{ "name": "shared", "hostDisk": host_disk }]),
            "LiveMigration",
            Some(folder),
        )
    }

    /// Its disks are the pod's own: a containerDisk, a cloud-init disk and an emptyDisk.
    pub fn on_local_disks(name: &str) -> Vm {
        let demo: Value = serde_norway::from_str(&demo_vmi()).unwrap();
        Vm::new(name, &demo["spec"]["domain"]["devices"]["disks"], &demo["spec"]["volumes"], "BlockMigration", None)
    }

    fn new(name: &str, disks: &Value, volumes: &Value, method: &str, shared: Option<tempfile::TempDir>) -> Vm {
        let mut document: Value = serde_norway::from_str(&demo_vmi()).unwrap();
        document["metadata"]["name"] = json!(name);
        document["spec"]["domain"]["devices"]["disks"] = disks.clone();
        document["spec"]["volumes"] = volumes.clone();
        document["status"] = json!({
            "phase": "Running", "runtimeUser": 107, "migrationMethod": method, "migrationTransport": "Unix",
        });
        Vm { document, shared }.memory("128Mi")
    }

    /// The guest has so much; it needs about 100 MiB itself.
    pub fn memory(mut self, size: &str) -> Vm {
        for memory in ["/spec/domain/memory/guest", "/spec/domain/resources/requests/memory"] {
            *self.document.pointer_mut(memory).unwrap() = json!(size);
        }
        self
    }

    /// With a change of its specification.
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Vm {
        change(&mut self.document["spec"]["domain"]);
        self
    }

    pub fn name(&self) -> &str {
        self.document["metadata"]["name"].as_str().unwrap()
    }

    /// The name of its domain.
    pub fn domain(&self) -> String {
        format!("default_{}", self.name())
    }

    pub fn shared(&self) -> Option<&Path> {
        self.shared.as_ref().map(tempfile::TempDir::path)
    }

    pub fn is_copied(&self) -> bool {
        self.document["status"]["migrationMethod"] == "BlockMigration"
    }

    /// Before it runs.
    pub fn scheduled(&self) -> Value {
        let mut document = self.document();
        document["status"]["phase"] = json!("Scheduled");
        document
    }

    /// While no migration goes on.
    pub fn document(&self) -> Value {
        self.document.clone()
    }

    /// While this migration goes on; `root` is the source's file system, whose generated disks have a size.
    pub fn migrating(&self, order: &Order, root: &Path) -> Value {
        let mut document = self.document();
        document["status"]["migrationState"] = json!({
            "migrationUid": order.uid, "sourceNode": "a", "targetNode": "b", "targetPod": order.pod,
        });
        document["status"]["volumeStatus"] = self.sizes(root);
        document
    }

    fn sizes(&self, root: &Path) -> Value {
        let volumes = self.document["spec"]["volumes"].as_array().unwrap();
        let status = volumes.iter().map(|volume| {
            let mut status = json!({ "name": volume["name"], "target": "" });
            if !volume["cloudInitNoCloud"].is_null() {
                let iso = format!("{CLOUD_INIT}/default/{}/noCloud.iso", self.name());
                status["size"] = json!(fs::metadata(root.join(iso)).unwrap().len());
            }
            status
        });
        status.collect()
    }
}

/// A user has paused the VM.
pub fn paused(mut document: Value) -> Value {
    document["status"]["conditions"] = json!([{ "type": "Paused", "status": "True", "reason": "PausedByUser" }]);
    document
}

/// virt-handler's options of a migration with the cluster's defaults, with these instead (contract/migration.md 4.2).
pub fn options(instead: &Value) -> Value {
    let mut options = json!({
        "Bandwidth": "0", "ProgressTimeout": 150, "CompletionTimeoutPerGiB": 150, "MaxDowntimeMs": 900,
        "UnsafeMigration": false, "AllowAutoConverge": false, "AllowPostCopy": false, "ParallelMigrationThreads": 8,
        "AllowWorkloadDisruption": false, "StallDetectorOptions": null, "Compression": null, "DowntimeTuning": null,
    });
    for (key, value) in instead.as_object().unwrap() {
        assert!(options.get(key).is_some(), "no option {key}");
        options[key] = value.clone();
    }
    options
}

/// The UID of every VM here.
pub const VMI: &str = UID;
