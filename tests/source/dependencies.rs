//! Every dependency has a licence that may be linked, comes from a source that is meant, and is there once: what `deny.toml`
//! says, which `cargo deny` reads as well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use regex::Regex;
use serde_json::Value;

/// `deny.toml` as far as its lists go: a few forms of TOML, one list for each key of each table.
struct Deny(String);

impl Deny {
    fn read() -> Deny {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml")).unwrap();
        Deny(text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n"))
    }

    fn table(&self, name: &str) -> &str {
        let (_, rest) = self.0.split_once(&format!("[{name}]\n")).unwrap();
        rest.split_once("\n[").map_or(rest, |(table, _)| table)
    }

    /// What stands between the brackets of a list.
    fn list(&self, table: &str, key: &str) -> &str {
        let (_, rest) = self.table(table).split_once(&format!("{key} = [")).unwrap();
        let end = if rest.starts_with('\n') { "\n]" } else { "]" };
        rest.split_once(end).unwrap().0
    }

    fn strings(&self, table: &str, key: &str) -> BTreeSet<String> {
        Regex::new("\"([^\"]*)\"")
            .unwrap()
            .captures_iter(self.list(table, key))
            .map(|found| found[1].to_owned())
            .collect()
    }

    /// The crates of a list of tables, each with the rest of its table.
    fn crates(&self, table: &str, key: &str) -> BTreeMap<String, String> {
        let entry = Regex::new(r#"\{ crate = "([^"]+)", ([^}]*) \}"#).unwrap();
        entry.captures_iter(self.list(table, key)).map(|found| (found[1].to_owned(), found[2].to_owned())).collect()
    }

    fn says(&self, table: &str, line: &str) -> bool {
        self.table(table).lines().any(|is| is == line)
    }
}

/// A package of the graph.
struct Package {
    name: String,
    version: String,
    license: String,
    /// `None` for this one.
    source: Option<String>,
}

/// All packages that are built for one of the machines.
fn packages(deny: &Deny) -> Vec<Package> {
    let mut command = Command::new(env!("CARGO"));
    command.args(["metadata", "--locked", "--offline", "--format-version", "1"]);
    // Another machine's packages may never have been downloaded to this one.
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    assert!(deny.strings("graph", "targets").contains(&host), "{host}");
    let output = command.args(["--filter-platform", &host]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let used: BTreeSet<&str> = nodes.iter().map(|node| node["id"].as_str().unwrap()).collect();
    let all = metadata["packages"].as_array().unwrap().iter();
    all.filter(|package| used.contains(package["id"].as_str().unwrap()))
        .map(|package| Package {
            name: text(&package["name"]).unwrap(),
            version: text(&package["version"]).unwrap(),
            license: text(&package["license"]).unwrap_or_default(),
            source: text(&package["source"]),
        })
        .collect()
}

/// Whether an SPDX expression is satisfied by the licences; `/` is an old way to write OR.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let holds = either(&words, &mut at, allowed);
    holds && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut holds = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        holds |= both(words, at, allowed);
    }
    holds
}

fn both(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut holds = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        holds &= one(words, at, allowed);
    }
    holds
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let holds = either(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return holds && closed;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return allowed.contains(&format!("{word} WITH {exception}"));
    }
    allowed.contains(word)
}

#[test]
fn licences_are_among_those_that_deny_toml_allows() {
    let deny = Deny::read();
    let allowed = deny.strings("licenses", "allow");
    let exceptions = deny.crates("licenses", "exceptions");
    let wrong: Vec<String> = packages(&deny)
        .into_iter()
        .filter(|package| {
            let own =
                exceptions.get(&package.name).is_some_and(|allow| allow.contains(&format!("\"{}\"", package.license)));
            !own && !satisfied(&package.license, &allowed)
        })
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.license))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn sources_are_those_that_deny_toml_allows() {
    let deny = Deny::read();
    assert!(deny.says("sources", "unknown-registry = \"deny\"") && deny.says("sources", "unknown-git = \"deny\""));
    let allowed = deny.strings("sources", "allow-registry");
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    let sources: BTreeSet<&str> = lock.lines().filter_map(|line| line.strip_prefix("source = ")).collect();
    let known = |source: &&str| allowed.iter().any(|known| *source == format!("\"registry+{known}\""));
    assert!(!sources.is_empty() && sources.iter().all(known), "{sources:?}");
    let local: Vec<String> =
        packages(&deny).into_iter().filter(|one| one.source.is_none()).map(|one| one.name).collect();
    assert_eq!(local, ["virt-launcher"]);
}

#[test]
fn versions_are_single_but_for_those_that_deny_toml_knows() {
    let deny = Deny::read();
    assert!(deny.says("bans", "multiple-versions = \"deny\""));
    let known = deny.crates("bans", "skip");
    let packages = packages(&deny);
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in &packages {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    let mut wrong = Vec::new();
    for (name, versions) in &versions {
        let left: Vec<_> =
            versions.iter().filter(|version| !known.contains_key(&format!("{name}@{version}"))).collect();
        if left.len() > 1 {
            wrong.push(format!("{name}: {left:?}"));
        }
    }
    for skipped in known.keys() {
        let (name, version) = skipped.split_once('@').unwrap();
        if !versions.get(name).is_some_and(|versions| versions.len() > 1 && versions.contains(version)) {
            wrong.push(format!("deny.toml skips {skipped}, which is not a second version any more"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn expressions_of_licences_are_read_as_spdx_has_them() {
    let allowed: BTreeSet<String> = ["MIT", "ISC", "Apache-2.0"].map(str::to_owned).into();
    for good in
        ["MIT", "GPL-2.0 OR MIT", "GPL-2.0/MIT", "MIT AND ISC", "(GPL-2.0 OR MIT) AND ISC", "GPL-2.0 OR MIT AND ISC"]
    {
        assert!(satisfied(good, &allowed), "{good}");
    }
    for bad in [
        "",
        "GPL-2.0",
        "MIT AND GPL-2.0",
        "(MIT OR ISC) AND GPL-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "(MIT",
        "MIT ISC",
    ] {
        assert!(!satisfied(bad, &allowed), "{bad}");
    }
}
