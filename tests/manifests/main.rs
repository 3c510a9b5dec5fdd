//! Files as people write them, through `check` and `domain-xml` on a machine that is not a pod: what comes out right, or
//! which path is told. Each file of `files/` says in its first lines what it is and what is expected:
//!
//!     # what: …     one line on what it is
//!     # flags: …    more arguments for both subcommands
//!     # xml: …      a part of the XML; several lines, several parts
//!     # not: …      what is not in the XML
//!     # says: …     a part of what both say on standard error though they succeed
//!     # error: …    both refuse the file with this part of the message
#![allow(clippy::unwrap_used)] // a test ends by panicking

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// How many files the collection has at least.
const LEAST: usize = 60;
/// Processor time that one subcommand may take for one file. What else the machine does is not the file's fault.
const AT_MOST: Duration = Duration::from_secs(1);

/// A file and what its first lines say.
struct Manifest {
    path: PathBuf,
    lines: Vec<(String, String)>,
}

impl Manifest {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        let head = text.lines().map_while(|line| line.strip_prefix("# "));
        let lines =
            head.filter_map(|line| line.split_once(": ")).map(|(key, value)| (key.to_owned(), value.to_owned()));
        Manifest { lines: lines.collect(), path }
    }

    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    fn run(&self, subcommand: &str) -> Output {
        let flags = self.all("flags").flat_map(str::split_whitespace);
        let mut command = Command::new(env!("CARGO_BIN_EXE_virt-launcher"));
        command.arg(subcommand).arg(&self.path).args(flags).stdin(Stdio::null());
        // The test may itself run in a pod.
        command.env_remove("KUBERNETES_SERVICE_HOST").output().unwrap()
    }

    /// What is wrong, one line for each.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let known = ["what", "flags", "xml", "not", "says", "error"];
        faults.extend(
            self.lines.iter().filter(|(key, _)| !known.contains(&key.as_str())).map(|(key, _)| format!("{key}?")),
        );
        let refused = self.all("error").next().is_some();
        if self.all("what").count() != 1 || (!refused && self.all("xml").next().is_none()) {
            faults.push("it does not say what it is and what is expected".to_owned());
        }
        for subcommand in ["domain-xml", "check"] {
            let before = processor_time();
            let output = self.run(subcommand);
            let took = processor_time().saturating_sub(before);
            let (out, said) = (text(&output.stdout), text(&output.stderr));
            let mut fault = |what: String| faults.push(format!("{subcommand}: {what}\n{said}{out}"));
            if took > AT_MOST {
                fault(format!("took {took:?} of processor time"));
            }
            if output.status.success() == refused || output.status.code().is_none() {
                fault(format!("ended with {}", output.status));
            }
            let told = match subcommand {
                // Refusals are check's result and stand in its table.
                "check" => words(&format!("{out}{said}")),
                _ => words(&said),
            };
            for part in self.all("error").chain(self.all("says")).filter(|part| !told.contains(&words(part))) {
                // A table has path and reason in columns of their own.
                let in_columns = part.split_once(": ").is_some_and(|(path, reason)| {
                    subcommand == "check" && told.contains(path) && told.contains(&words(reason))
                });
                if !in_columns {
                    fault(format!("does not say {part:?}"));
                }
            }
            if !said.is_empty() && said.lines().any(|line| !line.starts_with("virt-launcher: ")) {
                fault("a line without the program's name".to_owned());
            }
            if subcommand == "domain-xml" && !refused {
                for part in self.all("xml").filter(|part| !out.contains(part)) {
                    fault(format!("no {part}"));
                }
                for part in self.all("not").filter(|part| out.contains(part)) {
                    fault(format!("there is {part}"));
                }
            }
        }
        faults
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The text with single spaces.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Processor time of all children that have ended.
fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(micros.unsigned_abs())
}

fn manifests() -> Vec<Manifest> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests/files");
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(Manifest::read).collect()
}

#[test]
fn every_manifest_comes_out_right_or_with_a_path_and_within_a_second() {
    let manifests = manifests();
    assert!(manifests.len() >= LEAST, "{}", manifests.len());
    let faults: Vec<String> = manifests
        .iter()
        .flat_map(|manifest| {
            let name = manifest.path.file_name().unwrap().to_string_lossy().into_owned();
            manifest.faults().into_iter().map(move |fault| format!("{name}: {fault}"))
        })
        .collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn the_same_file_gives_the_same_xml_each_time() {
    for manifest in manifests().iter().filter(|manifest| manifest.all("error").next().is_none()).take(12) {
        assert_eq!(text(&manifest.run("domain-xml").stdout), text(&manifest.run("domain-xml").stdout));
    }
}
