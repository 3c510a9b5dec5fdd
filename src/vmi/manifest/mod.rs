//! Reads the files that people write, for every road that takes one: `ctl`, `STANDALONE_VMI`, `domain-xml`, `check`.
//!
//! Between such a file and the VMI that virt-handler sends lie kubectl, the API server and virt-controller. What they
//! make of it is done here, in their order: YAML as kubectl reads it ([`crate::yaml`]), the object that is a virtual
//! machine (`kinds`), the fields of the API (`schema`), the instance as virt-controller makes it (`instance`), the
//! defaults (`defaults`). Every error and warning has the file's own path and line.

mod defaults;
mod finding;
mod instance;
mod kinds;
mod schema;

use finding::located;
pub use finding::{Finding, Severity};

use serde_json::{Map, Value};

use super::VirtualMachineInstance;
use crate::yaml::{self, Content, Node, Place};
use instance::Origin;

/// How a file is read.
#[derive(Debug, Clone, Default)]
pub struct Options<'a> {
    /// Its name in messages; empty for a text that is not from a file.
    pub file: &'a str,
    /// The virtual machine that is meant, where there are several.
    pub vm: Option<&'a str>,
    /// Kubernetes' name of the machine's architecture; what an instance without one gets.
    pub host_arch: &'a str,
    /// Whether an instance that has no networks gets the pod network.
    pub pod_network: bool,
    /// Whether the object is taken as it is, without defaults and rules for what must be there: it went through an API
    /// server, as what virt-handler sends did.
    pub is_complete: bool,
    /// Name and namespace of an instance that has none.
    pub fallback: Option<(&'a str, &'a str)>,
    /// What becomes of a VirtualMachine whose instancetype is not in the file: whether its size is assumed.
    pub assumes_instancetype: bool,
}

/// Why a file cannot be used. Every line has the file's name, and the line where it is known.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ManifestError {
    /// The text or the document as a whole.
    #[error("{0}")]
    Document(String),
    /// Fields of it, one line for each.
    #[error("{}", .0.join("; "))]
    Fields(Vec<String>),
}

impl ManifestError {
    fn document(options: &Options<'_>, place: Place, problem: String) -> Self {
        ManifestError::Document(located(options.file, place, &problem))
    }

    /// One line for each thing that is wrong.
    pub fn lines(&self) -> &[String] {
        match self {
            ManifestError::Document(line) => std::slice::from_ref(line),
            ManifestError::Fields(lines) => lines,
        }
    }
}

/// A virtual machine from a file.
#[derive(Debug)]
pub struct Manifest {
    /// The instance, typed.
    pub vmi: VirtualMachineInstance,
    /// The instance with all its fields, also those that the launcher does not know.
    pub value: Value,
    /// What is to be said about the file though it can be used.
    pub warnings: Vec<Finding>,
    file: String,
    origin: Origin,
}

impl Manifest {
    /// Reads the virtual machine of a text in YAML or JSON.
    pub fn read(text: &str, options: &Options<'_>) -> Result<Self, ManifestError> {
        let documents = yaml::documents(text).map_err(|error| {
            let place = error.place;
            match options.file {
                "" => ManifestError::Document(error.to_string()),
                file => ManifestError::Document(format!("{file}:{}:{}: {}", place.line, place.column, error.problem)),
            }
        })?;
        let mut objects = kinds::objects(documents, options)?;
        let (index, kind, note) = kinds::choose(&objects, options)?;
        let root = objects.swap_remove(index).node;
        let mut findings: Vec<Finding> = note.into_iter().collect();
        schema::check(&root, kind.name(), !options.is_complete, &mut findings);
        let others: Vec<Value> = objects.iter().map(|object| object.node.to_value()).collect();
        let (origin, mut value) = instance::of(root, kind, &others, options, &mut findings);
        if !options.is_complete {
            instance::check_names(&value, &origin, &mut findings);
        }
        let mut warnings = refuse_errors(findings, options)?;
        if let (false, Some(instance)) = (options.is_complete, value.as_object_mut()) {
            defaults::add(instance, options);
        }
        let vmi = super::parse::from_value(value.clone()).map_err(|error| {
            let finding = match error {
                super::ParseError::Field { path, problem } => origin.finding(&path, problem),
                other => Finding::new(Severity::Error, "", Place::default(), other.to_string()),
            };
            ManifestError::Fields(vec![finding.located(options.file)])
        })?;
        warnings.sort_by_key(|finding| finding.place);
        Ok(Manifest { vmi, value, warnings, file: options.file.to_owned(), origin })
    }

    /// The path of one of the instance's fields in the file's own document: `spec.template.spec.domain` for `spec.domain`
    /// of a VirtualMachine.
    pub fn path(&self, path: &str) -> String {
        self.origin.path(path)
    }

    /// The line of a path of the file's own document, or of what it would stand in; `None` for a path without a field.
    pub fn line(&self, path: &str) -> Option<usize> {
        let line = if path.is_empty() { 0 } else { self.origin.place(path).line };
        (line > 0).then_some(line)
    }

    /// A message about the instance as one about the file: with its name, the line of the first field in the message, and
    /// the file's own paths.
    pub fn located(&self, message: &str) -> String {
        let (text, place) = self.origin.translate(message);
        located(&self.file, place.unwrap_or_default(), &text)
    }

    /// The same for a message that need not be about the instance: one that names no field stays as it is.
    pub fn located_if_field(&self, message: &str) -> String {
        match self.origin.translate(message) {
            (text, Some(place)) => located(&self.file, place, &text),
            (_, None) => message.to_owned(),
        }
    }

    /// The warnings, each as one line.
    pub fn warning_lines(&self) -> impl Iterator<Item = String> {
        self.warnings.iter().map(|finding| finding.located(&self.file))
    }
}

/// Reads the instance of a text whose object has all its defaults, as what virt-handler sends has.
pub fn parse_document(text: &str) -> Result<VirtualMachineInstance, ManifestError> {
    Manifest::read(text, &Options { is_complete: true, ..Options::default() }).map(|manifest| manifest.vmi)
}

/// The warnings, unless there are errors.
fn refuse_errors(mut findings: Vec<Finding>, options: &Options<'_>) -> Result<Vec<Finding>, ManifestError> {
    findings.sort_by_key(|finding| finding.place);
    let errors: Vec<String> = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| finding.located(options.file))
        .collect();
    if errors.is_empty() { Ok(findings) } else { Err(ManifestError::Fields(errors)) }
}

/// The object of a path in a document.
fn object_at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Map<String, Value>> {
    path.iter().try_fold(value, |value, key| value.get(*key))?.as_object()
}

/// The key's place of the innermost part of `path` that the file has, and the file's document otherwise.
fn place_of(root: &Node, path: &str) -> Place {
    let mut node = root;
    let mut place = root.place;
    let mut rest = path;
    while !rest.is_empty() {
        let step = match (&node.content, rest.strip_prefix('[')) {
            (Content::List(items), Some(tail)) => {
                let Some((index, tail)) = tail.split_once(']') else { break };
                let item = index.parse::<usize>().ok().and_then(|index| items.get(index));
                item.map(|item| (item, item.place, tail))
            }
            // The longest key that fits, since keys of annotations contain dots.
            (Content::Map(entries), None) => {
                let fits = |key: &str| {
                    rest.strip_prefix(key).is_some_and(|tail| tail.is_empty() || tail.starts_with(['.', '[']))
                };
                let fitting = entries.iter().rev().filter(|entry| fits(&entry.key));
                fitting
                    .max_by_key(|entry| entry.key.len())
                    .map(|entry| (&entry.value, entry.place, rest.get(entry.key.len()..).unwrap_or_default()))
            }
            _ => None,
        };
        let Some((next, at, tail)) = step else { break };
        (node, place) = (next, at);
        rest = tail.strip_prefix('.').unwrap_or(tail);
    }
    place
}

#[cfg(test)]
mod tests;
