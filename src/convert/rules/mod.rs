//! What can be seen in a VMI alone to be refused later, by libvirt, by QEMU at its start, or by a later part of this
//! launcher: said first, all of it at once, each with its field.
//!
//! A rule stands here only if what it refuses cannot run, or could run only as something else than what was asked for
//! (two volumes of one name, a device that is disk and CD-ROM); the API refuses those as well. `tests/it/refusals` puts the
//! values to the real libvirt and QEMU, in both directions. What the conversion itself refuses has its text there
//! (contract/domain-xml-qemu.md 15) and no rule here.

mod devices;
mod disks;
mod firmware;
mod networks;
mod placement;
mod processors;
mod volumes;

use super::arch::Arch;
use super::error::ConvertError;
use super::facts::{HostFacts, Profile};
use super::{Defines, draft_of};
use crate::vmi::VirtualMachineInstance;

/// Everything that a VMI is refused for under these facts, with the first error of its conversion, if any, in front.
pub fn problems(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Vec<ConvertError> {
    let mut found = of_rules(vmi, facts, false);
    let (draft, draft_facts) = draft_of(vmi, facts);
    if let Err(error) = Defines::new(&draft, &draft_facts) {
        found.retain(|known| !concern_the_same(known, &error));
        found.insert(0, error);
    }
    found
}

/// What a VMI whose domain runs is refused for before anything of the domain is changed. The conversion, which knows the
/// live devices, has its own errors ([`super::convert_for_running`]).
pub fn problems_of_running(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Vec<ConvertError> {
    of_rules(vmi, facts, true)
}

fn of_rules(vmi: &VirtualMachineInstance, facts: &HostFacts, is_running: bool) -> Vec<ConvertError> {
    let mut rules = Rules { vmi, facts, arch: Arch::of(vmi, facts), is_running, found: Vec::new() };
    processors::check(&mut rules);
    volumes::check(&mut rules);
    networks::check(&mut rules);
    disks::check(&mut rules);
    if facts.hypervisor.profile == Profile::Qemu {
        firmware::check(&mut rules);
        devices::check(&mut rules);
        placement::check(&mut rules);
    }
    rules.found
}

/// One text for all problems: a single one as it is, since other components know some texts; several with their fields.
pub fn told(problems: &[ConvertError]) -> Option<String> {
    match problems {
        [] => None,
        [one] => Some(one.to_string()),
        many => {
            let texts: Vec<String> = many.iter().map(ConvertError::with_path).collect();
            Some(format!("{} problems: {}", many.len(), texts.join("; ")))
        }
    }
}

/// Whether one field is the other's or lies in it.
fn concern_the_same(one: &ConvertError, other: &ConvertError) -> bool {
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    match (one.path(), other.path()) {
        (Some(one), Some(other)) => within(one, other) || within(other, one),
        _ => false,
    }
}

/// What the rules look at, and what they found.
struct Rules<'a> {
    vmi: &'a VirtualMachineInstance,
    facts: &'a HostFacts,
    arch: Arch,
    /// The domain runs: what was there at its define has been looked at then.
    is_running: bool,
    found: Vec<ConvertError>,
}

impl Rules<'_> {
    fn refuse(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.found.push(ConvertError::field(path, reason));
    }

    /// Refuses a text that is not one of `known`.
    fn one_of(&mut self, path: impl Into<String>, text: &str, known: &[&str]) {
        if !known.contains(&text) {
            self.refuse(path, format!("{} is none of {}", shown(text), known.join(", ")));
        }
    }

    /// Refuses each name that an earlier element of the list has; `path` is the list's.
    fn unique<'n>(&mut self, path: &str, field: &str, names: impl Iterator<Item = &'n str>) {
        let mut seen: Vec<&str> = Vec::new();
        for (index, name) in names.enumerate() {
            match seen.iter().position(|known| *known == name) {
                Some(first) => self.refuse(
                    format!("{path}[{index}].{field}"),
                    format!("{} is the {field} of {path}[{first}] too", shown(name)),
                ),
                None if name.is_empty() => self.refuse(format!("{path}[{index}].{field}"), "is missing"),
                None => {}
            }
            seen.push(name);
        }
    }

    /// The machine type; empty for the architecture's default.
    fn machine(&self) -> &str {
        self.vmi.spec.domain.machine.as_ref().map(|machine| machine.r#type.as_str()).unwrap_or_default()
    }
}

/// A text for a message: quoted, and not at length.
fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{:?}… ({} bytes)", text.get(..cut).unwrap_or_default(), text.len()),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests;
