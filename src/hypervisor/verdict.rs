//! A VMI against what a hypervisor can do: all findings at once, never just the first.

use serde::Serialize;
use serde_json::Value;

use super::features::{Feature, Level, Version};
use crate::vmi::VirtualMachineInstance;

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

    /// Whether it depends on libvirt's version.
    pub fn depends_on_version(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::NeedsVersion)
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
    use super::super::features::{FeatureTable, asks_for_something};
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
    fn field_that_is_off_asks_for_nothing_and_an_absent_one_can_mean_something() {
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
    fn version_that_is_too_old_is_refused_and_an_unknown_one_is_not() {
        let gpu = VMI.replace("tpm: {}", "gpus: [{name: g, deviceName: nvidia.com/x}]");
        let refused = |version| {
            verdict("cloud-hypervisor", &gpu, version).refused().any(|finding| finding.path.ends_with("gpus[0]"))
        };
        assert!(refused(Some("10.9.0")));
        assert!(!refused(Some("10.10.0")) && !refused(Some("11.3")) && !refused(None));
        assert_eq!(Version::from_number(11_003_002).to_string(), "11.3.2");
    }

    #[test]
    fn every_path_of_the_table_is_a_field_of_the_vmis_type() {
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
