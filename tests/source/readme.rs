//! The tables of the README that say which hypervisor can do what are those of `src/hypervisor/features.yaml`, and every RPC
//! is in them. `UPDATE_README=1 cargo test --test source readme` writes them anew.

use std::collections::{BTreeMap, BTreeSet};

use virt_launcher::hypervisor::{Feature, FeatureTable, Level};

const README: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const BEGIN: &str = "<!-- From src/hypervisor/features.yaml: UPDATE_README=1 cargo test --test source readme -->\n";
const END: &str = "<!-- end -->\n";

/// Names of the command service's RPCs, in its order.
fn rpcs() -> Vec<&'static str> {
    let service = include_str!("../../src/proto/cmd_v1.proto");
    let name = |line: &'static str| line.trim().strip_prefix("rpc ")?.split('(').next();
    service.lines().filter_map(name).collect()
}

/// The hypervisors of the feature table, in its order.
fn hypervisors() -> Vec<&'static str> {
    let table = include_str!("../../src/hypervisor/features.yaml");
    let name = |line: &'static str| line.strip_prefix("  ")?.strip_suffix(':').filter(|name| !name.starts_with(' '));
    table.lines().filter_map(name).collect()
}

fn row(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn head(first: &str) -> String {
    let cells: Vec<String> = std::iter::once(first).chain(hypervisors()).map(str::to_owned).collect();
    row(&cells) + &row(&vec!["---".to_owned(); cells.len()])
}

fn rule_for<'a>(table: &'a FeatureTable, hypervisor: &str, operation: &str) -> Option<&'a Feature> {
    table.of(hypervisor).iter().find(|rule| rule.operation.as_deref() == Some(operation))
}

fn word(rule: Option<&Feature>) -> String {
    let Some(rule) = rule else { return "yes".to_owned() };
    let word = match rule.level {
        Level::Supported => "yes".to_owned(),
        Level::Ignored => "answers".to_owned(),
        Level::Unsupported => "no".to_owned(),
        Level::NeedsVersion => format!("libvirt {}", rule.needs.map(|least| least.to_string()).unwrap_or_default()),
    };
    if rule.reason.is_empty() { word } else { format!("{word}: {}", rule.reason) }
}

/// One line for each RPC and further operation; those that work everywhere share one.
fn operations(table: &FeatureTable) -> String {
    let mut names = rpcs();
    for hypervisor in hypervisors() {
        for name in table.of(hypervisor).iter().filter_map(|rule| rule.operation.as_deref()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let (mut rows, mut everywhere) = (String::new(), Vec::new());
    for name in names {
        let rules: Vec<_> = hypervisors().into_iter().map(|hypervisor| rule_for(table, hypervisor, name)).collect();
        if rules.iter().all(Option::is_none) {
            everywhere.push(name);
            continue;
        }
        let cells: Vec<String> = std::iter::once(name.to_owned()).chain(rules.into_iter().map(word)).collect();
        rows += &row(&cells);
    }
    let yes = hypervisors().into_iter().map(|_| "yes".to_owned());
    let cells: Vec<String> = [everywhere.join(", ")].into_iter().chain(yes).collect();
    head("Request") + &row(&cells) + &rows
}

/// The part of a VMI that a path belongs to, and the rest.
fn part(path: &str) -> (String, String) {
    let rest = path.strip_prefix("spec.").unwrap();
    let parts: Vec<&str> = rest.split('.').collect();
    let depth = match parts[..] {
        ["domain", "devices", list, _, ..] if list.ends_with("[]") => 3,
        ["domain", _, _, ..] => 2,
        [list, _, ..] if list.ends_with("[]") => 1,
        _ => 0,
    };
    let name = match depth {
        0 => "spec".to_owned(),
        depth => format!("spec.{}", parts[..depth].join(".")),
    };
    (name, parts[depth..].join("."))
}

/// One line for each part of a VMI: what is refused and what is dropped.
fn fields(table: &FeatureTable) -> String {
    let mut parts: BTreeMap<String, Vec<BTreeMap<Fate, BTreeSet<String>>>> = BTreeMap::new();
    let hypervisors = hypervisors();
    for (column, hypervisor) in hypervisors.iter().enumerate() {
        for rule in table.of(hypervisor) {
            let Some(path) = rule.path.as_deref() else { continue };
            let (name, _) = part(path);
            let subject = rule.subject();
            let field = match name.as_str() {
                "spec" => subject.trim_start_matches("spec.").to_owned(),
                name => subject[name.len() + 1..].to_owned(),
            };
            let arch = if rule.arch.is_empty() { String::new() } else { format!(" ({})", rule.arch.join(", ")) };
            let level = match rule.level {
                Level::Supported => continue,
                Level::Unsupported => Fate::Refused,
                Level::Ignored => Fate::Ignored,
                Level::NeedsVersion => Fate::Needs,
            };
            let needs = rule.needs.map(|least| format!(" (libvirt {least})")).unwrap_or_default();
            let here = &mut parts.entry(name).or_insert_with(|| vec![BTreeMap::new(); hypervisors.len()])[column];
            here.entry(level).or_default().insert(format!("`{field}`{needs}{arch}"));
        }
    }
    let cell = |found: &BTreeMap<Fate, BTreeSet<String>>| {
        let words: Vec<String> = found
            .iter()
            .map(|(level, fields)| {
                let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
                format!("{} {}", level.word(), fields.join(", "))
            })
            .collect();
        if words.is_empty() { "all".to_owned() } else { words.join("; ") }
    };
    let mut text = head("Part of the VMI");
    for (name, columns) in &parts {
        let cells: Vec<String> = std::iter::once(format!("`{name}`")).chain(columns.iter().map(cell)).collect();
        text += &row(&cells);
    }
    text
}

/// In the order of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Refused,
    Needs,
    Ignored,
}

impl Fate {
    fn word(self) -> &'static str {
        match self {
            Fate::Refused => "refused:",
            Fate::Needs => "needs:",
            Fate::Ignored => "dropped:",
        }
    }
}

#[test]
fn tables_hypervisors_are_those_of_the_catalogue() {
    let catalogue = virt_launcher::hypervisor::Catalogue::builtin().unwrap();
    let of_catalogue: BTreeSet<&str> = catalogue.iter().map(|(name, _)| name).collect();
    assert_eq!(hypervisors().into_iter().collect::<BTreeSet<_>>(), of_catalogue);
}

#[test]
fn readmes_tables_are_those_of_the_feature_table() {
    let table = FeatureTable::builtin().unwrap();
    let wanted = format!("{}\n{}", operations(&table), fields(&table));
    let readme = std::fs::read_to_string(README).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (now, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(README, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
    } else {
        assert!(now == wanted, "README.md is stale: UPDATE_README=1 cargo test --test source readme writes\n{wanted}");
    }
}

#[test]
fn operation_that_looks_like_an_rpc_is_one() {
    let (table, rpcs) = (FeatureTable::builtin().unwrap(), rpcs());
    for hypervisor in hypervisors() {
        for operation in table.of(hypervisor).iter().filter_map(|rule| rule.operation.as_deref()) {
            let one_word = !operation.contains(' ') && operation.chars().any(char::is_lowercase);
            assert!(!one_word || rpcs.contains(&operation), "{hypervisor}: {operation}");
        }
    }
}
