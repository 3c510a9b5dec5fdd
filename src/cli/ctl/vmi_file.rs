//! VMs from files, and the VM that a launcher runs.

use serde_json::{Value, json};

use super::CtlError;
use crate::cli::vm_file::VmFile;
use crate::vmi::manifest::{Manifest, Options};

/// Reads the instance of a file, as the API server and virt-controller would have handed it to virt-handler. `running` is
/// the UID of the VM that the launcher has already; a file without UID means that one, or the one that the pod was made for,
/// whose UID only the launcher knows.
///
/// Fields that the launcher does not know are kept: what they mean is for the launcher to say. The pod network is not
/// added, because its tap would be virt-handler's work.
pub(super) fn read(file: &VmFile, running: Option<&str>) -> Result<Manifest, CtlError> {
    let mut manifest = file.read(Options::default()).map_err(|lines| CtlError::Usage(lines.join("\n")))?;
    let metadata = manifest.value.get_mut("metadata").and_then(Value::as_object_mut);
    if let (Some(metadata), Some(running)) = (metadata, running)
        && metadata.get("uid").is_none_or(|uid| uid.is_null() || uid.as_str().is_some_and(str::is_empty))
    {
        metadata.insert("uid".to_owned(), json!(running));
    }
    Ok(manifest)
}

/// The VMI behind a GetDomain document: as much of it as the commands that steer a VM look at.
pub(super) fn of_domain(domain: &Value) -> Value {
    let channels = domain.pointer("/Spec/Devices/Channels").and_then(Value::as_array);
    let agent = channels.is_some_and(|channels| {
        channels.iter().any(|channel| {
            channel.pointer("/Target/Name") == Some(&json!("org.qemu.guest_agent.0"))
                && channel.pointer("/Target/State") == Some(&json!("connected"))
        })
    });
    let acpi = domain.pointer("/Spec/Features/ACPI").is_some_and(|acpi| !acpi.is_null());
    let conditions = if agent { json!([{ "type": "AgentConnected", "status": "True" }]) } else { json!([]) };
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {
            "name": domain.pointer("/ObjectMeta/name"),
            "namespace": domain.pointer("/ObjectMeta/namespace"),
            "uid": uid(domain),
        },
        "spec": { "domain": { "devices": {}, "features": { "acpi": { "enabled": acpi } } } },
        "status": { "conditions": conditions },
    })
}

/// The VMI's UID in a GetDomain document.
pub(super) fn uid(domain: &Value) -> &str {
    domain.pointer("/Spec/Metadata/KubeVirt/UID").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_without_uid_means_the_running_vm_or_that_of_the_pod() {
        let folder = tempfile::tempdir().unwrap();
        let file = VmFile { file: folder.path().join("vm.yaml"), vm: None };
        let read = |text: &str, running| {
            std::fs::write(&file.file, text).unwrap();
            super::read(&file, running).map(|manifest| manifest.value)
        };
        let vm = "kind: VirtualMachine\nmetadata: {name: vm, namespace: ns, uid: of-the-vm}\nspec:\n  running: true\n  \
                  template: {spec: {domain: {devices: {}, new: 1}}}\n";
        let running = read(vm, Some("running")).unwrap();
        assert_eq!(running["metadata"], json!({ "name": "vm", "namespace": "ns", "uid": "running" }));
        assert_eq!(running.pointer("/spec/domain/new").unwrap(), 1, "what is not known is kept");
        assert_eq!(read(vm, None).unwrap()["metadata"], json!({ "name": "vm", "namespace": "ns" }));
        let own = "kind: VirtualMachineInstance\nmetadata: {name: vm, uid: u}\nspec: {domain: {devices: {}}}\n";
        assert_eq!(read(own, Some("running")).unwrap()["metadata"]["uid"], "u");
        assert!(matches!(read("kind: Pod", None), Err(CtlError::Usage(why)) if why.contains("\"Pod\"")));
    }

    #[test]
    fn domain_tells_which_vmi_it_is() {
        let domain = json!({
            "ObjectMeta": { "name": "vm", "namespace": "ns" },
            "Spec": {
                "Metadata": { "KubeVirt": { "UID": "u" } },
                "Features": { "ACPI": {} },
                "Devices": { "Channels": [{ "Target": { "Name": "org.qemu.guest_agent.0", "State": "connected" } }] },
            },
        });
        let vmi = of_domain(&domain);
        assert_eq!(vmi["metadata"], json!({ "name": "vm", "namespace": "ns", "uid": "u" }));
        assert_eq!(vmi["status"]["conditions"][0]["type"], "AgentConnected");
        assert_eq!(vmi["spec"]["domain"]["features"]["acpi"]["enabled"], true);
        let without = of_domain(&json!({ "ObjectMeta": { "name": "vm", "namespace": "ns" } }));
        assert_eq!(without["status"]["conditions"], json!([]));
        assert_eq!(without["spec"]["domain"]["features"]["acpi"]["enabled"], false);
    }
}
