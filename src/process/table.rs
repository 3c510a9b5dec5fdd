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

/// Whether an executable of this name is one of the commands that `prefixes` name.
pub fn command_matches(name: &str, prefixes: &[impl AsRef<str>]) -> bool {
    prefixes.iter().any(|prefix| !prefix.as_ref().is_empty() && name.starts_with(prefix.as_ref()))
}

/// Living processes whose executable's name starts with one of `prefixes`, lowest number first; only children of
/// `parent` if it is given. The name is that of `/proc/PID/exe`, or `comm` where the link cannot be read; arguments are
/// never looked at, so that a VM called `qemu-kvm` is nobody's hypervisor. Processes that end meanwhile are skipped.
pub fn find_by_command_prefix(prefixes: &[impl AsRef<str>], parent: Option<i32>) -> Vec<Found> {
    let Ok(processes) = all_processes() else { return Vec::new() };
    let mut found: Vec<Found> =
        processes.filter_map(Result::ok).filter_map(|process| matching(&process, prefixes, parent)).collect();
    found.sort_by_key(|found| found.pid);
    found
}

fn matching(process: &Process, prefixes: &[impl AsRef<str>], parent: Option<i32>) -> Option<Found> {
    let stat = process.stat().ok()?;
    // Zombies and the dead have no executable left to end.
    if matches!(stat.state, 'Z' | 'X' | 'x') || parent.is_some_and(|parent| stat.ppid != parent) {
        return None;
    }
    let name = match process.exe() {
        Ok(path) => path.file_name()?.to_string_lossy().trim_end_matches(" (deleted)").to_owned(),
        Err(_) => stat.comm,
    };
    command_matches(&name, prefixes).then_some(Found { pid: process.pid, name })
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

    #[test]
    fn a_name_in_the_arguments_is_not_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let hypervisor = folder.path().join("qemu-system-test");
        std::fs::copy("/bin/sleep", &hypervisor).unwrap();
        let mut real = Command::new(&hypervisor).arg("60").spawn().unwrap();
        let mut named = Command::new("cat").arg("-").arg("/dev/null").stdin(Stdio::piped()).spawn().unwrap();
        let mut disguised =
            Command::new("sh").args(["-c", "read line", "qemu-system-test"]).stdin(Stdio::piped()).spawn().unwrap();
        let own = std::process::id() as i32;
        // The kernel shows the new executable only after exec; spawn returns later than that.
        let found = find_by_command_prefix(&["qemu-system", "qemu-kvm"], Some(own));
        assert_eq!(found, [Found { pid: real.id() as i32, name: "qemu-system-test".into() }]);
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
