//! The helper programs as their callers start them: the binary under their names, or by subcommand.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::guest::{Guest, Launcher};
use crate::support::{expect, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use virt_launcher::process::PidFd;

const SOON: Duration = Duration::from_secs(60);

fn tool(name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_virt-launcher"));
    command.arg(name).stdin(Stdio::null());
    command
}

/// Waits for the end with a deadline; kills what is still there when the test ends otherwise.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Running(command.spawn().unwrap())
    }

    fn end(mut self) -> ExitStatus {
        let pidfd = PidFd::open(self.0.id() as i32).unwrap();
        assert!(pidfd.wait_until(Instant::now() + SOON).unwrap(), "it does not end");
        self.0.wait().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Both programs that serve container disks: the role of the launcher's binary, and the small one.
fn container_disks() -> [fn() -> Command; 2] {
    [|| tool("container-disk"), || Command::new(env!("CARGO_BIN_EXE_container-disk"))]
}

fn serving(mut program: Command, folder: &Path) -> (Running, PathBuf) {
    let path = folder.join("made/disk_0");
    let running = Running::start(program.arg("--copy-path").arg(&path));
    let socket = folder.join("made/disk_0.sock");
    wait_for("a connection", SOON, || UnixStream::connect(&socket).map(drop));
    (running, socket)
}

#[test]
fn container_disk_closes_every_connection_and_ends_with_its_file() {
    for program in container_disks() {
        let folder = TempDir::new().unwrap();
        let (running, socket) = serving(program(), folder.path());
        for _ in 0..200 {
            let mut connection = UnixStream::connect(&socket).unwrap();
            let peer = nix::sys::socket::getsockopt(&connection, nix::sys::socket::sockopt::PeerCredentials).unwrap();
            assert_eq!(peer.pid(), running.0.id() as i32, "it called listen itself");
            assert_eq!(connection.read(&mut [0]).unwrap(), 0);
        }
        std::fs::remove_file(&socket).unwrap();
        assert_eq!(running.end().code(), Some(0));

        let (running, _) = serving(program(), folder.path());
        std::fs::remove_dir_all(folder.path().join("made")).unwrap();
        assert_eq!(running.end().code(), Some(0));
    }
}

#[test]
fn container_disk_takes_its_file_along_on_sigterm() {
    for program in container_disks() {
        let folder = TempDir::new().unwrap();
        let (running, socket) = serving(program(), folder.path());
        running.signal(Signal::SIGTERM);
        assert_eq!(running.end().code(), Some(0));
        assert!(!socket.exists());
    }
}

#[test]
fn container_disk_takes_every_form_of_its_flags() {
    for program in container_disks() {
        let folder = TempDir::new().unwrap();
        for form in [&["--copy-path", "disk_0"][..], &["--copy-path=disk_0"], &["-c", "disk_0"], &["-cdisk_0"]] {
            let running = Running::start(program().args(form).current_dir(folder.path()));
            let socket = folder.path().join("disk_0.sock");
            wait_for("a connection", SOON, || UnixStream::connect(&socket).map(drop));
            std::fs::remove_file(&socket).unwrap();
            assert_eq!(running.end().code(), Some(0), "{form:?}");
        }
        for form in [&["--no-op"][..], &["--no-op", "--unknown"], &["-c", "/a/b/c/d", "--no-op"]] {
            assert_eq!(program().args(form).output().unwrap().status.code(), Some(0), "{form:?}");
        }
    }
}

#[test]
fn container_disk_refuses_what_it_cannot_serve() {
    for program in container_disks() {
        let folder = TempDir::new().unwrap();
        let existing = folder.path().join("there.sock");
        std::fs::write(&existing, "").unwrap();
        let there = folder.path().join("there");
        let long = format!("/tmp/{}", "x".repeat(98));
        let longer = format!("/tmp/{}", "x".repeat(1000));
        let deep = folder.path().join("a/b/c");
        for (arguments, word) in [
            (vec!["-c", there.to_str().unwrap()], "there.sock: Address already in use"),
            (vec!["--copy-path", &long], "103 bytes, more than 102"),
            (vec!["--copy-path", &longer], "1005 bytes, more than 102"),
            (vec!["-c", deep.to_str().unwrap()], "the directory of"),
            (vec!["--unknown", "--no-op"], "--unknown"),
            (vec!["word"], "word"),
            (vec!["--copy-path"], "--copy-path"),
            (vec!["--copy-path", ""], "listen at"),
            (vec![], "--copy-path"),
        ] {
            let output = program().args(&arguments).current_dir("/proc").output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
            assert!(text.contains(word), "{arguments:?}: {text}");
        }
    }
}

#[test]
fn virt_tail_prints_complete_lines_through_rotation() {
    let folder = TempDir::new().unwrap();
    let log = folder.path().join("u-1/virt-serial0-log");
    let mut running = Running::start(
        tool("virt-tail").arg("--logfile").arg(&log).args(["--unknown", "word", "-v", "3"]).stdout(Stdio::piped()),
    );
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    std::fs::create_dir(log.parent().unwrap()).unwrap();
    let mut file = std::fs::File::create(&log).unwrap();
    file.write_all(b"one\ntw").unwrap();
    assert_eq!(line(), "one");
    file.write_all(b"o\nbefore\nunfini").unwrap();
    assert_eq!((line(), line()), ("two".into(), "before".into()));
    std::fs::rename(&log, folder.path().join("u-1/virt-serial0-log.0")).unwrap();
    file.write_all(b"shed\n").unwrap();
    let mut file = std::fs::File::create(&log).unwrap();
    file.write_all(b"after\n").unwrap();
    assert_eq!((line(), line()), ("unfinished".into(), "after".into()));
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().code(), Some(0));
    assert_eq!(tool("virt-tail").output().unwrap().status.code(), Some(1));
}

struct Pod {
    folder: TempDir,
    launcher: Launcher,
    _runtime: tokio::runtime::Runtime,
}

impl Pod {
    fn with(guest: Guest) -> Self {
        let folder = TempDir::new().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let launcher = Launcher::default();
        *launcher.guest.lock().unwrap() = guest;
        {
            let _inside = runtime.enter();
            launcher.serve(&folder.path().join("sock"));
        }
        Pod { folder, launcher, _runtime: runtime }
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Output {
        tool(name).arg("--socket").arg(self.folder.path().join("sock")).args(arguments).output().unwrap()
    }

    fn code(&self, name: &str, arguments: &[&str]) -> Option<i32> {
        self.run(name, arguments).status.code()
    }

    fn becomes(&self, guest: Guest) {
        *self.launcher.guest.lock().unwrap() = guest;
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.launcher.asked.lock().unwrap())
    }
}

#[test]
fn virt_probe_hands_the_guests_exit_code_on() {
    let pod = Pod::with(Guest { exec: Some((3, "out")), answers: true, ..Guest::default() });
    let arguments =
        ["--domainName", "ns_vm", "--timeoutSeconds", "7", "--command", "cat", "--", "--v", "a \"b\"", "--command"];
    let output = pod.run("virt-probe", &arguments);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), b"out\n".as_slice()));
    assert_eq!(pod.asked(), [r#"exec ns_vm 7 cat ["--v", "a \"b\"", "--command"]"#]);
    assert_eq!(pod.code("virt-probe", &["--domainName", "ns_vm", "--guestAgentPing"]), Some(0));
    assert_eq!(pod.asked(), ["ping ns_vm 1"]);

    pod.becomes(Guest { exec: Some((0, "")), ..Guest::default() });
    let output = pod.run("virt-probe", &["--command", "true"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    assert_eq!(pod.code("virt-probe", &["--guestAgentPing=true"]), Some(2));
    pod.becomes(Guest::default());
    let output = pod.run("virt-probe", &["--command", "true"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("did not end in time") && text.contains("\"component\":\"virt-probe\""), "{text}");
    assert_eq!(pod.code("virt-probe", &[]), Some(2));
    assert_eq!(
        tool("virt-probe").args(["--socket", "/nonexistent/sock", "--command", "x"]).output().unwrap().status.code(),
        Some(1)
    );
}

#[test]
fn virt_freezer_freezes_and_thaws_what_can_be() {
    let running = Guest { agent: "5.2.0", status: Some("Running"), ..Guest::default() };
    let pod = Pod::with(running.clone());
    let vm = ["--name", "vm", "--namespace", "ns"];
    let with = |flags: &[&'static str]| [&vm, flags].concat();
    assert_eq!(pod.code("virt-freezer", &with(&["--freeze", "--unfreeze"])), Some(0));
    assert_eq!(pod.code("virt-freezer", &with(&["--freeze", "--unfreezeTimeoutSeconds", "0"])), Some(0));
    assert_eq!(pod.code("virt-freezer", &with(&["--unfreeze"])), Some(0));
    assert_eq!(pod.asked(), ["freeze ns/vm 300", "freeze ns/vm 0", "unfreeze ns/vm"]);

    pod.becomes(Guest { agent: "", ..running.clone() });
    assert_eq!(pod.code("virt-freezer", &with(&["--freeze"])), Some(0));
    pod.becomes(Guest { status: Some("Paused"), ..running.clone() });
    assert_eq!(pod.code("virt-freezer", &with(&["--freeze"])), Some(0));
    pod.becomes(Guest { status: None, ..running.clone() });
    assert_eq!(pod.code("virt-freezer", &with(&["--unfreeze"])), Some(0));
    assert_eq!(pod.asked(), Vec::<String>::new(), "nothing to freeze");

    pod.becomes(Guest { freeze_error: "Guest agent not available for now", ..running.clone() });
    assert_eq!(pod.code("virt-freezer", &with(&["--freeze"])), Some(1));
    assert_eq!(pod.asked(), ["freeze ns/vm 300", "unfreeze ns/vm"]);
    pod.becomes(Guest { freeze_error: "no", unfreeze_error: "fsfreeze is limited up to 10 seconds", ..running });
    assert_eq!(pod.code("virt-freezer", &with(&["--freeze"])), Some(1));
    let output = pod.run("virt-freezer", &with(&["--unfreeze"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("limits fsfreeze"));

    pod.asked();
    assert_eq!(pod.code("virt-freezer", &["--freeze", "--name", "vm"]), Some(1));
    assert_eq!(pod.code("virt-freezer", &vm), Some(1));
    assert_eq!(pod.code("virt-freezer", &["--nonsense"]), Some(2));
    assert_eq!(pod.asked(), Vec::<String>::new());
    expect(tool("virt-freezer").args(with(&["--freeze"])).output().unwrap().status.code() == Some(1), "no socket")
        .unwrap();
}
