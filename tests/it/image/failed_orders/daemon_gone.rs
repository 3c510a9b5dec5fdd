//! Orders in the middle of which libvirt's daemon goes.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::adoption::the_daemon;
use super::super::{owner, send};
use super::{KNOWN, Order, State, boot, running, start, state, vmi};
use crate::support::pod::{Setup, copy_out, image, text};
use crate::support::subject::HypervisorUnderTest;
use crate::support::{expect, wait_for, write_program};

/// The daemon is stopped, so that it has the order and does nothing, and then killed.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn order_whose_daemon_goes_in_the_middle_is_followed_by_a_refresh() {
    let image = image();
    let subject = HypervisorUnderTest::from_environment();
    let watched = start(Setup::new(&image, "demo"), &subject);
    boot(&watched);
    let pod = &watched.pod;
    let before = [("unpause", "Paused", "User"), ("sync", "Paused", "User")];
    let others =
        ["pause", "reset", "soft-reboot", "shutdown", "kill", "delete", "freeze", "unfreeze", "sync-cpus", "sync"];
    let others = others.map(|order| (order, "Running", "Unknown"));
    for (order, status, reason) in others.into_iter().chain(before) {
        let order = match order {
            "sync" => Order::with(&["--timeout", "60", "sync"], running(|_| {})),
            "sync-cpus" => Order::with(&["sync-cpus"], running(|vmi| vmi["spec"]["domain"]["cpu"]["cores"] = json!(1))),
            other => Order::new(&[other]),
        };
        if status == "Paused" {
            wait_for("a pause", KNOWN, || {
                let paused = pod.ctl(&["pause"]);
                expect(paused.status.success() && pod.status() == "Paused", text(&paused))
            });
        }
        let launcher = owner(pod);
        let daemon = wait_for("a daemon", KNOWN, || the_daemon(launcher).ok_or_else(|| pod.log()));
        let pin = watched.leave_trace();
        send(daemon, Signal::SIGSTOP);
        let given = std::thread::scope(|scope| {
            let given = scope.spawn(|| order.give(pod));
            // A moment: how far the order has come by then must not matter.
            std::thread::sleep(std::time::Duration::from_millis(300));
            send(daemon, Signal::SIGKILL);
            given.join().unwrap()
        });
        eprintln!("{}: {}", order.name(), text(&given).trim());
        let wanted = State(status.into(), reason.into(), pin);
        // An order that was repeated to the next daemon may have been carried out; a VM that was ended or deleted is not here.
        watched.assert_known(&order.name(), KNOWN, &wanted);
        assert_eq!(owner(pod), launcher);
        wait_for("another daemon", KNOWN, || expect(the_daemon(launcher).is_some_and(|pid| pid != daemon), pod.log()));
        wait_for("libvirt", KNOWN, || {
            let listed = pod.try_exec(&[
                "sh",
                "-c",
                "virsh -c 'qemu:///session?socket=/run/libvirt/virtqemud-sock' list || \
                virsh -c 'qemu:///session?socket=/run/libvirt/libvirt-sock' list",
            ]);
            expect(listed.status.success(), text(&listed))
        });
    }
    assert!(pod.ctl(&["kill"]).status.success());
    pod.wait_status("Shutoff");
}

/// QEMU's start lasts until the file is removed.
const SLOW_QEMU: &str = "#!/bin/sh
case \"$*\" in *guest=default_*)
    : >/var/run/kubevirt/starting
    while [ -e /var/run/kubevirt/qemu-waits ]; do sleep 0.1; done ;;
esac
exec /usr/bin/qemu-system-x86_64.real \"$@\"
";

/// What this test mounts in QEMU's place.
fn slow_qemu(image: &str, dir: &TempDir) -> (PathBuf, PathBuf) {
    let (script, real) = (dir.path().join("qemu"), dir.path().join("qemu.real"));
    write_program(&script, SLOW_QEMU);
    copy_out(image, "/usr/bin/qemu-system-x86_64", &real);
    (script, real)
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn start_whose_daemon_goes_in_the_middle_is_not_left_starting() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let (script, real) = slow_qemu(&image, &dir);
    let setup = Setup::new(&image, "demo")
        .mount(&script, "/usr/bin/qemu-system-x86_64")
        .mount(&real, "/usr/bin/qemu-system-x86_64.real");
    let subject = HypervisorUnderTest::from_environment();
    let watched = start(setup, &subject);
    let pod = &watched.pod;
    let (waits, starting) = (pod.volume("public").join("qemu-waits"), pod.volume("public").join("starting"));
    fs::write(&waits, "").unwrap();
    let launcher = owner(pod);
    std::thread::scope(|scope| {
        let synced = scope.spawn(|| pod.sync(&vmi().to_string()));
        wait_for("the middle of the start", KNOWN, || expect(starting.exists(), pod.log()));
        // Whether a look has seen this moment depends on when libvirt tells of the define.
        send(the_daemon(launcher).unwrap(), Signal::SIGKILL);
        let synced = synced.join().unwrap();
        assert!(!synced.status.success(), "{}", text(&synced));
    });
    fs::remove_file(&waits).unwrap();
    let is_over = |domain: &Value| {
        let State(status, reason, _) = state(domain);
        expect(reason != "StartingUp" && status != "Running", format!("{status} {reason}: {}", pod.log()))
    };
    wait_for("GetDomain", KNOWN, || is_over(&pod.domain()));
    wait_for("the last event", KNOWN, || watched.last().map_or(Ok(()), |last| is_over(&last)));
    wait_for("a sync that starts the VM", KNOWN, || {
        let synced = pod.sync(&vmi().to_string());
        expect(synced.status.success(), text(&synced))
    });
    pod.wait_status("Running");
    subject.process(pod);
    watched.assert_known("the next sync", KNOWN, &State("Running".into(), "Unknown".into(), String::new()));
}
