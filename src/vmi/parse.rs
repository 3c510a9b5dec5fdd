//! Reading VMI documents.

use serde_json::Value;

use super::VirtualMachineInstance;

/// Why a VMI document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is neither JSON nor, where that is allowed, YAML.
    #[error("not a document: {0}")]
    Syntax(String),
    /// A field has the wrong type.
    #[error("{path}: {problem}")]
    Field {
        /// Path of the field, such as `spec.domain.cpu.cores`.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It is some other object.
    #[error("kind: {0:?} is neither VirtualMachineInstance nor VirtualMachine")]
    Kind(String),
}

/// Reads the JSON of a VirtualMachineInstance.
pub fn parse(json: &[u8]) -> Result<VirtualMachineInstance, ParseError> {
    let value: Value = serde_json::from_slice(json).map_err(|error| ParseError::Syntax(error.to_string()))?;
    from_value(value)
}

/// Reads a document that a person wrote: YAML or JSON, a VirtualMachineInstance or a VirtualMachine, of which the
/// template is taken under the machine's own name and namespace.
pub fn parse_document(text: &str) -> Result<VirtualMachineInstance, ParseError> {
    // JSON with tabs is no YAML, and a mistake in JSON is told best by a JSON reader.
    let value: Value = match text.trim_start().starts_with('{') {
        true => serde_json::from_str(text)
            .or_else(|error| serde_norway::from_str(text).map_err(|_| ParseError::Syntax(error.to_string())))?,
        false => serde_norway::from_str(text).map_err(|error| ParseError::Syntax(error.to_string()))?,
    };
    from_value(instance_of(value)?)
}

/// The VirtualMachineInstance in a document: itself, or a VirtualMachine's template.
fn instance_of(value: Value) -> Result<Value, ParseError> {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or("VirtualMachineInstance").to_owned();
    match kind.as_str() {
        "VirtualMachineInstance" => Ok(value),
        "VirtualMachine" => {
            let mut instance = value
                .pointer("/spec/template")
                .cloned()
                .ok_or_else(|| ParseError::Field { path: "spec.template".into(), problem: "missing field".into() })?;
            let own = value.get("metadata").cloned().unwrap_or_default();
            if let Some(instance) = instance.as_object_mut() {
                let metadata = instance.entry("metadata").or_insert_with(|| Value::Object(Default::default()));
                for key in ["name", "namespace", "uid"] {
                    if let (Some(metadata), Some(text)) = (metadata.as_object_mut(), own.get(key)) {
                        metadata.entry(key).or_insert_with(|| text.clone());
                    }
                }
            }
            Ok(instance)
        }
        _ => Err(ParseError::Kind(kind)),
    }
}

fn from_value(mut value: Value) -> Result<VirtualMachineInstance, ParseError> {
    if !value.is_object() {
        return Err(ParseError::Syntax("the document is not an object".into()));
    }
    drop_nulls(&mut value);
    serde_path_to_error::deserialize(value)
        .map_err(|error| ParseError::Field { path: error.path().to_string(), problem: error.inner().to_string() })
}

/// A `null` means the zero value, like a missing key.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_case_sensitive_and_unknown_ones_ignored() {
        let vmi = parse(
            br#"{"Spec":{"architecture":"x"},"spec":{"architecture":null,"domain":{"cpu":{"cores":2}},"new":1}}"#,
        )
        .unwrap();
        assert_eq!(vmi.spec.architecture, "");
        assert_eq!(vmi.spec.domain.cpu.unwrap().cores, 2);
    }

    #[test]
    fn a_wrong_field_is_named() {
        let error = parse(br#"{"spec":{"domain":{"cpu":{"cores":"two"}}}}"#).unwrap_err().to_string();
        assert!(error.starts_with("spec.domain.cpu.cores: "), "{error}");
        let error = parse(br#"{"spec":{"domain":{"memory":{"guest":"lots"}}}}"#).unwrap_err().to_string();
        assert!(error.starts_with("spec.domain.memory.guest: ") && error.contains("lots"), "{error}");
        assert!(parse(b"[1]").is_err() && parse(b"{").is_err() && parse(b"").is_err());
    }

    #[test]
    fn a_virtual_machine_gives_its_template() {
        let vmi = parse_document(
            "kind: VirtualMachine\nmetadata: {name: vm1, namespace: ns}\nspec:\n  template:\n    spec: {hostname: h}\n",
        )
        .unwrap();
        assert_eq!((vmi.domain_name().as_str(), vmi.spec.hostname.as_str()), ("ns_vm1", "h"));
        let vmi = parse_document("{\n\t\"spec\": {\n\t\t\"hostname\": \"h\"}}").unwrap();
        assert_eq!(vmi.spec.hostname, "h");
        assert_eq!(parse_document("{spec: {hostname: h}}").unwrap(), vmi);
        assert!(matches!(parse_document("kind: Pod\n"), Err(ParseError::Kind(_))));
    }
}
