//! What is left to do when the launcher has ended: hypervisors, sockets of container disks (contract/lifecycle.md 8.4).

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::hypervisor::Catalogue;
use crate::logging::Logger;
use crate::process::{PidFd, find_descendants_by_command_prefix};

/// What a launcher may leave behind, by the beginning of the executable's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// Every hypervisor that it could have started.
    pub hypervisors: Vec<String>,
    /// Daemons that outlive it, for the next launcher.
    pub daemons: Vec<String>,
}

impl Programs {
    /// Those of the catalogue, or of the built-in one if an operator's file cannot be read. It is read only when it is needed:
    /// it would cost PID 1 more memory than all the rest while the VM runs.
    pub fn load(log: &Logger, catalogue: Option<&Path>) -> Self {
        let catalogue = Catalogue::load(catalogue).or_else(|error| {
            log.warning(&format!("only the built-in hypervisors are looked for: {error}"));
            Catalogue::builtin()
        });
        let entries = || catalogue.iter().flat_map(Catalogue::iter).map(|(_, entry)| entry);
        let virtlogd = entries().filter_map(|entry| entry.launcher.virtlogd.as_ref());
        Programs {
            hypervisors: entries().flat_map(|entry| entry.hypervisor_command_prefixes.iter().cloned()).collect(),
            daemons: virtlogd
                .filter_map(|virtlogd| Some(virtlogd.executable.file_name()?.to_string_lossy().into_owned()))
                .collect(),
        }
    }
}

/// Ends the daemons that were left for a launcher that does not come: SIGTERM, so that they write what they have, and
/// SIGKILL for one that does not end within `patience`.
pub fn end_daemons(log: &Logger, names: &[impl AsRef<str>], ancestor: i32, patience: Duration) {
    for found in find_descendants_by_command_prefix(names, ancestor) {
        let ended = PidFd::open(found.pid).and_then(|process| {
            process.signal(Signal::SIGTERM)?;
            if process.wait_until(Instant::now() + patience)? {
                return Ok(());
            }
            process.signal(Signal::SIGKILL)
        });
        match ended {
            Ok(()) => log.info(&format!("ended {} with pid {}", found.name, found.pid)),
            Err(error) if is_gone(&error.source) => {}
            Err(error) => log.error(&format!("cannot end {} with pid {}", found.name, found.pid), &error),
        }
    }
}

/// What became of the hypervisors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypervisors {
    /// None is left.
    Gone,
    /// One could not be signalled, or did not end in time.
    Left,
}

/// Asks every hypervisor among the descendants of `ancestor` to end (SIGTERM, which lets the guest's disks be flushed)
/// and waits for all of them, `patience` at most.
pub fn end_hypervisors(log: &Logger, prefixes: &[impl AsRef<str>], ancestor: i32, patience: Duration) -> Hypervisors {
    let mut result = Hypervisors::Gone;
    let mut held = Vec::new();
    for found in find_descendants_by_command_prefix(prefixes, ancestor) {
        match PidFd::open(found.pid) {
            Ok(pidfd) => held.push((found, pidfd)),
            Err(error) if is_gone(&error.source) => {}
            Err(error) => {
                log.error(&format!("cannot watch the hypervisor {}", found.name), &error);
                result = Hypervisors::Left;
            }
        }
    }
    if !held.is_empty() {
        // Makes sure that the hold is on what the first search saw, not on another process that was given the same number in
        // between.
        let now = find_descendants_by_command_prefix(prefixes, ancestor);
        held.retain(|(found, _)| now.iter().any(|other| other.pid == found.pid));
    }
    let mut asked = Vec::new();
    for (found, pidfd) in held {
        log.info(&format!("ending the hypervisor {} with pid {}", found.name, found.pid));
        match pidfd.signal(Signal::SIGTERM) {
            Ok(()) => asked.push((found, pidfd)),
            Err(error) if is_gone(&error.source) => {}
            Err(error) => {
                log.error(&format!("cannot end the hypervisor {}", found.name), &error);
                result = Hypervisors::Left;
            }
        }
    }
    let deadline = Instant::now() + patience;
    for (found, pidfd) in asked {
        match pidfd.wait_until(deadline) {
            Ok(true) => {}
            Ok(false) => {
                let why = format!("{} ms after SIGTERM it still runs", patience.as_millis());
                log.error(&format!("the hypervisor {} with pid {} does not end", found.name, found.pid), &why);
                result = Hypervisors::Left;
            }
            Err(error) => {
                log.error(&format!("cannot wait for the hypervisor {}", found.name), &error);
                result = Hypervisors::Left;
            }
        }
    }
    result
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// Removes the sockets of the container disks, which makes their sidecars end (contract/lifecycle.md 11.1).
pub fn remove_sockets(log: &Logger, directory: &Path) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // Image volumes need no such directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return log.error(&format!("cannot list {}", directory.display()), &error),
    };
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if !entry.file_name().as_encoded_bytes().ends_with(b".sock") {
            continue;
        }
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => log.error(&format!("cannot remove {}", path.display()), &error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::process::testing::install;

    fn log() -> Logger {
        Logger::new("virt-launcher-monitor", 0)
    }

    /// A process whose executable is called `name`; it has said `ready`, so that its traps are set.
    fn process(folder: &Path, name: &str, script: &str) -> Child {
        let executable = folder.join(name);
        install(Path::new("/bin/bash"), &executable);
        let script = format!("{script}\necho ready\nread -r line");
        let mut child = Command::new(executable)
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        child
    }

    #[test]
    fn hypervisor_that_ends_is_waited_for_and_one_that_does_not_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let own = std::process::id() as i32;
        // Without a trap the signal itself ends it: one that came just before `read` began to wait would not interrupt it.
        let mut willing = process(folder.path(), "hyper-willing-x", "");
        let mut other = process(folder.path(), "other-x", "");
        let gone = end_hypervisors(&log(), &["hyper-willing"], own, Duration::from_secs(20));
        assert_eq!(gone, Hypervisors::Gone);
        willing.wait().unwrap();
        assert!(other.try_wait().unwrap().is_none(), "only the hypervisor is ended");

        let mut deaf = process(folder.path(), "hyper-deaf-x", "trap '' TERM");
        let left = end_hypervisors(&log(), &["hyper-deaf"], own, Duration::from_millis(20));
        assert_eq!(left, Hypervisors::Left);
        for child in [&mut deaf, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(end_hypervisors(&log(), &["hyper-"], own, Duration::from_secs(20)), Hypervisors::Gone);
    }

    #[test]
    fn only_sockets_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["disk_0.sock", "kernel-boot.sock", ".sock", "disk_0.img", "disk.sock.bak"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        remove_sockets(&log(), folder.path());
        let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["disk.sock.bak", "disk_0.img"]);
        remove_sockets(&log(), &folder.path().join("missing"));
    }

    #[test]
    fn daemon_that_was_left_is_ended_even_if_it_does_not_hear() {
        let folder = tempfile::tempdir().unwrap();
        let own = std::process::id() as i32;
        let mut willing = process(folder.path(), "logd-willing-x", "");
        let mut deaf = process(folder.path(), "logd-deaf-x", "trap '' TERM");
        let mut other = process(folder.path(), "other-y", "");
        end_daemons(&log(), &["logd-willing"], own, Duration::from_secs(20));
        assert_eq!(willing.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
        end_daemons(&log(), &["logd-"], own, Duration::from_millis(20));
        assert_eq!(deaf.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
        assert!(other.try_wait().unwrap().is_none(), "only the daemons are ended");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn programs_are_those_of_the_catalogue_or_of_the_built_in_one() {
        let sorted = |Programs { hypervisors, daemons }| {
            [hypervisors, daemons].map(|mut names: Vec<String>| {
                names.sort();
                names.dedup();
                names
            })
        };
        let folder = tempfile::tempdir().unwrap();
        let from_catalogue = sorted(Programs::load(&log(), None));
        let without = sorted(Programs::load(&log(), Some(&folder.path().join("missing"))));
        assert_eq!(without, from_catalogue);
        for program in ["cloud-hypervisor", "qemu-kvm", "qemu-system"] {
            assert!(from_catalogue[0].iter().any(|known| known == program), "{from_catalogue:?}");
        }
        assert_eq!(from_catalogue[1], ["virtlogd"]);
    }
}
