//! The VMI that both launchers are shown during a migration: what virt-controller and virt-handler would have added to its
//! status (contract/migration.md 1.3, 14).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::cli::ctl::vmi_file;
use crate::vmi::{Migratability, VirtualMachineInstance};

/// What the status says of one migration.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Facts {
    /// UID of the migration.
    pub(super) uid: String,
    /// `POD_NAME` of the target.
    pub(super) target_pod: String,
    /// The user of the target's launcher.
    pub(super) target_user: u32,
    /// Whether disks are copied.
    pub(super) copies_disks: bool,
    /// Sizes in bytes of the disks that the source's launcher made, by volume.
    pub(super) sizes: BTreeMap<String, u64>,
    /// Whether a user has paused the guest.
    pub(super) paused: bool,
}

/// What keeps the VM where it is, and what only the cluster would know: an error, or warnings and whether disks are copied.
pub(super) fn judge(vmi: &VirtualMachineInstance) -> Result<(bool, Vec<String>), String> {
    let judged = Migratability::of(vmi);
    let mut warnings = Vec::new();
    for obstacle in &judged.obstacles {
        match &obstacle.unless {
            None => return Err(format!("{}: {}", obstacle.path, obstacle.message)),
            Some(unless) => warnings.push(format!("{}: this works only if {unless}", obstacle.path)),
        }
    }
    Ok((!judged.copied.is_empty() || !vmi.status.migrated_volumes.is_empty(), warnings))
}

/// Whether GetDomain shows a guest that a user has paused; an error if there is no guest to move.
pub(super) fn is_paused(domain: &Value) -> Result<bool, String> {
    let text = |pointer: &str| domain.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    match (text("/Status/Status"), text("/Status/Reason")) {
        ("Running", _) => Ok(false),
        ("Paused", "User") => Ok(true),
        (status, reason) => Err(format!("the domain is {status} ({reason}), not Running")),
    }
}

/// The files of the disks that the launcher has made itself, by volume: the target makes them as large.
pub(super) fn generated_disks(vmi: &VirtualMachineInstance, domain: &Value) -> BTreeMap<String, PathBuf> {
    let disks = domain.pointer("/Spec/Devices/Disks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let file = |volume: &str| {
        let is_its = |disk: &&Value| {
            let alias = disk.pointer("/Alias/Name").or_else(|| disk.get("Alias")).and_then(Value::as_str);
            alias.map(|alias| alias.strip_prefix("ua-").unwrap_or(alias)) == Some(volume)
        };
        let path = disks.iter().find(is_its)?.pointer("/Source/File")?.as_str()?;
        (!path.is_empty()).then(|| PathBuf::from(path))
    };
    let generated = vmi.spec.volumes.iter().filter(|volume| volume.is_generated() || volume.sysprep.is_some());
    generated.filter_map(|volume| Some((volume.name.clone(), file(&volume.name)?))).collect()
}

/// The document of this migration. `domain` is GetDomain's of the source: its UID is the VMI's.
pub(super) fn document(mut vmi: Value, domain: &Value, facts: &Facts) -> Value {
    let metadata = object(&mut vmi, "metadata");
    metadata.insert("uid".to_owned(), json!(vmi_file::uid(domain)));
    let status = object(&mut vmi, "status");
    let method = if facts.copies_disks { "BlockMigration" } else { "LiveMigration" };
    for (name, value) in [
        ("phase", json!("Running")),
        ("runtimeUser", json!(facts.target_user)),
        ("migrationMethod", json!(method)),
        ("migrationTransport", json!("Unix")),
        ("migrationState", json!({ "migrationUid": facts.uid, "targetPod": facts.target_pod })),
    ] {
        status.insert(name.to_owned(), value);
    }
    let known = status.remove("volumeStatus");
    let mut volumes = match known {
        Some(Value::Array(volumes)) => volumes,
        Some(_) | None => Vec::new(),
    };
    for (volume, size) in &facts.sizes {
        match volumes.iter_mut().find(|status| status.get("name").and_then(Value::as_str) == Some(volume)) {
            Some(Value::Object(status)) => {
                status.insert("size".to_owned(), json!(size));
            }
            Some(_) | None => volumes.push(json!({ "name": volume, "target": "", "size": size })),
        }
    }
    status.insert("volumeStatus".to_owned(), Value::Array(volumes));
    if facts.paused {
        let paused = json!([{ "type": "Paused", "status": "True", "reason": "PausedByUser" }]);
        status.insert("conditions".to_owned(), paused);
    }
    vmi
}

/// The same once the migration is over.
pub(super) fn completed(mut document: Value) -> Value {
    let status = object(&mut document, "status");
    if let Some(Value::Object(migration)) = status.get_mut("migrationState") {
        migration.insert("completed".to_owned(), json!(true));
    }
    document
}

/// The map below a key, made if there is none.
fn object<'a>(document: &'a mut Value, key: &str) -> &'a mut Map<String, Value> {
    fn map(value: &mut Value) -> &mut Map<String, Value> {
        if !value.is_object() {
            *value = json!({});
        }
        match value {
            Value::Object(map) => map,
            // Made a map above.
            _ => map(value),
        }
    }
    map(map(document).entry(key.to_owned()).or_insert(Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(vmi: &Value) -> VirtualMachineInstance {
        crate::vmi::parse(vmi.to_string().as_bytes()).unwrap()
    }

    fn facts() -> Facts {
        Facts {
            uid: "m".into(),
            target_pod: "target".into(),
            target_user: 107,
            copies_disks: true,
            sizes: [("init".to_owned(), 366_592)].into(),
            paused: false,
        }
    }

    #[test]
    fn document_has_the_status_of_a_migration_and_keeps_the_rest() {
        let domain = json!({ "Spec": { "Metadata": { "KubeVirt": { "UID": "u" } } } });
        let vmi = json!({
            "metadata": { "name": "a" }, "spec": { "x": 1 },
            "status": { "volumeStatus": [{ "name": "init", "target": "vdb" }, { "name": "os", "target": "vda" }] },
        });
        let document = document(vmi, &domain, &facts());
        assert_eq!(document["metadata"], json!({ "name": "a", "uid": "u" }));
        assert_eq!(document["spec"], json!({ "x": 1 }));
        let status = &document["status"];
        assert_eq!(status["volumeStatus"][0], json!({ "name": "init", "target": "vdb", "size": 366_592 }));
        assert_eq!(status["volumeStatus"][1], json!({ "name": "os", "target": "vda" }));
        assert_eq!(status["migrationState"], json!({ "migrationUid": "m", "targetPod": "target" }));
        assert_eq!((status["migrationMethod"].as_str(), &status["conditions"]), (Some("BlockMigration"), &Value::Null));
        let parsed = parsed(&document);
        assert!(parsed.status.is_block_migration() && parsed.is_non_root());
        assert_eq!(completed(document)["status"]["migrationState"]["completed"], true);
    }

    #[test]
    fn paused_guest_stays_paused_and_a_plain_document_gets_what_it_lacks() {
        let facts = Facts { paused: true, copies_disks: false, ..facts() };
        let document = document(json!({ "status": null }), &json!({}), &facts);
        assert_eq!(document["status"]["conditions"][0]["type"], "Paused");
        assert_eq!(document["status"]["migrationMethod"], "LiveMigration");
        assert_eq!(document["status"]["volumeStatus"][0]["size"], 366_592);
    }

    #[test]
    fn only_a_guest_that_runs_or_that_a_user_has_paused_can_be_moved() {
        let domain = |status: &str, reason: &str| json!({ "Status": { "Status": status, "Reason": reason } });
        assert_eq!(is_paused(&domain("Running", "Unknown")), Ok(false));
        assert_eq!(is_paused(&domain("Paused", "User")), Ok(true));
        assert_eq!(is_paused(&domain("Paused", "IOError")), Err("the domain is Paused (IOError), not Running".into()));
        assert!(is_paused(&domain("Shutoff", "Crashed")).is_err());
    }

    #[test]
    fn disks_that_the_launcher_made_are_found_by_alias() {
        let vmi = parsed(&json!({ "metadata": { "name": "a" }, "spec": { "volumes": [
            { "name": "os", "containerDisk": { "image": "i" } }, { "name": "init", "cloudInitNoCloud": { "userData": "x" } },
        ] } }));
        let domain = json!({ "Spec": { "Devices": { "Disks": [
            { "Alias": { "Name": "os" }, "Source": { "File": "/os" } },
            { "Alias": { "Name": "ua-init" }, "Source": { "File": "/init.iso" } },
        ] } } });
        assert_eq!(generated_disks(&vmi, &domain), [("init".to_owned(), PathBuf::from("/init.iso"))].into());
    }

    #[test]
    fn obstacles_that_no_cluster_removes_are_errors() {
        let volume = |volume: Value| parsed(&json!({ "metadata": { "name": "a" }, "spec": { "volumes": [volume] } }));
        let host = volume(json!({ "name": "v", "hostDisk": { "path": "/d", "type": "Disk" } }));
        assert_eq!(judge(&host), Err("spec.volumes[0]: cannot migrate VMI with non-shared HostDisk".to_owned()));
        let (copies, warnings) =
            judge(&volume(json!({ "name": "v", "persistentVolumeClaim": { "claimName": "c" } }))).unwrap();
        assert!(!copies && warnings[0].contains("ReadWriteMany"), "{warnings:?}");
        assert_eq!(judge(&volume(json!({ "name": "v", "emptyDisk": { "capacity": "1Gi" } }))), Ok((true, Vec::new())));
    }
}
