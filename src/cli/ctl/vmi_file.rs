//! VMs from files, and the VM that a launcher runs.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::CtlError;

/// Reads a VirtualMachineInstance from YAML or JSON; of a VirtualMachine, its template becomes one.
///
/// Unknown fields are kept: what the launcher understands is for the launcher to say. `running` is the UID of the VM
/// that the launcher has already; a file without UID means that one, or gets a new one.
pub(super) fn read(path: &Path, running: Option<&str>) -> Result<Value, CtlError> {
    let unusable = |why: String| CtlError::Usage(format!("{}: {why}", path.display()));
    let text =
        if path == Path::new("-") { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) }
            .map_err(|error| unusable(error.to_string()))?;
    instance(&text, running).map_err(unusable)
}

fn instance(text: &str, running: Option<&str>) -> Result<Value, String> {
    // JSON is YAML, but its errors are better told by a JSON reader.
    let document: Value = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        serde_norway::from_str(text).map_err(|error| error.to_string())?
    };
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default();
    let mut vmi = match kind {
        "VirtualMachineInstance" => document,
        "VirtualMachine" => from_template(document)?,
        other => return Err(format!("kind is {other:?}; VirtualMachineInstance or VirtualMachine is expected")),
    };
    let fields = vmi.as_object_mut().ok_or("not an object")?;
    let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
    let metadata = metadata.as_object_mut().ok_or("metadata: not an object")?;
    if metadata.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err("metadata.name: missing".to_owned());
    }
    let absent = |metadata: &Map<String, Value>, key: &str| {
        metadata.get(key).is_none_or(|value| value.as_str().is_some_and(str::is_empty) || value.is_null())
    };
    if absent(metadata, "namespace") {
        metadata.insert("namespace".to_owned(), json!("default"));
    }
    if absent(metadata, "uid") {
        let uid = running.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        metadata.insert("uid".to_owned(), json!(uid));
    }
    if !fields.get("spec").is_some_and(Value::is_object) {
        return Err("spec: missing".to_owned());
    }
    Ok(vmi)
}

/// What virt-controller makes of a VirtualMachine: the template under the VM's own name.
fn from_template(document: Value) -> Result<Value, String> {
    let template = document.pointer("/spec/template").ok_or("spec.template: missing")?;
    let spec = template.get("spec").ok_or("spec.template.spec: missing")?;
    let mut metadata = match template.get("metadata") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(metadata)) => metadata.clone(),
        Some(_) => return Err("spec.template.metadata: not an object".to_owned()),
    };
    for key in ["name", "namespace"] {
        if let Some(value) = document.pointer(&format!("/metadata/{key}")) {
            metadata.insert(key.to_owned(), value.clone());
        }
    }
    Ok(json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata, "spec": spec,
    }))
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
    fn yaml_and_json_say_the_same() {
        let yaml = "apiVersion: kubevirt.io/v1\nkind: VirtualMachineInstance\nmetadata:\n  name: vm\n  uid: u\nspec:\n  domain: {}\n";
        let json = r#"{"apiVersion":"kubevirt.io/v1","kind":"VirtualMachineInstance","metadata":{"name":"vm","uid":"u"},"spec":{"domain":{}}}"#;
        let read = instance(yaml, None).unwrap();
        assert_eq!(read, instance(json, None).unwrap());
        assert_eq!(read["metadata"], json!({ "name": "vm", "uid": "u", "namespace": "default" }));
    }

    #[test]
    fn a_virtual_machine_stands_for_its_template() {
        let vm = "kind: VirtualMachine\nmetadata: {name: vm, namespace: ns, uid: of-the-vm}\nspec:\n  running: true\n  template:\n    metadata:\n      annotations: {a: b}\n    spec:\n      domain: {cpu: {cores: 2}}\n";
        let vmi = instance(vm, Some("running")).unwrap();
        assert_eq!(vmi["kind"], "VirtualMachineInstance");
        assert_eq!(
            vmi["metadata"],
            json!({ "annotations": { "a": "b" }, "name": "vm", "namespace": "ns", "uid": "running" })
        );
        assert_eq!(vmi["spec"], json!({ "domain": { "cpu": { "cores": 2 } } }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| instance(text, None).unwrap_err();
        assert!(error("kind: Pod").contains("\"Pod\""));
        assert!(error("kind: VirtualMachineInstance\nspec: {}").contains("metadata.name"));
        assert!(error("kind: VirtualMachineInstance\nmetadata: {name: x}").contains("spec"));
        assert!(error("kind: VirtualMachine\nmetadata: {name: x}").contains("spec.template"));
        assert!(error("{\"kind\":").contains("line 1"));
        assert!(error("a: [").contains("line"));
        assert!(error("just text").contains("kind"));
        assert!(error("").contains("kind"));
        assert!(error("kind: VirtualMachineInstance\nmetadata: 7").contains("metadata"));
    }

    #[test]
    fn a_domain_tells_which_vmi_it_is() {
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
