//! Files as people write them, through `check` and `domain-xml` on a machine that is not a pod: what comes out right, or
//! which path is told. Each file of `files/` says in its first lines what it is and what is expected:
//!
//!     # what: …     one line on what it is
//!     # flags: …    more arguments for both subcommands
//!     # xml: …      a part of the XML; several lines, several parts
//!     # not: …      what is not in the XML
//!     # says: …     a part of what both say on standard error though they succeed
//!     # error: …    both refuse the file with this part of the message

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, SysconfVar, sysconf};

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

    /// What the subcommand prints, and the processor time that it takes.
    fn run(&self, subcommand: &str) -> (Output, Duration) {
        let flags = self.all("flags").flat_map(str::split_whitespace);
        let mut command = Command::new(env!("CARGO_BIN_EXE_virt-launcher"));
        command.arg(subcommand).arg(&self.path).args(flags).stdin(Stdio::null());
        // The test may itself run in a pod.
        command.env_remove("KUBERNETES_SERVICE_HOST").stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let stderr = std::thread::spawn(move || read(&mut err));
        let (stdout, stderr) = (read(&mut out), stderr.join().unwrap());
        let took = processor_time(Pid::from_raw(i32::try_from(child.id()).unwrap()));
        (Output { status: child.wait().unwrap(), stdout, stderr }, took)
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
            let (output, took) = self.run(subcommand);
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

fn read(stream: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// Processor time of a child, once it has ended; it is not reaped, so that `/proc` still knows it.
fn processor_time(child: Pid) -> Duration {
    waitid(Id::Pid(child), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
    let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
    // utime and stime, fields 14 and 15; the name, which is field 2, may have spaces in it.
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    let ticks: i64 = fields.map(|field| field.parse::<i64>().unwrap()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_millis(u64::try_from(ticks * 1000 / per_second).unwrap())
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
fn same_file_gives_the_same_xml_each_time() {
    for manifest in manifests().iter().filter(|manifest| manifest.all("error").next().is_none()).take(12) {
        let printed = || text(&manifest.run("domain-xml").0.stdout);
        assert_eq!(printed(), printed());
    }
}
