//! A directory that plays the container, the monitor in it, and what scripts of the launcher can use.
#![allow(unsafe_code, reason = "a handler of a signal")]

use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use virt_launcher::process::PidFd;

/// No test waits longer for anything; on a free machine all of it takes a fraction.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The released binary, if it is given.
pub fn released() -> Option<PathBuf> {
    std::env::var_os("VIRT_LAUNCHER_STATIC").map(PathBuf::from)
}

/// The binary under test.
pub fn binary() -> PathBuf {
    released().unwrap_or_else(|| env!("CARGO_BIN_EXE_virt-launcher").into())
}

/// A directory that plays the container: the monitor and its launcher side by side.
pub struct Container {
    pub folder: tempfile::TempDir,
}

impl Container {
    /// `script` is the launcher, in bash; `$DIR` is the directory.
    pub fn new(script: &str) -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let monitor = folder.path().join("virt-launcher-monitor");
        if fs::hard_link(binary(), &monitor).is_err() {
            assert!(Command::new("cp").arg(binary()).arg(&monitor).status().unwrap().success());
        }
        let container = Container { folder };
        let launcher = container.path("virt-launcher");
        // Written by another process: a descriptor open for writing here could reach a child that another test starts
        // at this moment, and the kernel would refuse to execute the file.
        let made = Command::new("bash")
            .args(["-c", "printf '#!/bin/bash\\nulimit -c 0\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\""])
            .args([launcher.as_os_str(), script.as_ref()])
            .status()
            .unwrap();
        assert!(made.success());
        container
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        path
    }

    /// A program of this name, which is this test binary: it can play a patient process.
    pub fn program(&self, name: &str) {
        fs::hard_link(std::env::current_exe().unwrap(), self.path(name)).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn start(&self, words: &[&str]) -> Monitor {
        let log = File::create(self.path("log")).unwrap();
        let child = Command::new(self.path("virt-launcher-monitor"))
            .args(words)
            .env("DIR", self.folder.path())
            .env("HELPER", std::env::current_exe().unwrap())
            .env_remove("VIRT_LAUNCHER_LOG_VERBOSITY")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Monitor { child, log: self.path("log") }
    }

    pub fn run(&self, words: &[&str]) -> i32 {
        self.start(words).wait()
    }

    /// Log records of the monitor.
    pub fn records(&self) -> Vec<serde_json::Value> {
        self.read("log").lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }

    pub fn record(&self, message: &str) -> serde_json::Value {
        let found = self.records().into_iter().find(|record| record["msg"].as_str().unwrap().starts_with(message));
        found.unwrap_or_else(|| panic!("no {message:?} in\n{}", self.read("log")))
    }
}

pub struct Monitor {
    pub child: Child,
    pub log: PathBuf,
}

impl Monitor {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn wait(mut self) -> i32 {
        let ended = PidFd::open(self.pid()).unwrap().wait_until(Instant::now() + PATIENCE).unwrap();
        assert!(ended, "the monitor does not end; its log:\n{}", fs::read_to_string(&self.log).unwrap());
        self.child.wait().unwrap().code().expect("the monitor was killed by a signal")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    pub fn status(&self, key: &str) -> String {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Only of use when a test fails: then nothing is left behind.
        if matches!(self.child.try_wait(), Ok(None)) {
            for child in children(self.pid()) {
                let _ = kill(Pid::from_raw(child.pid), Signal::SIGKILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child as it was seen: its state was read between the two instants.
pub struct Seen {
    pub pid: i32,
    pub state: char,
    pub after: Instant,
    pub before: Instant,
}

/// Children of `parent` with their states.
pub fn children(parent: i32) -> Vec<Seen> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let see = |pid: i32| {
        let after = Instant::now();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
        Some(Seen { pid, state, after, before: Instant::now() })
    };
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(see).collect()
}

/// Waits until `condition` gives something.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    wait_for(what, PATIENCE, || condition().ok_or("not yet"))
}

/// `patient PROGRAM READY CODE`: becomes that program, which waits for SIGTERM ([`helper_process_patient`]).
/// `orphan PROGRAM ARGUMENT`: starts it as a daemon, with code 0, and returns when it is ready; its number is then in
/// `orphan.pid`.
pub const FUNCTIONS: &str = r#"
patient() {
    READY="$DIR/$2" CODE="$3" exec "$1" --ignored --exact monitor::container::helper_process_patient $4 >/dev/null
}
orphan() {
    (patient "$DIR/$1" orphan.ready 0 "$2" &)
    read -r pid <"$DIR/orphan.ready"
    echo "$pid" >"$DIR/orphan.pid"
}
"#;

#[test]
#[ignore = "a helper process that waits for SIGTERM, then leaves a file `graceful` and its exit code"]
fn helper_process_patient() {
    use std::os::fd::IntoRawFd;
    use std::sync::atomic::{AtomicI32, Ordering};

    static CODE: AtomicI32 = AtomicI32::new(0);
    static NOTE: AtomicI32 = AtomicI32::new(-1);
    // Whatever the process is doing, it ends at once; a shell's trap may wait for a `read` to return.
    extern "C" fn leave(_: libc::c_int) {
        let text = b"yes\n";
        // SAFETY: both may be called from a signal handler.
        unsafe {
            libc::write(NOTE.load(Ordering::SeqCst), text.as_ptr().cast(), text.len());
            libc::_exit(CODE.load(Ordering::SeqCst));
        }
    }
    let directory = PathBuf::from(std::env::var_os("DIR").unwrap());
    CODE.store(std::env::var("CODE").unwrap().parse().unwrap(), Ordering::SeqCst);
    let note = OpenOptions::new().create(true).append(true).open(directory.join("graceful")).unwrap();
    NOTE.store(note.into_raw_fd(), Ordering::SeqCst);
    // SAFETY: the handler keeps to what a handler may do.
    unsafe { libc::signal(libc::SIGTERM, leave as *const () as libc::sighandler_t) };
    fs::write(std::env::var_os("READY").unwrap(), format!("{}\n", std::process::id())).unwrap();
    loop {
        nix::unistd::pause();
    }
}
