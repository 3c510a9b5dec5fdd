//! What hypervisors make of a VMI's fields: a table as data (`features.yaml`, and a catalogue entry's own
//! `launcher.features`), and the check of a VMI against it. All findings come at once, never just the first.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema::Entry;
use crate::vmi::VirtualMachineInstance;

const BUILT_IN: &str = include_str!("features.yaml");

/// How far a feature goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// It works.
    Supported,
    /// It is dropped, which does no harm.
    Ignored,
    /// It is refused.
    Unsupported,
    /// It works from a version of libvirt on, and is refused below it.
    NeedsVersion,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `pad`, so that tables can give it a width.
        f.pad(match self {
            Level::Supported => "supported",
            Level::Ignored => "ignored",
            Level::Unsupported => "unsupported",
            Level::NeedsVersion => "needs-version",
        })
    }
}

/// A libvirt version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(u32, u32, u32);

impl Version {
    /// From libvirt's number: major · 1,000,000 + minor · 1000 + release.
    pub fn from_number(number: u64) -> Self {
        let part = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Version(part(number / 1_000_000), part(number / 1000 % 1000), part(number % 1000))
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
        match parts.as_deref() {
            Ok([major, minor]) => Ok(Version(*major, *minor, 0)),
            Ok([major, minor, release]) => Ok(Version(*major, *minor, *release)),
            Ok(_) | Err(_) => Err(format!("{text:?} is not a version such as 11.2.0")),
        }
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One rule, as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Feature {
    /// The field, from `spec`; `[]` stands for every element of a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What is asked for while the VM runs, in place of a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Only these values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<Vec<Value>>,
    /// All values that ask for something but these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not: Option<Vec<Value>>,
    /// Only on these architectures; all without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arch: Vec<String>,
    /// How far it goes.
    pub level: Level,
    /// The least version of libvirt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Version>,
    /// Why, for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Feature {
    /// What is wrong with the rule as it is written.
    pub fn fault(&self) -> Option<&'static str> {
        match (&self.path, &self.operation) {
            (Some(path), None) if path.split('.').any(|part| part.is_empty() || part == "[]") => {
                return Some("path: a part between dots is missing");
            }
            (Some(path), None) if !path.starts_with("spec.") => return Some("path: does not begin with spec."),
            (Some(_), None) | (None, Some(_)) => {}
            (Some(_), Some(_)) | (None, None) => return Some("needs either path or operation"),
        }
        match (self.level, self.needs) {
            (Level::NeedsVersion, None) => Some("level needs-version without needs"),
            (Level::Supported | Level::Ignored | Level::Unsupported, Some(_)) => {
                Some("needs: belongs to level needs-version")
            }
            (Level::Supported | Level::Ignored | Level::Unsupported, None) | (Level::NeedsVersion, Some(_)) => None,
        }
    }

    /// What the rule is about, for a table: the path with its condition, or the operation.
    pub fn subject(&self) -> String {
        let list = |values: &[Value]| values.iter().map(plain).collect::<Vec<_>>().join(", ");
        let name = self.path.as_deref().or(self.operation.as_deref()).unwrap_or_default();
        match (&self.is, &self.not) {
            (Some(values), _) => format!("{name}: {}", list(values)),
            (None, Some(values)) => format!("{name}: not {}", list(values)),
            (None, None) => name.to_owned(),
        }
    }

    fn is_for(&self, arch: &str) -> bool {
        self.arch.is_empty() || self.arch.iter().any(|own| own == arch)
    }

    fn concerns(&self, value: &Value) -> bool {
        match (&self.is, &self.not) {
            (Some(values), _) => values.contains(value),
            (None, Some(values)) => asks_for_something(value) && !values.contains(value),
            (None, None) => asks_for_something(value),
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "absent".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Whether a field's value differs from leaving the field out.
fn asks_for_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(elements) => !elements.is_empty(),
        Value::Object(fields) => fields.get("enabled") != Some(&Value::Bool(false)),
    }
}

/// The rules of the hypervisors by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureTable {
    features: BTreeMap<String, Vec<Feature>>,
}

impl FeatureTable {
    /// The table of this binary.
    pub fn builtin() -> Result<Self, FeatureError> {
        let table: FeatureTable = serde_norway::from_str(BUILT_IN).map_err(FeatureError::Parse)?;
        for (hypervisor, rules) in &table.features {
            for rule in rules {
                if let Some(fault) = rule.fault() {
                    let (hypervisor, subject) = (hypervisor.clone(), rule.subject());
                    return Err(FeatureError::Rule { hypervisor, subject, fault });
                }
            }
        }
        Ok(table)
    }

    /// The rules of one hypervisor; none for a hypervisor that nobody described.
    pub fn of(&self, hypervisor: &str) -> &[Feature] {
        self.features.get(hypervisor).map(Vec::as_slice).unwrap_or_default()
    }
}

/// All rules of a catalogue entry: its own first, then the built-in ones of its name.
pub fn features_of(name: &str, entry: &Entry) -> Result<Vec<Feature>, FeatureError> {
    let mut rules = entry.launcher.features.clone();
    rules.extend_from_slice(FeatureTable::builtin()?.of(name));
    Ok(rules)
}

/// Why the table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// It is not YAML of the schema.
    #[error("feature table: {0}")]
    Parse(serde_norway::Error),
    /// A rule makes no sense.
    #[error("feature table: {hypervisor}: {subject}: {fault}")]
    Rule {
        /// Whose rule.
        hypervisor: String,
        /// Which one.
        subject: String,
        /// What is wrong with it.
        fault: &'static str,
    },
}

/// A field of a VMI that a rule is about.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The field with its indices.
    pub path: String,
    /// Its value.
    pub value: Value,
    /// What becomes of it.
    pub level: Level,
    /// The least version of libvirt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<Version>,
    /// Why.
    pub reason: String,
    /// Whether the VMI is refused for it.
    pub refused: bool,
}

impl Finding {
    fn words(&self) -> String {
        // Objects and lists are what they contain; a plain value is what is wrong.
        let value = match &self.value {
            Value::String(text) => format!(" {text:?}"),
            Value::Number(number) => format!(" {number}"),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => String::new(),
        };
        let needs = self.needs.map(|version| format!(" (needs libvirt {version})")).unwrap_or_default();
        format!("{}{value}: {}{needs}", self.path, self.reason)
    }
}

/// A VMI against the rules of a hypervisor.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The hypervisor's name.
    pub hypervisor: String,
    /// The architecture.
    pub arch: String,
    /// All fields that a rule is about, in order of the rules.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// Checks a VMI. `libvirt` is the version that is there; where it is not known, nothing is refused for its sake.
    pub fn of(
        hypervisor: &str,
        rules: &[Feature],
        vmi: &VirtualMachineInstance,
        host_arch: &str,
        libvirt: Option<Version>,
    ) -> Self {
        let arch = match vmi.spec.architecture.as_str() {
            "" => host_arch,
            own => own,
        };
        // Serialising own plain structs cannot fail; without a document there is nothing to find.
        let document = serde_json::to_value(vmi).unwrap_or_default();
        let mut findings: Vec<Finding> = Vec::new();
        for rule in rules.iter().filter(|rule| rule.is_for(arch)) {
            let Some(path) = &rule.path else { continue };
            let mut found = Vec::new();
            fields(&document, path, String::new(), &mut found);
            for (path, value) in found {
                if !rule.concerns(value) || findings.iter().any(|finding| finding.path == path) {
                    continue;
                }
                let refused = match rule.level {
                    Level::Unsupported => true,
                    Level::NeedsVersion => {
                        rule.needs.is_some_and(|needs| libvirt.is_some_and(|version| version < needs))
                    }
                    Level::Supported | Level::Ignored => false,
                };
                findings.push(Finding {
                    path,
                    value: value.clone(),
                    level: rule.level,
                    needs: rule.needs,
                    reason: rule.reason.clone(),
                    refused,
                });
            }
        }
        Verdict { hypervisor: hypervisor.to_owned(), arch: arch.to_owned(), findings }
    }

    /// What the VMI is refused for.
    pub fn refused(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.refused)
    }

    /// One message with all refused fields; none when there is nothing to refuse.
    pub fn refusal(&self) -> Option<String> {
        let words: Vec<String> = self.refused().map(Finding::words).collect();
        let fields = match words.len() {
            0 => return None,
            1 => "1 field".to_owned(),
            many => format!("{many} fields"),
        };
        Some(format!("{fields} not supported by {}/{}: {}", self.hypervisor, self.arch, words.join("; ")))
    }
}

/// Kubernetes' name of this machine's architecture.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// All values that `path` reaches, with their own paths. The last part may be absent: then its value is null.
fn fields<'a>(value: &'a Value, path: &str, above: String, found: &mut Vec<(String, &'a Value)>) {
    let (part, rest) = match path.split_once('.') {
        Some((part, rest)) => (part, Some(rest)),
        None => (path, None),
    };
    let (name, each) = match part.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (part, false),
    };
    let Value::Object(object) = value else { return };
    let below = object.get(name).unwrap_or(&Value::Null);
    let here = if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
    let mut go_on = |here: String, below: &'a Value| match rest {
        Some(rest) => fields(below, rest, here, found),
        None => found.push((here, below)),
    };
    if each {
        for (index, element) in below.as_array().into_iter().flatten().enumerate() {
            go_on(format!("{here}[{index}]"), element);
        }
    } else {
        go_on(here, below);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmi::parse_document;

    const VMI: &str = "
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: vm, namespace: default}
spec:
  architecture: amd64
  domain:
    cpu: {cores: 2, model: Skylake-Client}
    machine: {type: q35}
    memory: {guest: 64Mi}
    firmware: {bootloader: {efi: {secureBoot: false}}, uuid: 5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11}
    devices:
      tpm: {}
      watchdog: {name: dog, i6300esb: {action: reset}}
      disks:
      - {name: root, disk: {bus: virtio}, cache: none}
      - {name: install, cdrom: {bus: sata}}
  volumes:
  - {name: root, containerDisk: {image: a}}
  - {name: install, containerDisk: {image: b}}
";

    fn verdict(hypervisor: &str, vmi: &str, libvirt: Option<&str>) -> Verdict {
        let table = FeatureTable::builtin().unwrap();
        let vmi = parse_document(vmi).unwrap();
        Verdict::of(hypervisor, table.of(hypervisor), &vmi, "amd64", libvirt.map(|text| text.parse().unwrap()))
    }

    #[test]
    fn all_that_cloud_hypervisor_cannot_do_is_refused_in_one_answer() {
        let verdict = verdict("cloud-hypervisor", VMI, None);
        let paths: Vec<&str> = verdict.refused().map(|finding| finding.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "spec.domain.cpu.model",
                "spec.domain.devices.disks[1].cdrom.bus",
                "spec.domain.devices.tpm",
                "spec.domain.devices.watchdog",
            ]
        );
        let text = verdict.refusal().unwrap();
        assert!(text.starts_with("4 fields not supported by cloud-hypervisor/amd64: "), "{text}");
        assert!(paths.iter().all(|path| text.contains(path)), "{text}");
        assert!(text.contains("spec.domain.cpu.model \"Skylake-Client\": "), "{text}");
        let ignored: Vec<&str> = verdict
            .findings
            .iter()
            .filter(|finding| finding.level == Level::Ignored)
            .map(|finding| finding.path.as_str())
            .collect();
        assert!(ignored.contains(&"spec.domain.devices.disks[0].cache"), "{ignored:?}");
        assert!(ignored.contains(&"spec.domain.machine.type"), "{ignored:?}");
    }

    #[test]
    fn qemu_does_all_of_that() {
        assert_eq!(verdict("qemu-kvm", VMI, None).refusal(), None);
        assert_eq!(verdict("hyperv-direct", VMI, None).refusal(), None);
        let arm = VMI.replace("amd64", "arm64").replace("efi: {secureBoot: false}", "efi: {secureBoot: true}");
        let text = verdict("qemu-kvm", &arm, None).refusal().unwrap();
        assert!(text.starts_with("1 field not supported by qemu-kvm/arm64: spec.domain.firmware."), "{text}");
    }

    #[test]
    fn a_field_that_is_off_asks_for_nothing_and_an_absent_one_can_mean_something() {
        let off = VMI
            .replace("tpm: {}", "tpm: {enabled: false}")
            .replace("watchdog: {name: dog, i6300esb: {action: reset}}", "autoattachGraphicsDevice: false")
            .replace("Skylake-Client", "host-model")
            .replace("sata", "virtio");
        assert_eq!(verdict("cloud-hypervisor", &off, None).refusal(), None);
        let unsaid = off.replace("efi: {secureBoot: false}", "efi: {}");
        let text = verdict("cloud-hypervisor", &unsaid, None).refusal().unwrap();
        assert!(text.contains("firmware.bootloader.efi.secureBoot: "), "{text}");
        let none = off.replace("bootloader: {efi: {secureBoot: false}}, ", "");
        assert_eq!(verdict("cloud-hypervisor", &none, None).refusal(), None);
    }

    #[test]
    fn a_version_that_is_too_old_is_refused_and_an_unknown_one_is_not() {
        let gpu = VMI.replace("tpm: {}", "gpus: [{name: g, deviceName: nvidia.com/x}]");
        let refused = |version| {
            verdict("cloud-hypervisor", &gpu, version).refused().any(|finding| finding.path.ends_with("gpus[0]"))
        };
        assert!(refused(Some("10.9.0")));
        assert!(!refused(Some("10.10.0")) && !refused(Some("11.3")) && !refused(None));
        assert_eq!(Version::from_number(11_003_002).to_string(), "11.3.2");
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_told() {
        let rule = |yaml: &str| serde_norway::from_str::<Feature>(yaml).unwrap().fault();
        assert_eq!(rule("{path: spec.a, level: ignored}"), None);
        assert!(rule("{level: ignored}").unwrap().contains("either path or operation"));
        assert!(rule("{path: domain.a, level: ignored}").unwrap().contains("spec."));
        assert!(rule("{path: spec..a, level: ignored}").unwrap().contains("dots"));
        assert!(rule("{path: spec.a, level: needs-version}").unwrap().contains("without needs"));
        assert!(rule("{path: spec.a, level: ignored, needs: 1.2}").is_some());
        assert!(serde_norway::from_str::<Feature>("{path: spec.a, level: maybe}").is_err());
    }

    #[test]
    fn every_path_of_the_table_is_a_field_of_the_vmi_s_type() {
        // A path that the type does not have would never match: every one must be reachable in a VMI that has it.
        let table = FeatureTable::builtin().unwrap();
        for rules in table.features.values() {
            for path in rules.iter().filter_map(|rule| rule.path.as_deref()) {
                let mut document = Value::String("x".into());
                for part in path.split('.').rev() {
                    document = match part.strip_suffix("[]") {
                        Some(name) => serde_json::json!({ name: [document] }),
                        None => serde_json::json!({ part: document }),
                    };
                }
                // Of the right type or not: a known field either parses or fails, an unknown one is dropped.
                let parsed = serde_json::from_value::<VirtualMachineInstance>(document);
                let reached = parsed.map(|vmi| {
                    let document = serde_json::to_value(vmi).unwrap();
                    let mut found = Vec::new();
                    fields(&document, path, String::new(), &mut found);
                    found.iter().any(|(_, value)| asks_for_something(value))
                });
                assert!(reached.unwrap_or(true), "{path} is not a field of the VMI type");
            }
        }
    }
}
