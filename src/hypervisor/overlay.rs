//! A catalogue file over the built-in catalogue: what the file says of a built-in hypervisor is laid over its entry, and
//! what it leaves out stays.

use std::collections::BTreeMap;
use std::path::Path;

use serde_norway::{Mapping, Value};

use super::error::CatalogueError;
use super::schema::Entry;

/// The entries `text` makes of `builtin`.
pub(super) fn extend(
    builtin: BTreeMap<String, Entry>,
    text: &str,
    file: &Path,
) -> Result<BTreeMap<String, Entry>, CatalogueError> {
    let fault = |path: String, problem: String| CatalogueError::Document { file: file.to_owned(), path, problem };
    let document: Value =
        serde_norway::from_str(text).map_err(|source| CatalogueError::Parse { file: file.to_owned(), source })?;
    let Value::Mapping(document) = document else {
        return Err(fault(String::new(), "must be a map with the key hypervisors".into()));
    };
    let mut entries = builtin.clone();
    let mut changed = BTreeMap::new();
    for (key, hypervisors) in document {
        if key.as_str() != Some("hypervisors") {
            return Err(fault(printed(&key), "unknown field, the only one is hypervisors".into()));
        }
        let Value::Mapping(hypervisors) = hypervisors else {
            return Err(fault("hypervisors".into(), "must be a map of hypervisors by name".into()));
        };
        for (key, entry) in hypervisors {
            let path = format!("hypervisors.{}", printed(&key));
            let Value::String(key) = key else { return Err(fault(path, "the name must be a text".into())) };
            let name = names(&builtin, &key);
            if let Some(other) = changed.insert(name.clone(), key.clone()) {
                return Err(fault(path, format!("{other} and {key} are names of one hypervisor, {name}")));
            }
            let made = laid_over(builtin.get(&name), entry).and_then(|made| {
                serde_path_to_error::deserialize(made).map_err(|error| {
                    let at = error.path().to_string();
                    (if at == "." { String::new() } else { at }, error.into_inner().to_string())
                })
            });
            let made: Entry = made
                .map_err(|(at, problem)| fault(if at.is_empty() { path } else { format!("{path}.{at}") }, problem))?;
            entries.insert(name, made);
        }
    }
    if changed.is_empty() {
        return Err(fault("hypervisors".into(), "the list is empty".into()));
    }
    settle_aliases(&builtin, &mut entries, &changed).map_err(|(name, problem)| CatalogueError::Field {
        file: file.to_owned(),
        name,
        field: "aliases",
        problem,
    })?;
    Ok(entries)
}

/// The name of the built-in hypervisor that `key` names, else `key` itself.
fn names(builtin: &BTreeMap<String, Entry>, key: &str) -> String {
    let named = |(name, entry): &(&String, &Entry)| *name == key || entry.aliases.iter().any(|alias| alias == key);
    builtin.iter().find(named).map_or(key, |(name, _)| name).to_owned()
}

/// A key for messages.
fn printed(key: &Value) -> String {
    match key {
        Value::String(text) => text.clone(),
        other => format!("{other:?}"),
    }
}

/// `entry` over the built-in one, as a document; an error has the path below the entry.
fn laid_over(builtin: Option<&Entry>, mut entry: Value) -> Result<Value, (String, String)> {
    let unreadable = |error: serde_norway::Error| (String::new(), error.to_string());
    entry.apply_merge().map_err(unreadable)?;
    let Some(builtin) = builtin else { return Ok(entry) };
    let mut made = serde_norway::to_value(builtin).map_err(unreadable)?;
    if names_another_daemon(builtin, &entry) {
        // They follow the executable, unless the file names them as well.
        for field in ["socket", "shippedDaemonConfig"] {
            if let Some(Value::Mapping(launcher)) = made.get_mut("launcher") {
                launcher.remove(field);
            }
        }
    }
    lay_over(&mut made, entry);
    Ok(made)
}

fn names_another_daemon(builtin: &Entry, entry: &Value) -> bool {
    let named = entry.get("libvirtDaemon").and_then(|daemon| daemon.get("libvirtDaemonExecutable"));
    let known = builtin.libvirt_daemon.libvirt_daemon_executable.to_str();
    named.and_then(Value::as_str).is_some_and(|named| Some(named) != known)
}

/// Maps are laid over key by key, everything else is replaced; a key without a value counts as left out.
fn lay_over(base: &mut Value, over: Value) {
    match over {
        Value::Null => {}
        Value::Mapping(over) => {
            if !base.is_mapping() {
                *base = Value::Mapping(Mapping::new());
            }
            let Value::Mapping(base) = base else { return };
            for (key, value) in over {
                lay_over(base.entry(key).or_insert(Value::Null), value);
            }
        }
        other => *base = other,
    }
}

/// Every name leads to one hypervisor: a built-in one keeps its aliases, which virt-controller may pass, unless the file
/// gives them to another. `changed` has the entries of the file, with the names by which it calls them.
fn settle_aliases(
    builtin: &BTreeMap<String, Entry>,
    entries: &mut BTreeMap<String, Entry>,
    changed: &BTreeMap<String, String>,
) -> Result<(), (String, String)> {
    let builtin = |name: &str| builtin.get(name).map(|entry| entry.aliases.as_slice()).unwrap_or_default();
    let mut claimed: BTreeMap<&String, &String> = BTreeMap::new();
    for name in changed.keys() {
        let aliases = entries.get(name).map(|entry| entry.aliases.as_slice()).unwrap_or_default();
        for alias in aliases.iter().filter(|alias| !builtin(name).contains(alias)) {
            if alias != name && entries.contains_key(alias) {
                return Err((name.clone(), format!("{alias:?} is the name of another hypervisor")));
            }
            if let Some(other) = claimed.insert(alias, name).filter(|other| *other != name) {
                return Err((name.clone(), format!("{alias:?} is an alias of {other} as well")));
            }
        }
    }
    let claimed: BTreeMap<String, String> =
        claimed.into_iter().map(|(alias, name)| (alias.clone(), name.clone())).collect();
    for (name, entry) in entries {
        for alias in builtin(name) {
            if !entry.aliases.contains(alias) {
                entry.aliases.push(alias.clone());
            }
        }
        entry.aliases.retain(|alias| claimed.get(alias).is_none_or(|owner| owner == name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Catalogue;
    use super::*;

    fn extended(text: &str) -> Result<Catalogue, CatalogueError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.yaml");
        std::fs::write(&file, text).unwrap();
        Catalogue::load(Some(&file))
    }

    fn builtin(name: &str) -> Entry {
        Catalogue::builtin().unwrap().get(name).unwrap().1.clone()
    }

    #[test]
    fn what_the_file_leaves_out_of_a_built_in_entry_stays() {
        let catalogue =
            extended("hypervisors:\n  qemu-kvm:\n    virtLauncherOverheads: { virtLauncherOverhead: 64Mi }\n").unwrap();
        let (name, entry) = catalogue.get("kvm").unwrap();
        let mut expected = builtin("kvm");
        expected.virt_launcher_overheads.virt_launcher_overhead = "64Mi".into();
        assert_eq!((name, entry), ("qemu-kvm", &expected));
        assert_eq!(catalogue.get("ch").unwrap().1, &builtin("ch"));
        // By an alias, as deep as the file goes, with a section that is empty.
        let text = "hypervisors:\n  ch:\n    runtimeUser: { root: { pidDir: /x } }\n    launcher:\n      \
                    daemonRestart: { limit: 7 }\n    aliases:\n";
        let catalogue = extended(text).unwrap();
        let mut expected = builtin("ch");
        expected.runtime_user.root.pid_dir = "/x".into();
        expected.launcher.daemon_restart.limit = 7;
        assert_eq!(catalogue.get("cloud-hypervisor").unwrap().1, &expected);
        assert_eq!(catalogue.get("ch").unwrap().0, "cloud-hypervisor");
    }

    #[test]
    fn draft_keeps_what_it_does_not_know() {
        let draft = super::super::catalogue::DRAFT;
        for draft in
            [draft.to_owned(), draft.replace("    aliases: [kvm]\n", ""), draft.replace("  qemu-kvm:", "  kvm:")]
        {
            let catalogue = extended(&draft).unwrap();
            let (name, entry) = catalogue.get("kvm").unwrap();
            assert_eq!((name, entry), ("qemu-kvm", &builtin("kvm")), "{draft}");
        }
    }

    #[test]
    fn every_name_leads_to_one_hypervisor() {
        let new = "libvirtDaemon: { libvirtDaemonConfig: /a.conf, libvirtDaemonExecutable: /usr/sbin/x }, \
                   hypervisorCommandPrefixes: [x], runtimeUser: { root: { libvirtUri: x, pidDir: /x }, \
                   nonRoot: { libvirtUri: x, pidDir: /x } }, vcpuRegex: x";
        let catalogue =
            extended(&format!("hypervisors: {{ aaa: {{ aliases: [kvm], {new} }}, qemu-kvm: {{}} }}")).unwrap();
        assert_eq!(catalogue.get("kvm").unwrap().0, "aaa", "the file gives the alias away");
        assert!(catalogue.get("qemu-kvm").is_ok());
        let catalogue = extended("hypervisors: { qemu-kvm: { aliases: [q] } }").unwrap();
        assert_eq!(["q", "kvm"].map(|name| catalogue.get(name).unwrap().0), ["qemu-kvm"; 2]);
        for (text, word) in [
            (format!("hypervisors: {{ a: {{ aliases: [qemu-kvm], {new} }} }}"), "a.aliases: \"qemu-kvm\" is the name"),
            (
                format!("hypervisors: {{ a: {{ aliases: [z], {new} }}, b: {{ aliases: [z], {new} }} }}"),
                "b.aliases: \"z\" is an alias of a",
            ),
            ("hypervisors: { kvm: {}, qemu-kvm: {} }".to_owned(), "kvm and qemu-kvm are names of one"),
        ] {
            let error = extended(&text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn another_daemon_brings_its_own_socket() {
        let daemon = "libvirtDaemon: { libvirtDaemonExecutable: /usr/sbin/libvirtd }";
        let catalogue = extended(&format!("hypervisors: {{ kvm: {{ {daemon} }} }}")).unwrap();
        let launcher = &catalogue.get("kvm").unwrap().1.launcher;
        assert_eq!((&launcher.socket, &launcher.shipped_daemon_config), (&None, &None));
        assert!(launcher.virtlogd.is_some());
        let named = extended(&format!("hypervisors: {{ kvm: {{ {daemon}, launcher: {{ socket: /s }} }} }}")).unwrap();
        assert_eq!(named.get("kvm").unwrap().1.launcher.socket.as_deref(), Some(Path::new("/s")));
    }

    #[test]
    fn faults_are_named_by_file_and_path() {
        for (text, words) in [
            ("", &["x.yaml", "must be a map"][..]),
            ("hypervisors:\n", &["hypervisors: must be a map"]),
            ("hypervisors: {}\n", &["hypervisors: the list is empty"]),
            ("hypervisors: [qemu-kvm]\n", &["hypervisors: must be a map"]),
            ("kind: X\nhypervisors: {}\n", &["x.yaml: kind: unknown field"]),
            ("hypervisors: { kvm: { vcpuRegexx: a } }", &["hypervisors.kvm", "unknown field `vcpuRegexx`"]),
            (
                "hypervisors: { kvm: { launcher: { hotPlug: often } } }",
                &["hypervisors.kvm.launcher.hotPlug: invalid type"],
            ),
            ("hypervisors: { kvm: { vcpuRegex: '(' } }", &["hypervisors.qemu-kvm.vcpuRegex: not a regular"]),
            ("hypervisors: { new: { vcpuRegex: a } }", &["hypervisors.new: missing field"]),
            ("hypervisors: { kvm: {}, kvm: {} }", &["x.yaml", "duplicate"]),
            ("hypervisors: {\n", &["x.yaml", "line"]),
        ] {
            let error = extended(text).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{text}: {error}");
            }
        }
    }
}
