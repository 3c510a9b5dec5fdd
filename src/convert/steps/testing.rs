//! For the tests of single steps: runs one on an empty document and shows what it has added, as XML on one line.

use serde_json::{Value, json};

use super::{Context, ConvertError};
use crate::convert::HostFacts;
use crate::domain::DomainSpec;

/// The function of a step.
pub(super) type Run = fn(&Context<'_>, &mut DomainSpec) -> Result<(), ConvertError>;

/// The VMI `ns/vm` with this `spec.domain`.
pub(super) fn vmi(domain: Value) -> Value {
    json!({"metadata": {"namespace": "ns", "name": "vm", "uid": "1-2"}, "spec": {"domain": domain}})
}

/// What the step adds to an empty document. `facts` has the keys of [`HostFacts`] that differ from their defaults.
/// An error has its field's path in front.
pub(super) fn run(step: Run, vmi: Value, facts: Value) -> Result<String, String> {
    let vmi = crate::vmi::parse(vmi.to_string().as_bytes()).unwrap();
    let facts: HostFacts = serde_json::from_value(facts).unwrap();
    let mut domain = DomainSpec::default();
    step(&Context::new(&vmi, &facts).unwrap(), &mut domain).map_err(|error| error.with_path())?;
    Ok(added(&domain))
}

/// [`run`] for a step that succeeds, of a `spec.domain` on a machine without anything special.
pub(super) fn written(step: Run, domain: Value) -> String {
    run(step, vmi(domain), json!({})).unwrap()
}

/// [`run`] for a step that fails, of a `spec.domain` on a machine without anything special.
pub(super) fn refused(step: Run, domain: Value) -> String {
    run(step, vmi(domain), json!({})).unwrap_err()
}

/// The lines of the document that an empty one does not have, without `<devices>` around devices; an element without
/// content as `<name/>`.
fn added(domain: &DomainSpec) -> String {
    let (empty, xml) = (DomainSpec::default().to_xml(), domain.to_xml());
    let mut empty: Vec<&str> = empty.lines().collect();
    let mut added = String::new();
    for line in xml.lines().filter(|line| !matches!(*line, "\t<devices>" | "\t</devices>")) {
        if let Some(place) = empty.iter().position(|other| *other == line) {
            empty.remove(place);
            continue;
        }
        let line = line.trim_start();
        match line.split_once("></") {
            Some((element, _)) if !element.contains('>') => added.push_str(&format!("{element}/>")),
            Some(_) | None => added.push_str(line),
        }
    }
    added
}
