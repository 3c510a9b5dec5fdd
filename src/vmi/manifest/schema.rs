//! A file against the fields of the API: types, required fields, unknown fields, keys that are there twice.
//!
//! `fields.txt` has the fields; what the launcher itself does not use is checked all the same, as the API server checks it.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::finding::{Finding, Severity};
use crate::vmi::Quantity;
use crate::yaml::{Content, Entry, Node};

/// One line for each type of the API; the first lines say what the letters mean.
const FIELDS: &str = include_str!("fields.txt");
/// How far below a type a misplaced field is searched for.
const SEARCH_DEPTH: usize = 3;

type Type = Vec<Field>;

#[derive(Debug, Clone, Copy)]
struct Field {
    name: &'static str,
    required: bool,
    kind: &'static str,
}

static TYPES: LazyLock<HashMap<&'static str, Type>> = LazyLock::new(|| {
    let lines = FIELDS.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.filter_map(field).collect()))
        })
        .collect()
});

fn field(word: &'static str) -> Option<Field> {
    let (name, kind) = word.split_once(':')?;
    let required = name.ends_with('!');
    Some(Field { name: name.trim_end_matches('!'), required, kind })
}

/// Checks an object of `kind`, such as `VirtualMachine`; a kind that is not in `fields.txt` is not checked.
/// `requires` says whether the fields that the API server requires must be there.
pub(super) fn check(object: &Node, kind: &'static str, requires: bool, findings: &mut Vec<Finding>) {
    Check { findings, above: Vec::new(), requires }.object(object, kind, "");
}

struct Check<'a> {
    findings: &'a mut Vec<Finding>,
    /// Path and type of the objects above the one that is looked at, from the outermost on.
    above: Vec<(String, &'static str)>,
    /// Whether required fields must be there. Below `status`, which the API server fills in itself, they need not.
    requires: bool,
}

impl Check<'_> {
    fn value(&mut self, node: &Node, kind: &'static str, path: &str) {
        if node.content == Content::Null {
            return;
        }
        match kind.split_at_checked(1) {
            Some(("[", element)) => match &node.content {
                Content::List(items) => {
                    for (index, item) in items.iter().enumerate() {
                        self.value(item, element, &format!("{path}[{index}]"));
                    }
                }
                _ => self.mismatch(node, path, "a sequence"),
            },
            Some(("{", value)) => match &node.content {
                Content::Map(entries) => {
                    self.twice(entries, path);
                    for entry in entries {
                        self.value(&entry.value, value, &below(path, &entry.key));
                    }
                }
                _ => self.mismatch(node, path, "a map"),
            },
            Some((_, "")) => self.plain(node, kind, path),
            Some(_) | None => self.object(node, kind, path),
        }
    }

    fn plain(&mut self, node: &Node, kind: &str, path: &str) {
        let expected = match (kind, &node.content) {
            ("s", Content::Text(_))
            | ("b", Content::Bool(_))
            | ("n", Content::Number(_))
            | ("x", Content::Number(_) | Content::Text(_))
            | ("a", _) => return,
            ("i", Content::Number(number)) if !number.is_f64() => return,
            ("q", Content::Number(_)) => return,
            ("q", Content::Text(text)) => {
                if let Err(error) = Quantity::parse(text.trim()) {
                    self.error(node, path, format!("{text:?}: {error}"));
                }
                return;
            }
            ("o", Content::Map(entries)) => return self.twice(entries, path),
            ("s", _) => "a string",
            ("b", _) => "a boolean",
            ("i", _) => "an integer",
            ("n", _) => "a number",
            ("q", _) => "a quantity such as 512Mi",
            ("x", _) => "an integer or a string",
            (_, _) => "a map",
        };
        self.mismatch(node, path, expected);
    }

    fn object(&mut self, node: &Node, kind: &'static str, path: &str) {
        let Content::Map(entries) = &node.content else { return self.mismatch(node, path, "a map") };
        self.twice(entries, path);
        let Some(fields) = TYPES.get(kind) else { return };
        self.above.push((path.to_owned(), kind));
        for entry in entries {
            let here = below(path, &entry.key);
            let Some(field) = fields.iter().find(|field| field.name == entry.key) else {
                self.unknown(entry, fields, &here);
                continue;
            };
            let requires = self.requires;
            self.requires &= here != "status";
            self.value(&entry.value, field.kind, &here);
            self.requires = requires;
        }
        self.above.pop();
        if self.requires {
            for field in fields.iter().filter(|field| field.required) {
                self.required(node, field, path);
            }
        }
    }

    fn required(&mut self, node: &Node, field: &Field, path: &str) {
        if node.get(field.name).is_some_and(|value| value.content != Content::Null) {
            return;
        }
        let here = below(path, field.name);
        let empty_would_do = TYPES.get(field.kind).is_some_and(|fields| !fields.iter().any(|field| field.required));
        let (severity, problem) = match empty_would_do {
            true => (Severity::Warning, "required by the API server, taken as empty"),
            false => (Severity::Error, "missing: the API server requires it"),
        };
        self.findings.push(Finding::new(severity, here, node.place, problem));
    }

    fn unknown(&mut self, entry: &Entry, fields: &Type, here: &str) {
        let name = entry.key.as_str();
        let hint = match (similar(name, fields), self.elsewhere(name)) {
            (Some(known), _) => format!("; did you mean {known:?}?"),
            (None, Some(place)) => format!("; it belongs to {place}"),
            (None, None) => String::new(),
        };
        let problem = format!("unknown field, ignored{hint}");
        self.findings.push(Finding::new(Severity::Warning, here, entry.place, problem));
    }

    /// Where a field of this name would be known: in an object above, or not far below.
    fn elsewhere(&self, name: &str) -> Option<String> {
        let has = |kind: &str| TYPES.get(kind).is_some_and(|fields| fields.iter().any(|field| field.name == name));
        let (here, kind) = self.above.last()?;
        let above = self.above.iter().rev().skip(1).find(|(_, kind)| has(kind)).map(|(path, _)| match path.as_str() {
            "" => "the outermost object".to_owned(),
            path => path.to_owned(),
        });
        above.or_else(|| {
            let mut level = vec![(here.clone(), *kind)];
            for _ in 0..SEARCH_DEPTH {
                let next = level.iter().flat_map(|(path, kind)| {
                    let fields = TYPES.get(kind).into_iter().flatten();
                    fields
                        .filter(|field| field.name != "status")
                        .map(move |field| (below(path, field.name), field.kind))
                });
                level = next.collect();
                if let Some((path, _)) = level.iter().find(|(_, kind)| has(kind)) {
                    return Some(path.clone());
                }
            }
            None
        })
    }

    fn twice(&mut self, entries: &[Entry], path: &str) {
        for (index, entry) in entries.iter().enumerate() {
            let here = || below(path, &entry.key);
            let earlier = entries.iter().take(index).rev().find(|earlier| earlier.key == entry.key);
            if let Some(earlier) = earlier {
                let line = match earlier.place.line {
                    0 => String::new(),
                    line => format!(" (first in line {line})"),
                };
                let problem = format!("is there twice{line}; the last one counts");
                self.findings.push(Finding::new(Severity::Warning, here(), entry.place, problem));
            }
            if let Some(replaced) = entry.replaced {
                let problem = "replaced by the merge key (`<<`) that stands after it, as kubectl does; put `<<` first";
                self.findings.push(Finding::new(Severity::Warning, here(), replaced, problem));
            }
        }
    }

    fn mismatch(&mut self, node: &Node, path: &str, expected: &str) {
        self.error(node, path, format!("invalid type: {}, expected {expected}", node.describe()));
    }

    fn error(&mut self, node: &Node, path: &str, problem: String) {
        self.findings.push(Finding::new(Severity::Error, path, node.place, problem));
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The field that was probably meant: the same letters in another case, else few letters away.
fn similar(name: &str, fields: &Type) -> Option<&'static str> {
    let letters = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let wanted = letters(name);
    if let Some(field) = fields.iter().find(|field| letters(field.name) == wanted) {
        return Some(field.name);
    }
    let most = match wanted.chars().count() {
        0..=3 => 1,
        4..=7 => 2,
        _ => 3,
    };
    let distances = fields.iter().map(|field| (distance(&wanted, &letters(field.name)), field.name));
    distances
        .filter(|(distance, known)| *distance <= most && *distance < known.len().div_ceil(2))
        .min()
        .map(|found| found.1)
}

/// How many letters have to be put in, taken out or replaced.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, left) in one.chars().take(64).enumerate() {
        let mut previous = index;
        let mut next = vec![index + 1];
        for (right, above) in other.iter().zip(row.iter().skip(1)) {
            let replaced = previous + usize::from(left != *right);
            let last = next.last().copied().unwrap_or_default();
            next.push(replaced.min(above + 1).min(last + 1));
            previous = *above;
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(kind: &'static str, text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(&crate::yaml::documents(text).unwrap()[0], kind, true, &mut findings);
        findings.iter().map(|finding| format!("{}: {}", finding.place.line, finding)).collect()
    }

    #[test]
    fn every_type_that_a_field_has_is_there() {
        assert!(TYPES.len() > 150);
        for (name, fields) in TYPES.iter() {
            for field in fields {
                let kind = field.kind.trim_start_matches(['[', '{']);
                assert!(kind.len() == 1 || TYPES.contains_key(kind), "{name}.{}: {kind}", field.name);
            }
        }
    }

    #[test]
    fn types_are_checked_also_of_fields_that_the_launcher_does_not_use() {
        let text = "metadata: {name: a, labels: {a: 1}}\nspec:\n  evictionStrategy: [x]\n  nodeSelector: {a: yes}\n  \
                    domain:\n    cpu: [2, 1]\n    memory: {guest: lots}\n    devices: {disks: {name: a}}\n";
        let found = checked("VirtualMachineInstance", text);
        assert_eq!(
            found,
            [
                "1: metadata.labels.a: invalid type: integer `1`, expected a string",
                "3: spec.evictionStrategy: invalid type: sequence, expected a string",
                "4: spec.nodeSelector.a: invalid type: boolean `true`, expected a string",
                "6: spec.domain.cpu: invalid type: sequence, expected a map",
                "7: spec.domain.memory.guest: \"lots\": quantities must match the regular expression \
                 '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                "8: spec.domain.devices.disks: invalid type: map, expected a sequence",
            ]
        );
    }

    #[test]
    fn unknown_fields_come_with_the_one_that_was_meant() {
        let text = "spec:\n  cores: 2\n  template:\n    spec:\n      domain:\n        cpu: {dedicatedCPUPlacement: true}\n        \
                    networks: []\n        devices: {autoattachGraphicsDevices: false, zzz: 1}\n";
        let found = checked("VirtualMachine", text);
        let spec = "spec.template.spec.domain";
        assert_eq!(
            found,
            [
                "2: spec.cores: unknown field, ignored".to_owned(),
                format!(
                    "6: {spec}.cpu.dedicatedCPUPlacement: unknown field, ignored; did you mean \"dedicatedCpuPlacement\"?"
                ),
                format!("7: {spec}.networks: unknown field, ignored; it belongs to spec.template.spec"),
                format!(
                    "8: {spec}.devices.autoattachGraphicsDevices: unknown field, ignored; did you mean \
                     \"autoattachGraphicsDevice\"?"
                ),
                format!("8: {spec}.devices.zzz: unknown field, ignored"),
            ]
        );
    }

    #[test]
    fn required_fields_and_keys_that_are_there_twice_are_reported() {
        let text = "spec:\n  domain:\n    cpu: {cores: 1, cores: 2}\n    devices:\n      disks:\n      - disk: {}\n  \
                    networks:\n  - name: x\n    multus: {}\nstatus: {volumeStatus: [{name: a}]}\n";
        assert_eq!(
            checked("VirtualMachineInstance", text),
            [
                "3: spec.domain.cpu.cores: is there twice (first in line 3); the last one counts",
                "6: spec.domain.devices.disks[0].name: missing: the API server requires it",
                "9: spec.networks[0].multus.networkName: missing: the API server requires it",
            ]
        );
        assert_eq!(
            checked("VirtualMachineInstance", "spec: {domain: {}}"),
            ["1: spec.domain.devices: required by the API server, taken as empty"]
        );
        assert_eq!(
            checked("VirtualMachineInstance", "spec: {}"),
            ["1: spec.domain: missing: the API server requires it"]
        );
    }
}
