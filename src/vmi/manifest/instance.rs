//! The instance that virt-controller makes of an object, and the way back from its fields to those of the file.

use serde_json::{Map, Value, json};

use super::finding::{Finding, Severity};
use super::kinds::Kind;
use super::{Options, object_at, place_of};
use crate::yaml::{Node, Place};

/// Where an instance comes from.
#[derive(Debug)]
pub(super) struct Origin {
    root: Node,
    kind: Kind,
}

/// The instance of an object: the template under the object's own name (virt-controller's `SetupVMIFromVM`), or the VMI.
pub(super) fn of(
    root: Node,
    kind: Kind,
    others: &[Value],
    options: &Options<'_>,
    findings: &mut Vec<Finding>,
) -> (Origin, Value) {
    let whole = root.to_value();
    let origin = Origin { root, kind };
    let own = |key: &str| whole.get("metadata").and_then(|metadata| metadata.get(key)).filter(|value| !value.is_null());
    let mut instance = match kind {
        Kind::Instance => whole.as_object().cloned().unwrap_or_default(),
        Kind::Machine | Kind::ReplicaSet | Kind::Pool => {
            let template = object_at(&whole, kind.template());
            if template.is_none() && !findings.iter().any(|finding| finding.severity == Severity::Error) {
                let path = kind.template().join(".");
                let place = place_of(&origin.root, &path);
                findings.push(Finding::new(Severity::Error, path, place, "missing: there is no instance without it"));
            }
            let part = |key: &str| template.and_then(|template| template.get(key)).and_then(Value::as_object).cloned();
            let mut metadata = part("metadata").unwrap_or_default();
            for key in ["name", "namespace", "generateName", "uid", "ownerReferences"] {
                metadata.remove(key);
            }
            for key in ["name", "namespace", "generateName"] {
                if let Some(value) = own(key) {
                    metadata.insert(key.to_owned(), value.clone());
                }
            }
            let spec = part("spec").unwrap_or_default();
            let fixed = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance"});
            let mut instance = fixed.as_object().cloned().unwrap_or_default();
            instance.insert("metadata".to_owned(), Value::Object(metadata));
            instance.insert("spec".to_owned(), Value::Object(spec));
            instance
        }
    };
    name(&mut instance, &origin, options, findings);
    if let Some(machine) = kind.machine().and_then(|path| object_at(&whole, path).map(|machine| (path, machine))) {
        apply_matchers(machine, &mut instance, others, &origin, options, findings);
    }
    (origin, Value::Object(instance))
}

/// Name and namespace, as the API server and the controllers give them.
fn name(instance: &mut Map<String, Value>, origin: &Origin, options: &Options<'_>, findings: &mut Vec<Finding>) {
    let metadata = instance.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    let Some(metadata) = metadata.as_object_mut() else { return };
    let text = |metadata: &Map<String, Value>, key: &str| {
        metadata.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let is_absent = |metadata: &Map<String, Value>, key: &str| {
        metadata.get(key).is_none_or(|value| value.is_null() || value.as_str().is_some_and(str::is_empty))
    };
    if is_absent(metadata, "name") {
        let generated = text(metadata, "generateName").map(|prefix| prefix.trim_end_matches(['-', '.']).to_owned());
        let fallback = options.fallback.map(|(name, _)| name.to_owned()).filter(|name| !name.is_empty());
        if let Some(name) = generated.filter(|name| !name.is_empty()) {
            let problem = format!("the cluster adds random letters; here the name is {name:?}");
            findings.push(origin.warning("metadata.generateName", problem));
            metadata.insert("name".to_owned(), name.into());
        } else if let Some(name) = fallback {
            metadata.insert("name".to_owned(), name.into());
        }
    } else if origin.kind == Kind::Pool {
        // A pool numbers its machines from 0.
        let name = format!("{}-0", text(metadata, "name").unwrap_or_default());
        metadata.insert("name".to_owned(), name.into());
    }
    if is_absent(metadata, "namespace") {
        let fallback = options.fallback.map(|(_, namespace)| namespace).filter(|namespace| !namespace.is_empty());
        metadata.insert("namespace".to_owned(), fallback.unwrap_or("default").into());
    }
}

/// Names as the API server requires them: `metadata.name` must be there and a DNS subdomain.
pub(super) fn check_names(instance: &Value, origin: &Origin, findings: &mut Vec<Finding>) {
    let name = instance.pointer("/metadata/name");
    let problem = match name.map(|name| name.as_str()) {
        // The schema reports another type.
        Some(None) if !name.is_some_and(Value::is_null) => return,
        None | Some(None) => "missing: the API server requires it".to_owned(),
        Some(Some(name)) if is_subdomain(name) => return,
        Some(Some(name)) => format!(
            "{name:?} must consist of lower case letters, digits, '-' and '.', and begin and end with a letter or digit \
             (at most 253 characters)"
        ),
    };
    findings.push(origin.finding("metadata.name", problem));
}

fn is_subdomain(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// An instancetype sets the size of a VirtualMachine, a preference what it likes. Both are looked up in the cluster; an
/// instancetype that is in the same file is applied.
fn apply_matchers(
    (path, machine): (&[&str], &Map<String, Value>),
    instance: &mut Map<String, Value>,
    others: &[Value],
    origin: &Origin,
    options: &Options<'_>,
    findings: &mut Vec<Finding>,
) {
    let path = path.join(".");
    let named = |key: &str| {
        let matcher = machine.get(key)?.as_object()?;
        let name = ["name", "inferFromVolume"].into_iter().find_map(|key| matcher.get(key)?.as_str())?;
        Some((name.to_owned(), place_of(&origin.root, &format!("{path}.{key}"))))
    };
    if let Some((name, place)) = named("preference") {
        let problem = format!("{name:?} is looked up in the cluster; what it prefers is not known here");
        findings.push(Finding::new(Severity::Warning, format!("{path}.preference"), place, problem));
    }
    let Some((name, place)) = named("instancetype") else { return };
    let path = format!("{path}.instancetype");
    let is_it = |object: &&Value| {
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        matches!(kind, "VirtualMachineInstancetype" | "VirtualMachineClusterInstancetype")
            && object.pointer("/metadata/name").and_then(Value::as_str) == Some(&name)
    };
    let spec = instance.get_mut("spec").and_then(Value::as_object_mut);
    let Some(domain) = spec.map(|spec| spec.entry("domain").or_insert_with(|| json!({}))) else { return };
    if let Some(kind) = others.iter().find(is_it).and_then(|object| object.get("spec")) {
        instancetype(kind, domain);
        return;
    }
    if domain.pointer("/memory/guest").is_some() || domain.pointer("/resources/requests/memory").is_some() {
        let problem = format!("{name:?} is looked up in the cluster; the file's own CPUs and memory are taken");
        findings.push(Finding::new(Severity::Warning, path, place, problem));
    } else if options.assumes_instancetype {
        let problem = format!("{name:?} is looked up in the cluster; assumed 1 vCPU and 1Gi of memory");
        findings.push(Finding::new(Severity::Warning, path, place, problem));
        merge(domain, &json!({"cpu": {"sockets": 1, "cores": 1, "threads": 1}, "memory": {"guest": "1Gi"}}));
    } else {
        let problem = format!(
            "{name:?} is looked up in the cluster, which the launcher cannot do; put the instancetype's object into the \
             file, or CPUs and memory into {}",
            origin.path("spec.domain")
        );
        findings.push(Finding::new(Severity::Error, path, place, problem));
    }
}

/// What an instancetype sets in a domain (KubeVirt's `pkg/instancetype/apply`): vCPUs become sockets.
fn instancetype(kind: &Value, domain: &mut Value) {
    let at = |pointer: &str| kind.pointer(pointer).cloned().unwrap_or_default();
    let mut set = json!({
        "cpu": {"sockets": at("/cpu/guest"), "cores": 1, "threads": 1},
        "memory": {"guest": at("/memory/guest")},
    });
    for (own, theirs) in [
        ("/cpu/model", "model"),
        ("/cpu/dedicatedCPUPlacement", "dedicatedCpuPlacement"),
        ("/cpu/isolateEmulatorThread", "isolateEmulatorThread"),
        ("/cpu/numa", "numa"),
        ("/cpu/realtime", "realtime"),
        ("/cpu/maxSockets", "maxSockets"),
    ] {
        if let Some(value) = kind.pointer(own) {
            merge(&mut set, &json!({"cpu": {theirs: value}}));
        }
    }
    for key in ["hugepages", "maxGuest"] {
        if let Some(value) = kind.pointer(&format!("/memory/{key}")) {
            merge(&mut set, &json!({"memory": {key: value}}));
        }
    }
    for key in ["gpus", "hostDevices"] {
        if let Some(value) = kind.get(key) {
            merge(&mut set, &json!({"devices": {key: value}}));
        }
    }
    for key in ["ioThreadsPolicy", "ioThreads", "launchSecurity"] {
        if let Some(value) = kind.get(key) {
            merge(&mut set, &json!({key: value}));
        }
    }
    merge(domain, &set);
}

/// Puts `new` into `value`, object by object.
fn merge(value: &mut Value, new: &Value) {
    match (value, new) {
        (Value::Object(object), Value::Object(new)) => {
            for (key, new) in new {
                merge(object.entry(key.clone()).or_insert(Value::Null), new);
            }
        }
        (value, new) => *value = new.clone(),
    }
}

impl Origin {
    /// An error about one of the instance's fields.
    pub(super) fn finding(&self, path: &str, problem: String) -> Finding {
        let path = self.path(path);
        let place = place_of(&self.root, &path);
        Finding::new(Severity::Error, path, place, problem)
    }

    fn warning(&self, path: &str, problem: String) -> Finding {
        Finding { severity: Severity::Warning, ..self.finding(path, problem) }
    }

    /// Where a path of the file's own document stands.
    pub(super) fn place(&self, path: &str) -> Place {
        place_of(&self.root, path)
    }

    /// The file's path of one of the instance's fields.
    pub(super) fn path(&self, path: &str) -> String {
        let template = self.kind.template();
        let is_own = ["metadata.name", "metadata.namespace", "metadata.generateName", "metadata.uid", "status"]
            .iter()
            .any(|own| path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '['])));
        if template.is_empty() || is_own || path.is_empty() {
            return path.to_owned();
        }
        format!("{}.{path}", template.join("."))
    }

    /// A message with the file's paths in it, and the place of the first of them.
    pub(super) fn translate(&self, message: &str) -> (String, Option<Place>) {
        let mut text = String::with_capacity(message.len());
        let mut place = None;
        let mut rest = message;
        while let Some((before, path, after)) = next_path(rest) {
            let own = self.path(path);
            place.get_or_insert_with(|| place_of(&self.root, &own));
            text.push_str(before);
            text.push_str(&own);
            rest = after;
        }
        text.push_str(rest);
        (text, place)
    }
}

/// The first field path in a text, with what stands before and after it.
fn next_path(text: &str) -> Option<(&str, &str, &str)> {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let begins = |at: usize| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        before.is_none_or(|c| !is_inner(c) && c != '"' && c != '\'')
    };
    let starts = ["spec.", "metadata.", "status."].into_iter().flat_map(|root| text.match_indices(root));
    let start = starts.map(|(at, _)| at).filter(|at| begins(*at)).min()?;
    let tail = text.get(start..)?;
    let end = tail.find(|c: char| !is_inner(c) && c != '[' && c != ']');
    let path = tail.get(..end.unwrap_or(tail.len()))?.trim_end_matches(['.', '/', '-']);
    Some((text.get(..start)?, path, tail.get(path.len()..)?))
}
