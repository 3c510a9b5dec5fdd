//! What hypervisors make of a VMI's fields: a table as data (`features.yaml`, and a catalogue entry's own
//! `launcher.features`).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    pub fn from_number(number: u32) -> Self {
        Version(number / 1_000_000, number / 1000 % 1000, number % 1000)
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

    pub(super) fn is_for(&self, arch: &str) -> bool {
        self.arch.is_empty() || self.arch.iter().any(|own| own == arch)
    }

    pub(super) fn concerns(&self, value: &Value) -> bool {
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
pub(super) fn asks_for_something(value: &Value) -> bool {
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
    pub(super) features: BTreeMap<String, Vec<Feature>>,
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

    /// The rules of one hypervisor; none for a hypervisor without an entry.
    pub fn of(&self, hypervisor: &str) -> &[Feature] {
        self.features.get(hypervisor).map(Vec::as_slice).unwrap_or_default()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_that_makes_no_sense_is_reported() {
        let rule = |yaml: &str| serde_norway::from_str::<Feature>(yaml).unwrap().fault();
        assert_eq!(rule("{path: spec.a, level: ignored}"), None);
        assert!(rule("{level: ignored}").unwrap().contains("either path or operation"));
        assert!(rule("{path: domain.a, level: ignored}").unwrap().contains("spec."));
        assert!(rule("{path: spec..a, level: ignored}").unwrap().contains("dots"));
        assert!(rule("{path: spec.a, level: needs-version}").unwrap().contains("without needs"));
        assert!(rule("{path: spec.a, level: ignored, needs: 1.2}").is_some());
        assert!(serde_norway::from_str::<Feature>("{path: spec.a, level: maybe}").is_err());
    }
}
