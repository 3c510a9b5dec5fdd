//! Reading, merging and searching the catalogue.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::CatalogueError;
use super::features::{Feature, FeatureError, FeatureTable};
use super::overlay::extend;
use super::schema::Entry;

/// The hypervisor of a VMI that names none.
pub const DEFAULT_HYPERVISOR: &str = "qemu-kvm";

/// The file that extends the catalogue when it is present.
pub const DEFAULT_CATALOGUE_FILE: &str = "/etc/virt-launcher/hypervisors.yaml";

const BUILT_IN: &str = include_str!("catalogue.yaml");

/// All hypervisors by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    hypervisors: BTreeMap<String, Entry>,
}

impl Catalogue {
    /// The catalogue of this binary.
    pub fn builtin() -> Result<Self, CatalogueError> {
        Catalogue::parse(BUILT_IN, Path::new("built in"))
    }

    /// The built-in catalogue with `file`'s entries over it; without `file`, those of the default file if it exists. An
    /// entry that names a built-in hypervisor, or an alias of it, changes what it gives; others are new.
    pub fn load(file: Option<&Path>) -> Result<Self, CatalogueError> {
        let mut catalogue = Catalogue::builtin()?;
        let path = file.unwrap_or(Path::new(DEFAULT_CATALOGUE_FILE));
        match std::fs::read_to_string(path) {
            Ok(text) => {
                catalogue.hypervisors = extend(catalogue.hypervisors, &text, path)?;
                catalogue.check(path)?;
            }
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(CatalogueError::Read { file: path.to_owned(), source }),
        }
        Ok(catalogue)
    }

    /// Reads a catalogue of whole entries and checks every one; `file` is for messages.
    pub fn parse(text: &str, file: &Path) -> Result<Self, CatalogueError> {
        let catalogue: Catalogue =
            serde_norway::from_str(text).map_err(|source| CatalogueError::Parse { file: file.to_owned(), source })?;
        catalogue.check(file)?;
        Ok(catalogue)
    }

    fn check(&self, file: &Path) -> Result<(), CatalogueError> {
        self.iter().try_for_each(|(name, entry)| check(name, entry, file))
    }

    /// The entry with this name, else with this alias, and its name.
    pub fn get(&self, name: &str) -> Result<(&str, &Entry), CatalogueError> {
        self.iter()
            .find(|(known, _)| *known == name)
            .or_else(|| self.iter().find(|(_, entry)| entry.aliases.iter().any(|alias| alias == name)))
            .ok_or_else(|| CatalogueError::Unknown { name: name.to_owned(), known: self.known() })
    }

    /// All entries in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.hypervisors.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    fn known(&self) -> String {
        let names: Vec<String> = self
            .iter()
            .map(|(name, entry)| match entry.aliases.is_empty() {
                true => name.to_owned(),
                false => format!("{name} (or {})", entry.aliases.join(", ")),
            })
            .collect();
        names.join(", ")
    }
}

/// A Kubernetes memory quantity as it stands in the catalogue: a whole number with a binary or decimal suffix.
fn is_quantity(text: &str) -> bool {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let suffix = &text[digits.len()..];
    !digits.is_empty()
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && matches!(suffix, "" | "k" | "M" | "G" | "Ki" | "Mi" | "Gi")
}

fn check(name: &str, entry: &Entry, file: &Path) -> Result<(), CatalogueError> {
    let fault = |field, problem: String| {
        Err(CatalogueError::Field { file: file.to_owned(), name: name.to_owned(), field, problem })
    };
    if let Err(error) = regex::Regex::new(&entry.vcpu_regex) {
        return fault("vcpuRegex", format!("not a regular expression: {error}"));
    }
    if entry.hypervisor_command_prefixes.is_empty() {
        return fault("hypervisorCommandPrefixes", "at least one is needed".into());
    }
    if entry.hypervisor_command_prefixes.iter().any(|prefix| prefix.is_empty() || prefix.contains('/')) {
        return fault(
            "hypervisorCommandPrefixes",
            "each is the beginning of an executable's name, without a path".into(),
        );
    }
    if !entry.libvirt_daemon.libvirt_daemon_executable.is_absolute() {
        return fault("libvirtDaemon.libvirtDaemonExecutable", "must be an absolute path".into());
    }
    if !matches!(entry.cloud_init_file_type.as_str(), "iso" | "raw") {
        return fault("cloudInitFileType", format!("{:?} is neither iso nor raw", entry.cloud_init_file_type));
    }
    for rule in &entry.launcher.features {
        if let Some(problem) = rule.fault() {
            return fault("launcher.features", format!("{}: {problem}", rule.subject()));
        }
    }
    let overheads = &entry.virt_launcher_overheads;
    for (field, value) in [
        ("virtLauncherOverheads.virtLauncherMonitorOverhead", &overheads.virt_launcher_monitor_overhead),
        ("virtLauncherOverheads.virtLauncherOverhead", &overheads.virt_launcher_overhead),
        ("virtLauncherOverheads.virtlogdOverhead", &overheads.virtlogd_overhead),
        ("virtLauncherOverheads.hypervisorDaemonOverhead", &overheads.hypervisor_daemon_overhead),
        ("virtLauncherOverheads.hypervisorOverhead", &overheads.hypervisor_overhead),
    ] {
        if !value.is_empty() && !is_quantity(value) {
            return fault(field, format!("{value:?} is not a quantity such as 25Mi"));
        }
    }
    Ok(())
}

/// The CRD draft, as the design has it.
/// All rules of a catalogue entry: its own first, then the built-in ones of its name.
pub fn features_of(name: &str, entry: &Entry) -> Result<Vec<Feature>, FeatureError> {
    let mut rules = entry.launcher.features.clone();
    rules.extend_from_slice(FeatureTable::builtin()?.of(name));
    Ok(rules)
}

#[cfg(test)]
pub(super) const DRAFT: &str = include_str!("draft.yaml");

#[cfg(test)]
mod tests {
    use super::*;

    fn error(from: &str, to: &str) -> String {
        assert!(DRAFT.contains(from), "{from:?}");
        Catalogue::parse(&DRAFT.replacen(from, to, 1), Path::new("x.yaml")).unwrap_err().to_string()
    }

    #[test]
    fn draft_parses_as_it_is() {
        let draft = Catalogue::parse(DRAFT, Path::new("draft.yaml")).unwrap();
        let builtin = Catalogue::builtin().unwrap();
        let (_, ours) = builtin.get("kvm").unwrap();
        let (name, theirs) = draft.get("kvm").unwrap();
        assert_eq!(name, "qemu-kvm");
        assert_eq!(
            Entry { launcher: theirs.launcher.clone(), ..ours.clone() },
            *theirs,
            "the built-in entry is the draft's"
        );
        let regex = regex::Regex::new(&theirs.vcpu_regex).unwrap();
        assert_eq!(regex.captures("CPU 12/KVM\n").unwrap().get(1).unwrap().as_str(), "12");
    }

    #[test]
    fn order_does_not_matter_and_optional_fields_have_defaults() {
        let least = "hypervisors:\n  lxc:\n    libvirtDaemon: { libvirtDaemonConfig: /a.conf, libvirtDaemonExecutable: /usr/sbin/virtlxcd }\n    \
                     hypervisorCommandPrefixes: [libvirt_lxc]\n    runtimeUser:\n      nonRoot: { libvirtUri: 'lxc:///system', pidDir: /run/libvirt/lxc }\n      \
                     root: { libvirtUri: 'lxc:///system', pidDir: /run/libvirt/lxc }\n    vcpuRegex: ^x$\n";
        let catalogue = Catalogue::parse(least, Path::new("lxc.yaml")).unwrap();
        let (_, entry) = catalogue.get("lxc").unwrap();
        assert_eq!((entry.disk_driver.as_str(), entry.cloud_init_file_type.as_str()), ("qemu", "iso"));
        assert!(!entry.should_run_privileged);
    }

    #[test]
    fn faults_name_file_entry_and_field() {
        for (from, to, parts) in [
            ("/KVM\\n$", "/KVM(\\n$", &["x.yaml", "qemu-kvm.vcpuRegex", "regular expression"][..]),
            ("[qemu-system, qemu-kvm]", "[]", &["hypervisorCommandPrefixes", "at least one"]),
            ("Executable: /usr/sbin/virtqemud", "Executable: virtqemud", &["libvirtDaemonExecutable", "absolute"]),
            ("FileType: iso", "FileType: cd", &["cloudInitFileType", "neither iso nor raw"]),
            ("100Mi", "100 MB", &["virtLauncherOverhead", "quantity"]),
            (
                "iso\n",
                "iso\n    launcher: {features: [{path: spec.a, level: needs-version}]}\n",
                &["launcher.features: spec.a: "],
            ),
            ("diskDriver", "diskDrivers", &["x.yaml", "unknown field `diskDrivers`"]),
            ("vcpuRegex: ^CPU", "# ^CPU", &["missing field `vcpuRegex`"]),
        ] {
            let text = error(from, to);
            for part in parts {
                assert!(text.contains(part), "{text} lacks {part}");
            }
        }
    }

    #[test]
    fn unknown_name_lists_the_known_ones() {
        let text = Catalogue::builtin().unwrap().get("xen").unwrap_err().to_string();
        assert!(
            text.contains("\"xen\"") && text.contains("qemu-kvm (or kvm)") && text.contains("cloud-hypervisor"),
            "{text}"
        );
    }

    #[test]
    fn file_that_is_named_must_be_there() {
        let folder = tempfile::tempdir().unwrap();
        let missing = Catalogue::load(Some(&folder.path().join("none.yaml"))).unwrap_err().to_string();
        assert!(missing.contains("none.yaml"), "{missing}");
    }
}
