//! Arrows between modules point down: a module of `src/` may use only modules of layers below its own (`src/lib.rs`).
#![allow(clippy::unwrap_used)] // a test ends by panicking

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// From top to bottom. Modules of one layer do not use each other, but for [`WITHIN`].
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["launcher", "monitor", "tools"],
    &["cmd", "notify", "daemon", "storage", "guest_agent", "dhcp", "hooks", "export"],
    &["libvirt", "convert", "hypervisor", "process"],
    &["domain", "vmi"],
    &["files", "logging", "proto", "yaml"],
];

/// Arrows inside a layer that the design knows: from, to, why.
const WITHIN: &[(&str, &str, &str)] = &[
    ("hypervisor", "libvirt", "what a driver lacks is added around libvirt's calls"),
    ("hypervisor", "process", "a hypervisor's process is ended where its driver leaves it behind"),
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// `src/a/b.rs` and `src/a.rs` belong to module `a`.
fn module_of(path: &Path, src: &Path) -> String {
    let first = path.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Drops comments; a `//` inside a string ends the line early, which no reference follows.
fn code(source: &str) -> String {
    source.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// The modules named by `crate::x`, `use crate::{x, y::z}` and `virt_launcher::x`.
fn references(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for marker in ["crate::", "virt_launcher::"] {
        for (at, _) in code.match_indices(marker) {
            let rest = &code[at + marker.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                found.extend(group_heads(group));
            } else {
                found.insert(identifier(rest));
            }
        }
    }
    found
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// First names of `x, y::{a, b}, z}`.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut heads) = (0, 0, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(identifier(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(identifier(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads
}

fn allowed(from: &str, to: &str) -> bool {
    match (layer(from), layer(to)) {
        (Some(from_layer), Some(to_layer)) => {
            from == to || to_layer > from_layer || WITHIN.iter().any(|(a, b, _)| (*a, *b) == (from, to))
        }
        // A name that is no module: an item or macro of the crate's root.
        _ => true,
    }
}

#[test]
fn arrows_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in &files {
        let from = module_of(file, &src);
        for to in references(&code(&std::fs::read_to_string(file).unwrap())) {
            if !allowed(&from, &to) {
                wrong.push(format!("{}: {from} uses {to}", file.strip_prefix(&src).unwrap().display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that do not point down (src/lib.rs lists the layers):\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    let root = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let modules: Vec<&str> = root.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let without: Vec<&&str> = modules.iter().filter(|module| layer(module).is_none()).collect();
    assert!(without.is_empty(), "give these modules of src/lib.rs a layer: {without:?}");
    assert_eq!(modules.len(), LAYERS.iter().map(|layer| layer.len()).sum::<usize>());
}

#[test]
fn the_test_sees_an_arrow_that_points_up() {
    let code = code("use crate::{domain::X, cmd::{serve, Driver}}; // crate::cli\nfn f() { crate::launcher::run() }");
    assert_eq!(Vec::from_iter(references(&code)), ["cmd", "domain", "launcher"]);
    assert!(!allowed("domain", "cmd"));
    assert!(!allowed("domain", "vmi"));
    assert!(allowed("cmd", "domain"));
    assert!(allowed("domain", "logging"));
}

/// Every RPC of the command service can be called by a person.
#[test]
fn ctl_calls_every_rpc() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = std::fs::read_to_string(root.join("src/proto/cmd_v1.proto")).unwrap();
    let ctl: String = std::fs::read_dir(root.join("src/cli/ctl"))
        .unwrap()
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .collect();
    let rpcs = proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
    let mut seen = 0;
    for rpc in rpcs {
        seen += 1;
        // Without underscores and case there is no question of how the generator splits `SEVInfo` or `CPUs`.
        let called = ctl.split('.').any(|text| {
            let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            text[name.len()..].starts_with('(') && name.replace('_', "").eq_ignore_ascii_case(rpc.trim())
        });
        assert!(called, "no subcommand calls {rpc}");
    }
    assert!(seen > 30, "{seen} RPCs in the service's definition");
}
