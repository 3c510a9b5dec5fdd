//! Reading VMI documents.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::VirtualMachineInstance;

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is not JSON.
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
}

/// Reads the JSON of a VirtualMachineInstance.
pub fn parse(json: &[u8]) -> Result<VirtualMachineInstance, ParseError> {
    parse_json(json)
}

/// Reads an object of virt-handler's from JSON of the same dialect.
pub(crate) fn parse_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, ParseError> {
    let value: Value = serde_json::from_slice(json).map_err(|error| ParseError::Syntax(error.to_string()))?;
    from_value(value)
}

/// Reads an object from its JSON value.
pub(super) fn from_value<T: DeserializeOwned>(mut value: Value) -> Result<T, ParseError> {
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
    fn wrong_field_is_named() {
        let error = parse(br#"{"spec":{"domain":{"cpu":{"cores":"two"}}}}"#).unwrap_err().to_string();
        assert!(error.starts_with("spec.domain.cpu.cores: "), "{error}");
        let error = parse(br#"{"spec":{"domain":{"memory":{"guest":"lots"}}}}"#).unwrap_err().to_string();
        assert!(error.starts_with("spec.domain.memory.guest: ") && error.contains("lots"), "{error}");
        assert!(parse(b"[1]").is_err() && parse(b"{").is_err() && parse(b"").is_err());
    }

    #[test]
    fn list_is_not_an_object() {
        // Derived deserialisers take a list for a struct, field by field in the order of the source.
        for (json, path) in [
            (r#"{"spec":{"domain":{"cpu":[4,2,1]}}}"#, "spec.domain.cpu"),
            (r#"{"spec":{"domain":{"memory":["512Mi"]}}}"#, "spec.domain.memory"),
            (r#"{"spec":{"domain":{"clock":{"timer":[{"present":true}]}}}}"#, "spec.domain.clock.timer"),
            (r#"{"spec":{"domain":{"devices":{"disks":[["root"]]}}}}"#, "spec.domain.devices.disks[0]"),
            (
                r#"{"spec":{"domain":{"devices":{"disks":[{"name":"a","disk":["virtio"]}]}}}}"#,
                "spec.domain.devices.disks[0].disk",
            ),
            (r#"{"spec":{"volumes":[{"name":"a","containerDisk":["image"]}]}}"#, "spec.volumes[0].containerDisk"),
            (r#"{"status":[]}"#, "status"),
            (r#"{"metadata":["a","b"]}"#, "metadata"),
            (r#"{"spec":[]}"#, "spec"),
        ] {
            let error = parse(json.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, format!("{path}: invalid type: sequence, expected a map"));
        }
    }
}
