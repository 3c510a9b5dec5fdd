//! The threads that run virtual CPUs, by their names.

use std::collections::BTreeMap;
use std::io;

use regex::Regex;

use super::ProcessError;

/// Thread numbers by virtual CPU, of the process `pid`. A thread counts if `regex` (the catalogue's `vcpuRegex`, such as
/// `^CPU (\d+)/KVM\n$`) matches the text of its `comm` file, newline included; the first group is the CPU's number.
/// Threads that end meanwhile are skipped; a missing process is an error.
pub fn vcpu_threads(pid: i32, regex: &Regex) -> Result<BTreeMap<u32, i32>, ProcessError> {
    let failed = |source: procfs::ProcError| ProcessError {
        pid,
        what: "list its threads",
        source: io::Error::other(source.to_string()),
    };
    let tasks = procfs::process::Process::new(pid).and_then(|process| process.tasks()).map_err(failed)?;
    let mut threads = BTreeMap::new();
    for task in tasks.filter_map(Result::ok) {
        let Ok(name) = std::fs::read(format!("/proc/{pid}/task/{}/comm", task.tid)) else { continue };
        if let Some(cpu) = vcpu_number(&String::from_utf8_lossy(&name), regex) {
            threads.insert(cpu, task.tid);
        }
    }
    Ok(threads)
}

/// The virtual CPU that a thread of this name runs.
fn vcpu_number(name: &str, regex: &Regex) -> Option<u32> {
    regex.captures(name)?.get(1)?.as_str().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_numbers() {
        let regex = Regex::new(r"^CPU (\d+)/KVM\n$").unwrap();
        let table = [
            ("CPU 0/KVM\n", Some(0)),
            ("CPU 17/KVM\n", Some(17)),
            ("CPU 17/KVM", None),
            ("CPU 17/TCG\n", None),
            ("xCPU 1/KVM\n", None),
            ("CPU 99999999999/KVM\n", None),
        ];
        for (name, cpu) in table {
            assert_eq!(vcpu_number(name, &regex), cpu, "{name:?}");
        }
        // A pattern without a group names no CPU.
        assert_eq!(vcpu_number("vcpu1\n", &Regex::new("^vcpu").unwrap()), None);
    }

    #[test]
    fn threads_are_found_by_name() {
        let (started, ready) = std::sync::mpsc::channel();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("CPU 3/KVM".into())
            .spawn(move || {
                started.send(nix::unistd::gettid().as_raw()).unwrap();
                let _ = stopped.recv();
            })
            .unwrap();
        let tid = ready.recv().unwrap();
        let regex = Regex::new(r"^CPU (\d+)/KVM\n$").unwrap();
        let found = vcpu_threads(std::process::id() as i32, &regex).unwrap();
        assert_eq!(found, BTreeMap::from([(3, tid)]));
        drop(stop);
        thread.join().unwrap();
        assert!(vcpu_threads(i32::MAX, &regex).is_err());
    }
}
