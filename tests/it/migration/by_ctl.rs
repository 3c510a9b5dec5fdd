//! `virt-launcher ctl migrate`, which does the work of both virt-handlers: no double of them carries anything here.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

use super::Shell;
use super::pair::{MOVED, SOON, source, target};
use super::side::Side;
use super::vm::{SLOW, Vm};
use crate::support::export_server::{Authority, Identity};
use crate::support::pod::text;
use crate::support::{expect, wait_for};

/// One side's `ctl migrate`.
struct Ctl(Option<Child>);

impl Ctl {
    fn start(socket: &Path, arguments: &[&str]) -> Ctl {
        let child = Command::new(env!("CARGO_BIN_EXE_virt-launcher"))
            .args(["ctl", "--socket"])
            .arg(socket)
            .arg("migrate")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Ctl(Some(child.unwrap()))
    }

    fn child(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }

    /// Waits for its end; returns the exit code and both outputs.
    fn end(mut self) -> (i32, String) {
        wait_for("the end of ctl migrate", MOVED, || {
            let ended = self.child().try_wait().unwrap();
            expect(ended.is_some(), "it runs on".to_owned())
        });
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        (output.status.code().unwrap_or(-1), text(&output))
    }
}

impl Drop for Ctl {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The VM's file, as a user has it: without a status.
fn file(vm: &Vm, folder: &Path) -> PathBuf {
    let mut document = vm.document();
    document.as_object_mut().unwrap().remove("status");
    let path = folder.join("vmi.json");
    std::fs::write(&path, document.to_string()).unwrap();
    path
}

/// The guest goes on at the target where it was at the source, and the source's container has ended.
fn check_moved(source: &Side, target: &Side) {
    let last = source.beats().last().copied().unwrap_or_default();
    let first = wait_for("the guest's heartbeat at the target", SOON, || {
        target.beats().first().copied().ok_or_else(|| target.story())
    });
    assert!(first > last && first - last < 60.0, "the guest's uptime: {last} at the source, {first} at the target");
    assert_eq!(source.pod.wait_exit_within(SOON), 0, "{}", source.story());
    let seen = target.seen();
    assert_eq!(seen.status, "Running", "{}", target.story());
    assert!(seen.has_ended(), "{seen:?}");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn ctl_migrate_moves_a_vm_to_another_launcher_of_the_machine() {
    let folder = tempfile::tempdir().unwrap();
    let vm = Vm::on_a_shared_disk("by-ctl");
    let source = source(&vm);
    let checksum = Shell::of(&source).fill_memory();
    let target = target(&vm);
    let vmi = file(&vm, folder.path());
    let socket = target.pod.socket();
    let arguments = [&vmi.to_string_lossy(), "--to", &socket.to_string_lossy(), "--follow", "--bandwidth", "32Mi"];
    let (code, output) = Ctl::start(&source.pod.socket(), &arguments).end();
    assert_eq!(code, 0, "{output}\n{}\n{}", source.story(), target.story());
    assert!(output.contains("the VM runs at the target") && output.contains(" left"), "{output}");
    check_moved(&source, &target);
    assert_eq!(Shell::of(&target).checksum(), checksum);
    let left: Vec<_> = std::fs::read_dir(source.pod.volume("public").join("migrationproxy")).unwrap().collect();
    assert!(left.is_empty(), "sockets are left: {left:?}");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn ctl_migrate_moves_a_vm_and_its_disks_between_two_machines() {
    let folder = tempfile::tempdir().unwrap();
    let vm = Vm::on_local_disks("by-two-ctl");
    let source = source(&vm);
    Shell::of(&source).run("seq 1 200000 | dd of=/dev/vdc bs=64k conv=fsync 2>/dev/null");
    const DISK: &str = "echo 3 >/proc/sys/vm/drop_caches; md5sum </dev/vdc";
    let disk = Shell::of(&source).run(DISK);
    let target = target(&vm);
    let authority = Authority::new();
    std::fs::write(folder.path().join("ca"), &authority.pem).unwrap();
    let tls = |name: &str, purpose| {
        let Identity { certificate, key } = authority.sign("localhost", purpose);
        let path = |what: &str| folder.path().join(format!("{name}.{what}")).display().to_string();
        std::fs::write(path("crt"), certificate).unwrap();
        std::fs::write(path("key"), key).unwrap();
        let ca = folder.path().join("ca").display().to_string();
        ["--ca".to_owned(), ca, "--certificate".to_owned(), path("crt"), "--key".to_owned(), path("key")]
    };
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("127.0.0.1:{free}");
    let identity = tls("target", ServerAuth);
    let mut arguments = vec!["--listen", &listen];
    arguments.extend(identity.iter().map(String::as_str));
    let mut there = Ctl::start(&target.pod.socket(), &arguments);
    let mut said = String::new();
    BufReader::new(there.child().stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("waiting for the source's side"), "{said}");

    let (vmi, connect) = (file(&vm, folder.path()), format!("localhost:{free}"));
    let (vmi, identity) = (vmi.to_string_lossy(), tls("source", ClientAuth));
    let mut arguments = vec![&*vmi, "--connect", &connect];
    arguments.extend(identity.iter().map(String::as_str));
    let (code, output) = Ctl::start(&source.pod.socket(), &arguments).end();
    assert_eq!(code, 0, "{output}\n{}\n{}", source.story(), target.story());
    let (code, output) = there.end();
    assert_eq!(code, 0, "{output}");
    check_moved(&source, &target);
    assert_eq!(Shell::of(&target).run(DISK), disk);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn ctl_migrate_that_is_interrupted_leaves_the_guest_at_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let vm = Vm::on_a_shared_disk("by-ctl-abort");
    let (source, target) = (source(&vm), target(&vm));
    let (vmi, socket) = (file(&vm, folder.path()), target.pod.socket());
    let arguments = [&vmi.to_string_lossy(), "--to", &socket.to_string_lossy(), "--follow", "--bandwidth", SLOW];
    let mut ctl = Ctl::start(&source.pod.socket(), &arguments);
    let mut progress = String::new();
    let mut shown = BufReader::new(ctl.child().stderr.take().unwrap());
    while !progress.contains(" left") {
        assert_ne!(shown.read_line(&mut progress).unwrap(), 0, "{progress}\n{}", source.story());
    }
    kill(Pid::from_raw(i32::try_from(ctl.child().id()).unwrap()), Signal::SIGINT).unwrap();
    while !progress.contains("the VM stays at the source: ") {
        assert_ne!(shown.read_line(&mut progress).unwrap(), 0, "{progress}\n{}", source.story());
    }
    let (code, _) = ctl.end();
    assert_eq!(code, 1);
    assert!(progress.contains("Live migration has been aborted"), "{progress}");
    assert_eq!(source.record().unwrap().abort, "Succeeded");
    let before = source.beats().len();
    wait_for("the guest's heartbeat at the source", SOON, || expect(source.beats().len() >= before + 2, source.seen()));
    assert!([0, 2].contains(&target.pod.wait_exit_within(SOON)), "{}", target.story());
}
