//! What a VMI is refused for: `check` lists it and `domain-xml` says it, both by this one function, whose second half is the
//! launcher's own before a define.

use crate::convert::{self, ConvertError, Defines, HostFacts};
use crate::hypervisor::{Entry, Finding, Level, Verdict, Version, features_of, host_architecture};
use crate::vmi::VirtualMachineInstance;

/// The hypervisor's rules, and what libvirt, QEMU or the conversion would refuse under these facts.
pub(super) fn verdict(
    (name, entry): (&str, &Entry),
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    libvirt: Option<Version>,
) -> Result<Verdict, String> {
    let rules = features_of(name, entry).map_err(|error| error.to_string())?;
    let mut verdict = Verdict::of(name, &rules, vmi, host_architecture(), libvirt);
    let mut problems = convert::problems(vmi, facts);
    if problems.is_empty() {
        // The launcher asks before the disks' files are there; here they are known or assumed.
        problems.extend(Defines::new(vmi, facts).err());
    }
    for problem in problems {
        let (path, reason) = match problem {
            ConvertError::Field { path, reason } | ConvertError::At { path, text: reason } => (path, reason),
            ConvertError::Known(text) => (String::new(), text),
        };
        add(&mut verdict, path, reason);
    }
    Ok(verdict)
}

/// Adds a refusal, unless its field is refused already.
pub(super) fn add(verdict: &mut Verdict, path: String, reason: String) {
    if !verdict.refused().any(|finding| path.starts_with(&finding.path)) {
        let (value, level) = (serde_json::Value::Null, Level::Unsupported);
        verdict.findings.push(Finding { path, value, level, needs: None, reason, refused: true });
    }
}

/// A refusal as a line: the field and the reason.
pub(super) fn line(finding: &Finding) -> String {
    match finding.path.as_str() {
        "" => finding.reason.clone(),
        path => format!("{path}: {}", finding.reason),
    }
}
