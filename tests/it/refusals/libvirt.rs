//! A real libvirt and QEMU in containers of the image.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::process::Stdio;
use std::time::Duration;

use crate::support::pod::podman;
use crate::support::{expect, wait_for};

/// Defines, starts and bounds, inside the container.
const TRY: &str = include_str!("try.sh");

/// What became of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// There was none.
    Unconverted,
    /// It was defined, but not started since that was not asked for.
    Defined,
    /// It was defined and started.
    Started,
    /// The define failed.
    NotDefined(String),
    /// The start failed.
    NotStarted(String),
    /// A step was given up, or the daemon was gone after it.
    Lost(String),
}

/// A document's outcome, and how long it took.
#[derive(Debug, Clone)]
pub struct Tried {
    pub outcome: Outcome,
    pub took: Duration,
}

/// Defines each document, and starts those of `starts`, one after the other in each of several containers. `told` hears of
/// each document that was put to libvirt.
pub fn try_all(
    image: &str,
    documents: &[Option<String>],
    starts: &[bool],
    told: &(dyn Fn(usize, &Tried) + Sync),
) -> Vec<Tried> {
    let nothing = Tried { outcome: Outcome::Unconverted, took: Duration::ZERO };
    let mut all = vec![nothing; documents.len()];
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let shares = std::thread::scope(|scope| {
        let shares: Vec<_> = (0..workers)
            .map(|worker| {
                scope.spawn(move || {
                    let share = (worker..documents.len()).step_by(workers);
                    let share = share.filter_map(|index| Some((index, documents[index].as_deref()?)));
                    Libvirt::start(image, worker).try_all(share, starts, told)
                })
            })
            .collect();
        shares.into_iter().map(|share| share.join().unwrap()).collect::<Vec<_>>()
    });
    for (index, tried) in shares.into_iter().flatten() {
        all[index] = tried;
    }
    all
}

/// A container that ends with this value.
struct Libvirt {
    name: String,
    dir: tempfile::TempDir,
}

impl Libvirt {
    fn start(image: &str, worker: usize) -> Libvirt {
        let name = format!("virt-launcher-refusals-{}-{worker}", std::process::id());
        let dir = tempfile::Builder::new().prefix("vl").tempdir().unwrap();
        fs::write(dir.path().join("try.sh"), TRY).unwrap();
        let share = format!("{}:/documents", dir.path().display());
        // As root, allowed to make taps and as many threads as there are vCPUs: it is the documents that are to be
        // refused, not their surroundings.
        let mut command = podman();
        command.args(["run", "-d", "--rm", "--name", &name, "--network=none", "--user", "0:0", "-v", &share]);
        command.args(["--cap-add=NET_ADMIN", "--cap-add=SYS_NICE", "--device", "/dev/net/tun"]);
        command.args(["--pids-limit=-1", "--ulimit", "nproc=16384:16384"]);
        // A guest that eats memory ends its own container, not the machine. A paused guest touches little of its own.
        command.args(["--memory=4g", "--memory-swap=4g"]);
        command.args(["--entrypoint", r#"["/bin/sh"]"#, image, "/documents/try.sh", "daemons"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let libvirt = Libvirt { name, dir };
        wait_for("libvirt", Duration::from_secs(60), || {
            let output = libvirt.exec("test -e /tmp/ready && echo ready");
            expect(output == "ready\n", output)
        });
        libvirt
    }

    fn exec(&self, script: &str) -> String {
        let output = podman().args(["exec", &self.name, "sh", "-c", script]).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    fn try_all<'a>(
        &self,
        documents: impl Iterator<Item = (usize, &'a str)>,
        starts: &[bool],
        told: &(dyn Fn(usize, &Tried) + Sync),
    ) -> Vec<(usize, Tried)> {
        let mut list = String::new();
        let mut files = BTreeSet::new();
        for (index, document) in documents {
            if starts[index] {
                files.extend(sources(document));
            }
            fs::write(self.dir.path().join(format!("{index}.xml")), without_taps(document)).unwrap();
            writeln!(list, "{index} {}", u8::from(starts[index])).unwrap();
        }
        let mut script = String::from(
            "set -e\numask 0\nqemu-img create -q -f qcow2 /tmp/empty.qcow2 16M\ntruncate -s 16M /tmp/empty.img\n",
        );
        for file in files {
            let empty = if file.ends_with("qcow2") { "qcow2" } else { "img" };
            writeln!(script, "mkdir -p \"$(dirname '{file}')\"; cp /tmp/empty.{empty} '{file}'").unwrap();
        }
        fs::write(self.dir.path().join("files.sh"), script).unwrap();
        let made = self.exec("sh /documents/files.sh");
        assert_eq!(made, "");
        let mut tries = podman()
            .args(["exec", "-i", &self.name, "sh", "/documents/try.sh"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = tries.stdin.take().unwrap();
        let output = BufReader::new(tries.stdout.take().unwrap());
        let tried = std::thread::scope(|scope| {
            scope.spawn(move || stdin.write_all(list.as_bytes()).unwrap());
            outcomes(output.split(b'\n').map(|line| String::from_utf8_lossy(&line.unwrap()).into_owned()), told)
        });
        assert!(tries.wait().unwrap().success());
        tried
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let _ = podman().args(["rm", "-f", "-t", "0", &self.name]).output();
    }
}

/// Files of disks.
fn sources(document: &str) -> Vec<String> {
    let parts = document.split("<source file=\"").skip(1);
    parts
        .filter_map(|part| Some(unescaped(part.split_once('"')?.0)))
        .filter(|file| file.starts_with('/') && !file.contains('\''))
        .collect()
}

/// An attribute's value as it was before it was written.
fn unescaped(value: &str) -> String {
    let escapes = [
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#x9;", "\t"),
        ("&#xA;", "\n"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ];
    escapes.iter().fold(value.to_owned(), |value, (escape, meant)| value.replace(escape, meant))
}

/// libvirt makes taps that are not named.
fn without_taps(document: &str) -> String {
    document.lines().filter(|line| !line.contains("<target dev=\"tap")).collect::<Vec<_>>().join("\n")
}

/// One step as `try.sh` tells it.
struct Step {
    index: usize,
    name: String,
    code: i32,
    took: Duration,
    said: String,
}

impl Step {
    /// `@@ INDEX STEP CODE MILLISECONDS`
    fn read(line: &str) -> Option<Step> {
        let mut words = line.strip_prefix("@@ ")?.split(' ');
        Some(Step {
            index: words.next()?.parse().ok()?,
            name: words.next()?.to_owned(),
            code: words.next()?.parse().ok()?,
            took: Duration::from_millis(words.next()?.parse().ok()?),
            said: String::new(),
        })
    }

    fn outcome(&self) -> Outcome {
        let said = self.said.lines().map(|line| line.trim().trim_start_matches("error:").trim());
        let said = said.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" / ");
        match (self.name.as_str(), self.code) {
            // Those of `timeout`.
            (name, 124 | 137) => Outcome::Lost(format!("the {name} was given up after {} s", self.took.as_secs())),
            ("define", 0) => Outcome::Defined,
            ("start", 0) => Outcome::Started,
            ("define", _) => Outcome::NotDefined(said),
            ("start", _) => Outcome::NotStarted(said),
            (name, _) => Outcome::Lost(format!("libvirt's {name} was lost: {said}")),
        }
    }
}

/// Reads what the tries say; a document is done when the next one's first step is told.
fn outcomes(lines: impl Iterator<Item = String>, told: &dyn Fn(usize, &Tried)) -> Vec<(usize, Tried)> {
    let mut steps: Vec<Step> = Vec::new();
    let mut tried = Vec::new();
    let mut done = |steps: &mut Vec<Step>| {
        let Some(index) = steps.first().map(|step| step.index) else { return };
        let took = steps.iter().map(|step| step.took).sum();
        let outcomes: Vec<Outcome> = steps.iter().map(Step::outcome).collect();
        // What was said of a lost daemon is with the step before.
        let lost = steps.iter().any(|step| step.name == "daemon");
        let outcome = match outcomes.as_slice() {
            [.., last, Outcome::Lost(_)] if lost => match last {
                Outcome::Lost(why) => Outcome::Lost(format!("{why}, and libvirt's daemon had to be killed")),
                Outcome::NotDefined(why) | Outcome::NotStarted(why) => {
                    Outcome::Lost(format!("libvirt's daemon: {why}"))
                }
                Outcome::Unconverted | Outcome::Defined | Outcome::Started => last.clone(),
            },
            [.., last] => last.clone(),
            [] => return,
        };
        let result = Tried { outcome, took };
        told(index, &result);
        tried.push((index, result));
        steps.clear();
    };
    for line in lines {
        match Step::read(&line) {
            Some(step) => {
                if steps.first().is_some_and(|first| first.index != step.index) {
                    done(&mut steps);
                }
                steps.push(step);
            }
            None => {
                if let Some(step) = steps.last_mut() {
                    step.said.push_str(&line);
                    step.said.push('\n');
                }
            }
        }
    }
    done(&mut steps);
    tried
}
