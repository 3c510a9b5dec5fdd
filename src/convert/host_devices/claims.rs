//! Devices of dynamic resource allocation: what the driver wrote about them (contract/domain-xml-qemu.md 10.4).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::error::ConvertError;
use super::super::facts::HostFacts;
use super::Entry;
use crate::vmi::VirtualMachineInstance;

/// The version of the metadata that is understood.
pub const API_VERSION: &str = "metadata.resource.k8s.io/v1alpha1";
const MEDIATED: &str = "mdevUUID";
const PCI: &str = "resource.kubernetes.io/pciBusID";

/// A claimed device.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    /// PCI address.
    Pci(String),
    /// UUID of a mediated device.
    Mediated(String),
}

/// The metadata file of one request.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    api_version: String,
    requests: Vec<Request>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    name: String,
    devices: Vec<Device>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Device {
    attributes: BTreeMap<String, Attribute>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Attribute {
    string: Option<String>,
}

/// The device that an entry at `path` of the VMI claims.
pub(super) fn device(
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    entry: &Entry<'_>,
    path: &str,
) -> Result<Claimed, ConvertError> {
    let found = attributes(vmi, facts, entry.claim.unwrap_or_default(), entry.request.unwrap_or_default());
    let found = found.and_then(|attributes| {
        let uuid = attributes.get(MEDIATED).cloned().map(Claimed::Mediated);
        let device = uuid.or_else(|| attributes.get(PCI).cloned().map(Claimed::Pci));
        device.ok_or_else(|| format!("the device has neither attribute {MEDIATED:?} nor {PCI:?}"))
    });
    found.map_err(|why| {
        ConvertError::at(path, format!("failed to create hostdevice for {}: {}: {why}", entry.name, described(entry)))
    })
}

/// The PCI address of a claimed device.
pub(super) fn pci_address(
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    claim: &str,
    request: &str,
) -> Result<String, String> {
    attributes(vmi, facts, claim, request)?.remove(PCI).ok_or_else(|| format!("the device has no attribute {PCI:?}"))
}

fn described(entry: &Entry<'_>) -> String {
    format!("claim {} request {}", entry.claim.unwrap_or_default(), entry.request.unwrap_or_default())
}

/// The text attributes of the one device of a request.
fn attributes(
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    claim: &str,
    request: &str,
) -> Result<BTreeMap<String, String>, String> {
    let Some(declared) = vmi.spec.resource_claims.iter().find(|declared| declared.name == claim) else {
        return Err(format!("metadata not found for claim {claim:?}"));
    };
    let claimed = declared.resource_claim_name.as_ref().filter(|name| !name.is_empty());
    let folder = match claimed {
        Some(name) => format!("resourceclaims/{name}/{request}/"),
        None => format!("resourceclaimtemplates/{claim}/{request}/"),
    };
    let is_metadata = |path: &str| {
        path.strip_prefix(&folder).is_some_and(|file| file.ends_with("-metadata.json") && !file.contains('/'))
    };
    let files: Vec<(&String, &serde_json::Value)> =
        facts.dra_metadata.iter().filter(|(path, _)| is_metadata(path)).collect();
    let (path, text) = match files.as_slice() {
        [] => return Err(format!("metadata not found for claim {claim:?}")),
        [file] => *file,
        [first, second, ..] => return Err(format!("two metadata files: {} and {}", first.0, second.0)),
    };
    let metadata = Metadata::deserialize(text).map_err(|error| format!("{path}: {error}"))?;
    if metadata.api_version != API_VERSION {
        return Err(format!("{path}: API version {:?}, not {API_VERSION:?}", metadata.api_version));
    }
    let Some(mut found) = metadata.requests.into_iter().find(|found| found.name == request) else {
        return Err(format!("{path}: request {request:?} is not in it"));
    };
    match (found.devices.pop(), found.devices.len()) {
        (Some(device), 0) => Ok(device
            .attributes
            .into_iter()
            .filter_map(|(name, attribute)| Some((name, attribute.string.filter(|text| !text.is_empty())?)))
            .collect()),
        (_, others) => {
            Err(format!("{path}: request {request:?} has {} devices, not 1", others + usize::from(others > 0)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resolve(spec: serde_json::Value, files: serde_json::Value) -> Result<BTreeMap<String, String>, String> {
        let vmi = crate::vmi::parse(json!({"spec": {"resourceClaims": spec}}).to_string().as_bytes()).unwrap();
        let facts = HostFacts { dra_metadata: serde_json::from_value(files).unwrap(), ..HostFacts::default() };
        attributes(&vmi, &facts, "c", "r")
    }

    fn file(devices: serde_json::Value) -> serde_json::Value {
        json!({"apiVersion": API_VERSION, "requests": [{"name": "other"}, {"name": "r", "devices": devices}]})
    }

    #[test]
    fn request_has_one_file_and_one_device() {
        let device = json!({"attributes": {"a": {"string": "text"}, "b": {"int": 3}, "c": {"string": ""}}});
        let claim = json!([{"name": "c", "resourceClaimName": "rc"}]);
        let template = json!([{"name": "c", "resourceClaimTemplateName": "t"}]);
        let one = file(json!([device]));
        let found = BTreeMap::from([("a".to_owned(), "text".to_owned())]);
        assert_eq!(resolve(claim.clone(), json!({"resourceclaims/rc/r/d-metadata.json": one})), Ok(found.clone()));
        let empty = json!([{"name": "c", "resourceClaimName": "", "resourceClaimTemplateName": "t"}]);
        for template in [&template, &empty] {
            let files = json!({"resourceclaimtemplates/c/r/d-metadata.json": one});
            assert_eq!(resolve(template.clone(), files), Ok(found.clone()));
        }
        let fails = |spec: &serde_json::Value, files, text: &str| {
            let error = resolve(spec.clone(), files).unwrap_err();
            assert!(error.contains(text), "{error}");
        };
        fails(&json!([]), json!({}), "metadata not found");
        fails(&template, json!({"resourceclaims/c/r/d-metadata.json": one}), "metadata not found");
        fails(&claim, json!({"resourceclaims/rc/r/d/e-metadata.json": one}), "metadata not found");
        let two = json!({"resourceclaims/rc/r/d-metadata.json": one, "resourceclaims/rc/r/e-metadata.json": one});
        fails(&claim, two, "two metadata files");
        fails(&claim, json!({"resourceclaims/rc/r/d-metadata.json": file(json!([]))}), "has 0 devices");
        fails(&claim, json!({"resourceclaims/rc/r/d-metadata.json": file(json!([device, device]))}), "has 2 devices");
        fails(&claim, json!({"resourceclaims/rc/r/d-metadata.json": {"apiVersion": "v2"}}), "API version");
        fails(&claim, json!({"resourceclaims/rc/r/d-metadata.json": {"requests": 3}}), "invalid type");
        let without = json!({"apiVersion": API_VERSION});
        fails(&claim, json!({"resourceclaims/rc/r/d-metadata.json": without}), "request \"r\" is not in it");
    }
}
