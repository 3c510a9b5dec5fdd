//! The process table: who runs what.

use std::io;
use std::path::{Path, PathBuf};

use procfs::process::{Process, all_processes};

/// A process that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number.
    pub pid: i32,
    /// The name of its executable.
    pub name: String,
}

/// Bytes of a name that `comm` can show (TASK_COMM_LEN without its end).
const COMM_LENGTH: usize = 15;

/// Whether an executable of this name is one of the commands that `prefixes` name.
pub fn command_matches(name: &str, prefixes: &[impl AsRef<str>]) -> bool {
    prefixes.iter().any(|prefix| !prefix.as_ref().is_empty() && name.starts_with(prefix.as_ref()))
}

/// The same for a name out of `comm`, where the kernel may have cut the end off a long one.
fn comm_matches(comm: &str, prefixes: &[impl AsRef<str>]) -> bool {
    let cut = |prefix: &str| comm.len() == COMM_LENGTH && prefix.starts_with(comm);
    command_matches(comm, prefixes) || prefixes.iter().any(|prefix| cut(prefix.as_ref()))
}

/// Living processes whose executable's name starts with one of `prefixes`, lowest number first; only children of
/// `parent` if it is given. The name is that of `/proc/PID/exe`; `comm` counts too, for a link that may not be read and
/// for a wrapper script. Arguments are never looked at, so that a VM called `qemu-kvm` does not look like a hypervisor. Processes
/// that end meanwhile are skipped.
pub fn find_by_command_prefix(prefixes: &[impl AsRef<str>], parent: Option<i32>) -> Vec<Found> {
    let Ok(processes) = all_processes() else { return Vec::new() };
    let mut found: Vec<Found> =
        processes.filter_map(Result::ok).filter_map(|process| matching(&process, prefixes, parent)).collect();
    found.sort_by_key(|found| found.pid);
    found
}

/// As [`find_by_command_prefix`], among all that descends from `ancestor`, in any generation: not every libvirt daemon
/// lets its hypervisor be re-parented, and a daemon may outlive the launcher.
pub fn find_descendants_by_command_prefix(prefixes: &[impl AsRef<str>], ancestor: i32) -> Vec<Found> {
    let mut found = find_by_command_prefix(prefixes, None);
    found.retain(|found| descends_from(found.pid, ancestor));
    found
}

/// Whether a process is `ancestor` or descends from it. One that is not there any more may have.
pub fn may_belong_to(pid: i32, ancestor: i32) -> bool {
    pid == ancestor || descends_from(pid, ancestor) || identify(pid).is_none()
}

/// The bound keeps a table that changes under us from making a loop.
const GENERATIONS: usize = 64;

fn descends_from(pid: i32, ancestor: i32) -> bool {
    let parent = |pid: &i32| Process::new(*pid).and_then(|process| process.stat()).ok().map(|stat| stat.ppid);
    std::iter::successors(parent(&pid), parent).take(GENERATIONS).any(|pid| pid == ancestor)
}

fn matching(process: &Process, prefixes: &[impl AsRef<str>], parent: Option<i32>) -> Option<Found> {
    let stat = process.stat().ok()?;
    // Zombies and the dead have no executable left to end.
    if matches!(stat.state, 'Z' | 'X' | 'x') || parent.is_some_and(|parent| stat.ppid != parent) {
        return None;
    }
    let exe = process.exe().ok().and_then(|path| {
        let name = path.file_name()?.to_string_lossy();
        Some(name.trim_end_matches(" (deleted)").to_owned())
    });
    match exe {
        Some(name) if command_matches(&name, prefixes) => Some(Found { pid: process.pid, name }),
        Some(_) | None => comm_matches(&stat.comm, prefixes).then_some(Found { pid: process.pid, name: stat.comm }),
    }
}

/// A process and when it began, which together are never used twice while the machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// Its start, in clock ticks since the machine's.
    pub started: u64,
}

/// The process that has this number now; none if there is none, or only its zombie.
pub fn identify(pid: i32) -> Option<ProcessId> {
    let stat = Process::new(pid).and_then(|process| process.stat()).ok()?;
    (!matches!(stat.state, 'Z' | 'X' | 'x')).then_some(ProcessId { pid, started: stat.starttime })
}

/// A pid file could not be used.
#[derive(Debug, thiserror::Error)]
#[error("pid file {path}: {source}")]
pub struct PidFileError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Reads a pid file: a decimal number, with or without white space around it.
pub fn read_pid_file(path: &Path) -> Result<i32, PidFileError> {
    let failed = |source| PidFileError { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    match text.trim().parse::<i32>() {
        Ok(pid) if pid > 0 => Ok(pid),
        Ok(_) => Err(failed(io::Error::new(io::ErrorKind::InvalidData, "not a process number"))),
        Err(error) => Err(failed(io::Error::new(io::ErrorKind::InvalidData, error))),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::process::testing::install;

    #[test]
    fn name_in_the_arguments_is_not_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let hypervisor = folder.path().join("qemu-system-test");
        install(Path::new("/bin/sleep"), &hypervisor);
        let mut real = Command::new(&hypervisor).arg("60").spawn().unwrap();
        let mut named = Command::new("cat").arg("-").arg("/dev/null").stdin(Stdio::piped()).spawn().unwrap();
        let mut disguised =
            Command::new("sh").args(["-c", "read line", "qemu-system-test"]).stdin(Stdio::piped()).spawn().unwrap();
        let own = std::process::id() as i32;
        // The kernel shows the new executable only after exec; spawn returns later than that.
        let found = find_by_command_prefix(&["qemu-system", "qemu-kvm"], Some(own));
        assert_eq!(found, [Found { pid: real.id() as i32, name: "qemu-system-test".into() }]);
        assert_eq!(find_descendants_by_command_prefix(&["qemu-system"], own), found);
        assert_eq!(find_descendants_by_command_prefix(&["qemu-system"], real.id() as i32), []);
        real.kill().unwrap();
        // Killed but not yet waited for: a zombie is not found.
        let pidfd = super::super::PidFd::open(real.id() as i32).unwrap();
        assert!(pidfd.wait_until(std::time::Instant::now() + std::time::Duration::from_secs(10)).unwrap());
        assert_eq!(find_by_command_prefix(&["qemu-system"], Some(own)), []);
        real.wait().unwrap();
        for child in [&mut named, &mut disguised] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn family_is_who_descends_from_it_and_who_cannot_be_asked() {
        let own = std::process::id() as i32;
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(may_belong_to(own, own) && may_belong_to(pid, own));
        assert!(!may_belong_to(own, pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(may_belong_to(pid, own), "it has ended");
    }

    #[test]
    fn names_match_from_their_start() {
        let prefixes = ["qemu-system", "cloud-hypervisor"];
        for (name, by_exe, by_comm) in [
            ("qemu-system-x86_64", true, true),
            ("qemu-system-x86", true, true),
            ("cloud-hyperviso", false, true),
            ("cloud-hyper", false, false),
            ("not-qemu-system", false, false),
            ("", false, false),
        ] {
            assert_eq!((command_matches(name, &prefixes), comm_matches(name, &prefixes)), (by_exe, by_comm), "{name}");
        }
        assert!(!command_matches("anything", &[""]));
    }

    #[test]
    fn pid_files_are_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pid");
        for (text, pid) in [("42", Some(42)), ("42\n", Some(42)), ("", None), ("-1", None), ("0", None), ("x", None)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read_pid_file(&path).ok(), pid, "{text:?}");
        }
        let missing = read_pid_file(&folder.path().join("b.pid")).unwrap_err();
        assert!(missing.to_string().contains("b.pid"), "{missing}");
    }
}
