//! `--explain`: which step made which element.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::domain::{DomainSpec, Part};

/// The document after one conversion step.
pub struct Stage {
    /// Name of the step.
    pub step: &'static str,
    /// The document as the step left it.
    pub document: DomainSpec,
}

/// One line per element, with the step that wrote it last; what lies below an element and comes from the same step is
/// not listed again.
pub fn explanation(stages: &[Stage]) -> String {
    let mut steps: HashMap<Part, &str> = HashMap::new();
    for stage in stages {
        let parts = stage.document.parts();
        let mut now = HashMap::with_capacity(parts.len());
        for part in parts {
            let step = steps.get(&part).copied().unwrap_or(stage.step);
            now.insert(part, step);
        }
        steps = now;
    }
    let parts = stages.last().map(|stage| stage.document.parts()).unwrap_or_default();
    let width = steps.values().map(|step| step.len()).max().unwrap_or(0);
    let mut text = String::new();
    let mut above: Vec<(String, &str)> = Vec::new();
    for part in parts {
        let step = steps.get(&part).copied().unwrap_or("");
        above.retain(|(path, _)| part.path.strip_prefix(path.as_str()).is_some_and(|rest| rest.starts_with('/')));
        let told = above.last().is_some_and(|(_, told)| *told == step);
        if !told && !part.path.is_empty() {
            let _ = match part.value.as_str() {
                "" => writeln!(text, "{step:width$}  {}", part.path),
                value => writeln!(text, "{step:width$}  {} = {value}", part.path),
            };
            above.push((part.path, step));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn element_is_the_steps_that_made_it_and_a_change_the_steps_that_changed_it() {
        let stage = |step: &'static str, xml: &str| Stage {
            step,
            document: DomainSpec::from_xml(&format!("<domain>{xml}</domain>")).unwrap(),
        };
        let text = explanation(&[
            stage("disks", "<devices><disk device='disk'><driver name='qemu'/></disk></devices>"),
            stage("cache", "<devices><disk device='disk'><driver name='qemu' cache='none'/></disk></devices>"),
            stage(
                "name",
                "<name>x</name><devices><disk device='disk'><driver name='qemu' cache='none'/></disk></devices>",
            ),
        ]);
        let lines: Vec<&str> = text.lines().filter(|line| !line.contains("metadata")).collect();
        assert!(lines.contains(&"name   name = x"), "{text}");
        assert!(lines.contains(&"disks  devices"), "{text}");
        assert!(lines.contains(&"cache  devices/disk[0]/driver/@cache = none"), "{text}");
        assert_eq!(lines.iter().filter(|line| line.contains("devices")).count(), 2, "{text}");
    }
}
