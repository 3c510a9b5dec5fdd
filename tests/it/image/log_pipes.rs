//! The logs of a VM whose virtlogd dies, or has no room to write them: the launcher takes the pipes over, and nothing that
//! there was room for is lost.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::adoption::{own_lines, the_hypervisor, the_virtlogd};
use super::{owner, send};
use crate::support::pod::{Pod, Setup, UID, image};
use crate::support::subject::{self, HypervisorUnderTest};
use crate::support::{expect, wait_for};

/// For what the launcher does by itself, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// A guest that repeats what it is sent, which QEMU writes to the log as well.
struct Echo {
    port: UnixStream,
    seen: String,
    sent: u32,
}

impl Echo {
    fn new(port: &Path) -> Echo {
        let port = wait_for("the serial port", SOON, || UnixStream::connect(port));
        port.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut echo = Echo { port, seen: String::new(), sent: 0 };
        // Ends whatever was typed before.
        echo.port.write_all(b"\n").unwrap();
        echo
    }

    /// Sends so many numbered lines and waits for each.
    fn say(&mut self, count: u32) {
        for _ in 0..count {
            let line = line(self.sent);
            self.sent += 1;
            writeln!(self.port, "{line}").unwrap();
            let (answer, begun) = (format!("echo: {line}\n"), Instant::now());
            while !self.seen.contains(&answer) {
                let mut buffer = [0; 4096];
                match self.port.read(&mut buffer) {
                    Ok(0) => panic!("the VM has ended"),
                    Ok(length) => self.seen.push_str(&String::from_utf8_lossy(&buffer[..length])),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(error) => panic!("serial port: {error}"),
                }
                assert!(begun.elapsed() < SOON, "the guest stands still: {}", self.seen);
            }
            self.seen.clear();
        }
    }
}

fn line(number: u32) -> String {
    format!("line {number:05} of many")
}

/// Waits until each of these lines stands in the log, once.
fn wait_logged(pod: &Pod, log: &Path, numbers: std::ops::Range<u32>) {
    wait_for("the console's log", SOON, || {
        let log = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
        let amiss: Vec<u32> =
            numbers.clone().filter(|number| log.matches(&format!("echo: {}", line(*number))).count() != 1).collect();
        expect(amiss.is_empty(), format!("not there, or twice: {amiss:?}\n{}", own_lines(pod)))
    });
}

/// As QEMU writes a warning. A pipe that nobody reads refuses it.
fn warn(hypervisor: u32, words: &str) {
    let path = format!("/proc/{hypervisor}/fd/2");
    let opened = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    writeln!(opened.expect("nobody reads QEMU's standard error"), "{words}").unwrap();
}

fn start(subject: &HypervisorUnderTest, setup: Setup<'_>) -> Pod {
    let pod = subject.ready(setup);
    let vmi = subject::vmi("demo", "");
    let synced = pod.sync(&vmi);
    assert!(synced.status.success(), "{}", super::text(&synced));
    pod.wait_status("Running");
    pod
}

fn wait_forwarded(pod: &Pod, words: &str) {
    wait_for(words, SOON, || {
        let lines = pod.lines();
        let of_qemu = |line: &&String| line.contains("\"subcomponent\":\"qemu\"") && line.contains(words);
        let count = lines.iter().filter(of_qemu).count();
        expect(count == 1, format!("{count} times: {}", own_lines(pod)))
    });
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn console_log_loses_no_line_when_virtlogd_is_killed() {
    let image = image();
    let subject = HypervisorUnderTest::from_environment();
    let pod = start(&subject, Setup::new(&image, "demo").flags(&["--adopt-limit=1000"]));
    let private = pod.volume("private").join(UID);
    let log = private.join("virt-serial0-log");
    pod.wait_console("guest: boot");
    let hypervisor = the_hypervisor(&pod);
    let mut guest = Echo::new(&private.join("virt-serial0"));
    guest.say(20);
    warn(hypervisor, "QEMU before");
    wait_forwarded(&pod, "QEMU before");

    // The launcher comes to know it only later.
    let (launcher, virtlogd) = (owner(&pod), the_virtlogd(&pod).unwrap());
    send(launcher, Signal::SIGSTOP);
    send(virtlogd, Signal::SIGKILL);
    wait_for("the end of virtlogd", SOON, || {
        let state = super::stat(virtlogd).map(|(state, _)| state);
        expect(matches!(state, None | Some('Z')), state)
    });
    guest.say(20);
    warn(hypervisor, "QEMU without virtlogd");
    send(launcher, Signal::SIGCONT);
    wait_logged(&pod, &log, 0..40);
    wait_forwarded(&pod, "QEMU without virtlogd");

    // While it is written to, with the virtlogd that came after it, and by the next launcher.
    let told = "the launcher writes them from now on";
    wait_for(told, SOON, || expect(own_lines(&pod).contains(told), own_lines(&pod)));
    let next = wait_for("another virtlogd", SOON, || the_virtlogd(&pod).filter(|pid| *pid != virtlogd).ok_or("none"));
    send(next, Signal::SIGKILL);
    guest.say(50);
    wait_logged(&pod, &log, 0..90);
    pod.replace_launcher();
    wait_for(told, SOON, || expect(own_lines(&pod).matches(told).count() == 2, own_lines(&pod)));
    let from = guest.sent;
    guest.say(20);
    warn(hypervisor, "QEMU under the next launcher");
    wait_logged(&pod, &log, from..guest.sent);
    wait_forwarded(&pod, "QEMU under the next launcher");
    assert_eq!(the_hypervisor(&pod), hypervisor);
    assert_eq!(pod.status(), "Running");
}

/// A small file system of its own for the directory of the console's log.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=256k,uid=107,gid=107,mode=0755", "log"];
        assert!(Command::new("mount").args(mount).arg(dir.path()).status().unwrap().success());
        SmallDisk(dir)
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// virtlogd closes the pipe of a log that it cannot write, and never opens it again.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn log_whose_disk_was_full_goes_on_when_there_is_room() {
    let image = image();
    let subject = HypervisorUnderTest::from_environment();
    let disk = SmallDisk::new();
    let private = format!("/var/run/kubevirt-private/{UID}");
    let pod = start(&subject, Setup::new(&image, "demo").mount(disk.0.path(), &private));
    let log = disk.0.path().join("virt-serial0-log");
    let mut guest = Echo::new(&disk.0.path().join("virt-serial0"));
    guest.say(20);
    wait_logged(&pod, &log, 0..20);
    let virtlogd = the_virtlogd(&pod).unwrap();

    // Until there is no room left, not even in the page that the log ends in.
    let _ = fs::write(disk.filler(), vec![0; 1 << 20]);
    let mut end = OpenOptions::new().append(true).open(&log).unwrap();
    while end.write(b"x").is_ok() {}
    // The guest goes on.
    wait_for("word of the loss", SOON, || {
        guest.say(1);
        let said = own_lines(&pod);
        let told = ["virtlogd has left 1 logs", "some of it is lost"].iter().all(|words| said.contains(words));
        expect(told, said)
    });
    assert_eq!(the_virtlogd(&pod), Some(virtlogd), "it lives");
    fs::remove_file(disk.filler()).unwrap();
    let from = guest.sent;
    guest.say(10);
    wait_logged(&pod, &log, from..guest.sent);
    assert_eq!(pod.status(), "Running");
}
