//! The objects of a file, and the one that is a virtual machine.

use super::finding::{Finding, Severity, located};
use super::{ManifestError, Options};
use crate::yaml::{Content, Node};

/// A kind of object that becomes a VirtualMachineInstance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Instance,
    Machine,
    ReplicaSet,
    Pool,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Instance, Kind::Machine, Kind::ReplicaSet, Kind::Pool];

    /// The API's name, which is also the type's name in `fields.txt`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Instance => "VirtualMachineInstance",
            Kind::Machine => "VirtualMachine",
            Kind::ReplicaSet => "VirtualMachineInstanceReplicaSet",
            Kind::Pool => "VirtualMachinePool",
        }
    }

    /// Where the instance's template is.
    pub(super) fn template(self) -> &'static [&'static str] {
        match self {
            Kind::Instance => &[],
            Kind::Machine | Kind::ReplicaSet => &["spec", "template"],
            Kind::Pool => &["spec", "virtualMachineTemplate", "spec", "template"],
        }
    }

    /// Where the VirtualMachine's own specification is, of kinds that have one.
    pub(super) fn machine(self) -> Option<&'static [&'static str]> {
        match self {
            Kind::Machine => Some(&["spec"]),
            Kind::Pool => Some(&["spec", "virtualMachineTemplate", "spec"]),
            Kind::Instance | Kind::ReplicaSet => None,
        }
    }
}

/// An object of a file.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) node: Node,
    pub(super) kind: String,
}

impl Object {
    fn group(&self) -> Option<&str> {
        self.node.text_of("apiVersion")?.rsplit_once('/').map(|(group, _)| group)
    }

    /// The kind of virtual machine that it is. An object without apiVersion is taken for KubeVirt's.
    pub(super) fn machine(&self) -> Option<Kind> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == self.kind)?;
        let is_ours = match self.node.text_of("apiVersion") {
            None => true,
            Some(_) => self.group().is_some_and(|group| matches!(group, "kubevirt.io" | "pool.kubevirt.io")),
        };
        is_ours.then_some(kind)
    }

    pub(super) fn name(&self) -> &str {
        let metadata = self.node.get("metadata");
        let text = |key| metadata.and_then(|metadata| metadata.text_of(key));
        text("name").or_else(|| text("generateName")).unwrap_or_default()
    }

    /// `Secret lab/key (line 4)`.
    fn words(&self) -> String {
        let namespace = self.node.get("metadata").and_then(|metadata| metadata.text_of("namespace"));
        let namespace = namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let line = match self.node.place.line {
            0 => String::new(),
            line => format!(" (line {line})"),
        };
        format!("{} {namespace}{}{line}", self.kind, self.name())
    }
}

/// The objects of the documents, those of lists one by one.
pub(super) fn objects(documents: Vec<Node>, options: &Options<'_>) -> Result<Vec<Object>, ManifestError> {
    let mut objects = Vec::new();
    for document in documents.into_iter().filter(|document| document.content != Content::Null) {
        if !matches!(document.content, Content::Map(_)) {
            let problem = format!("the document is not an object, but a {}", document.describe());
            return Err(ManifestError::document(options, document.place, problem));
        }
        unpack(document, None, &mut objects, options)?;
    }
    Ok(objects)
}

fn unpack(
    node: Node,
    implied: Option<&str>,
    objects: &mut Vec<Object>,
    options: &Options<'_>,
) -> Result<(), ManifestError> {
    let kind = node.text_of("kind").or(implied).unwrap_or_default().to_owned();
    let items = node.get("items").filter(|_| kind.ends_with("List"));
    let Some(items) = items else {
        // An object without its kind is taken for an instance, if it can be one.
        let is_instance = kind.is_empty() && node.get("spec").is_some_and(|spec| spec.get("template").is_none());
        let kind = if is_instance { Kind::Instance.name().to_owned() } else { kind };
        objects.push(Object { node, kind });
        return Ok(());
    };
    let Content::List(items) = items.content.clone() else {
        return Err(ManifestError::document(
            options,
            items.place,
            "items: the items of a List must be a sequence".into(),
        ));
    };
    let element = kind.strip_suffix("List").filter(|kind| !kind.is_empty());
    for item in items {
        unpack(item, element, objects, options)?;
    }
    Ok(())
}

/// The virtual machine of a file and its place among the objects, with a word on what is not looked at.
pub(super) fn choose(
    objects: &[Object],
    options: &Options<'_>,
) -> Result<(usize, Kind, Option<Finding>), ManifestError> {
    let machines: Vec<(usize, Kind)> =
        objects.iter().enumerate().filter_map(|(index, object)| Some((index, object.machine()?))).collect();
    let at = |index: usize| objects.get(index);
    let list = |indices: &mut dyn Iterator<Item = usize>| {
        indices.filter_map(at).map(Object::words).collect::<Vec<_>>().join(", ")
    };
    let named = |index: usize| options.vm.is_none_or(|name| at(index).is_some_and(|object| object.name() == name));
    let chosen: Vec<(usize, Kind)> = machines.iter().copied().filter(|(index, _)| named(*index)).collect();
    let whole = crate::yaml::Place::default();
    let (index, kind) = match (chosen.as_slice(), options.vm) {
        ([one], _) => *one,
        ([], _) if machines.is_empty() => return Err(no_machine(objects, options)),
        ([], name) => {
            let problem = format!(
                "there is no virtual machine {:?}, but {}",
                name.unwrap_or_default(),
                list(&mut machines.iter().map(|machine| machine.0))
            );
            return Err(ManifestError::document(options, whole, problem));
        }
        (several, _) => {
            let problem = format!(
                "{} virtual machines: {}; choose one by its name{}",
                several.len(),
                list(&mut several.iter().map(|machine| machine.0)),
                if options.file.is_empty() { "" } else { " (--vm NAME)" }
            );
            return Err(ManifestError::document(options, whole, problem));
        }
    };
    // An instancetype is looked at where the machine names it.
    let is_other =
        |other: &usize| *other != index && at(*other).is_some_and(|object| !object.kind.ends_with("nstancetype"));
    let others = list(&mut (0..objects.len()).filter(is_other));
    let note =
        (!others.is_empty()).then(|| Finding::new(Severity::Warning, "", whole, format!("not looked at: {others}")));
    Ok((index, kind, note))
}

fn no_machine(objects: &[Object], options: &Options<'_>) -> ManifestError {
    let kinds = "VirtualMachineInstance nor VirtualMachine, VirtualMachineInstanceReplicaSet or VirtualMachinePool";
    let (place, problem) = match objects {
        [] => (Default::default(), "there is no document in it".to_owned()),
        [one] => {
            let group = one.node.text_of("apiVersion").map(|version| format!(" of {version}")).unwrap_or_default();
            let place = one.node.entry("kind").map_or(one.node.place, |entry| entry.place);
            (place, format!("kind: {:?}{group} is neither {kinds}", one.kind))
        }
        several => {
            let all: Vec<String> = several.iter().map(Object::words).collect();
            (
                Default::default(),
                format!("none of its objects is a {}: {}", kinds.replace(" nor ", ", "), all.join(", ")),
            )
        }
    };
    ManifestError::Document(located(options.file, place, &problem))
}
