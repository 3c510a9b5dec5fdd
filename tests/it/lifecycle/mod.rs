//! The life of a VM as virt-handler sees it, whatever the hypervisor: the image VIRT_LAUNCHER_IMAGE with the hypervisor
//! VIRT_LAUNCHER_HYPERVISOR (default: kvm). `make test` runs it for QEMU, `make test-forms` for both forms of libvirt
//! besides, `make test-ch` for Cloud Hypervisor.

mod deleted;
mod end;
mod relist;
mod standby;
mod start;

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::beats::Heartbeat;
use crate::support::pod::{Pod, UID, text};
use crate::support::processes::{children, comm, owner, parent, send, try_owner};
use crate::support::subject::{HypervisorUnderTest, ok, vmi};
use crate::support::tiny_guest::type_line;
use crate::support::{expect, wait_for};

/// For a new launcher or daemon to answer, on a busy machine.
const BACK: Duration = Duration::from_secs(60);

/// All that the guest has written.
fn written(pod: &Pod) -> String {
    let log = pod.volume("private").join(UID).join("virt-serial0-log");
    String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
}

/// Waits until the guest has written a line so many times.
fn wait_lines(pod: &Pod, line: &str, count: usize) {
    wait_for(line, BACK, || {
        let written = written(pod);
        let seen = written.lines().filter(|seen| seen.trim() == line).count();
        expect(seen >= count, format!("{seen} times: {written}\n{}", pod.log()))
    });
}

fn reason(pod: &Pod) -> String {
    pod.domain().pointer("/Status/Reason").and_then(|reason| reason.as_str()).unwrap_or_default().to_owned()
}

/// Looks at the console itself: the log of QEMU's does not outlive virtlogd. No other client is served from then on.
fn pause_and_unpause(pod: &Pod) {
    let heartbeat = Heartbeat::listen(pod);
    heartbeat.wait_beat();
    ok(pod.ctl(&["pause"]));
    pod.wait_status("Paused");
    // What was on its way arrives; then there is silence.
    let mut before = heartbeat.count();
    wait_for("silence", BACK, || {
        std::thread::sleep(Duration::from_millis(500));
        let now = heartbeat.count();
        expect(std::mem::replace(&mut before, now) == now, now)
    });
    ok(pod.ctl(&["unpause"]));
    pod.wait_status("Running");
    heartbeat.wait_beat();
}

/// A VM that has nowhere to go, or is asked to receive another, goes on where it is, and virt-handler is told why.
fn migration_without_a_target_is_refused(pod: &Pod) {
    let no_target = ["cannot migrate VMI until migrationState is ready", "MigrateVirtualMachine is not supported by"];
    for (order, reasons) in [("start", &no_target[..]), ("sync-target", &["it runs one itself"])] {
        let refused = pod.ctl(&["migration", order]);
        assert!(!refused.status.success());
        assert!(reasons.iter().any(|why| text(&refused).contains(why)), "{refused:?}");
    }
    ok(pod.ctl(&["migration", "cancel"]));
    assert_eq!(pod.status(), "Running");
}

/// From first boot to graceful shutdown.
fn whole_life(root: bool) {
    let subject = HypervisorUnderTest::from_environment();
    let vmi = vmi("demo", "");
    let pod = subject.ready(subject.setup("demo").root(root));
    let handler = pod.virt_handler(&vmi);
    ok(pod.sync(&vmi));
    pod.wait_status("Running");
    wait_lines(&pod, "guest: boot", 1);
    ok(pod.sync(&vmi));

    let (pid_1, launcher) = (pod.pid_1(), owner(&pod));
    assert!(comm(pid_1).starts_with("virt-launcher-m"), "{}", comm(pid_1));
    assert_eq!(comm(launcher), "virt-launcher");
    assert_eq!(parent(launcher), Some(pid_1), "the socket's owner is PID 1's child");
    assert_eq!(parent(subject.process(&pod)), Some(pid_1), "the hypervisor, too");
    assert!(subject.daemon(&pod).is_some(), "{:?}", children(launcher));

    pause_and_unpause(&pod);
    migration_without_a_target_is_refused(&pod);
    ok(pod.ctl(&["reset"]));
    wait_lines(&pod, "guest: boot", 2);
    ok(pod.ctl(&["shutdown"]));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    let log = written(&pod);
    for line in ["guest: power button", "guest: going down"] {
        assert!(log.contains(line), "{line}: {log}");
    }
    let calls = handler.calls();
    assert!(!calls.is_empty() && calls.iter().all(|call| *call == "DeleteVirtualMachine"), "{calls:?}");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_lives_and_shuts_down_in_order() {
    whole_life(false);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_lives_in_a_pod_that_runs_as_root_too() {
    whole_life(true);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn console_serves_one_client_after_another_and_across_a_reboot() {
    let subject = HypervisorUnderTest::from_environment();
    let pod = subject.running(subject.setup("demo"), &vmi("demo", ""));
    for line in ["one", "two", "reboot"] {
        type_line(&pod.serial_port(), line);
    }
    wait_lines(&pod, "guest: boot", 2);
    type_line(&pod.serial_port(), "three");
    assert_eq!(pod.status(), "Running");
    for line in ["one", "two", "reboot", "three"] {
        wait_lines(&pod, &format!("echo: {line}"), 1);
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_outlives_its_daemon_and_its_launcher_and_stays_under_control() {
    let subject = HypervisorUnderTest::from_environment();
    let vmi = vmi("demo", "");
    let pod = subject.running(subject.setup("demo"), &vmi);
    let handler = pod.virt_handler(&vmi);
    let hypervisor = subject.process(&pod);
    let old = subject.daemon(&pod).unwrap();
    send(old, Signal::SIGKILL);
    wait_for("another daemon", BACK, || {
        let now = subject.daemon(&pod);
        expect(now.is_some_and(|pid| pid != old), now)
    });
    // Until the launcher is connected again, orders fail, and virt-handler repeats them.
    wait_for("pause", BACK, || {
        let paused = pod.ctl(&["pause"]);
        expect(paused.status.success(), text(&paused))
    });
    pod.wait_status("Paused");
    ok(pod.ctl(&["unpause"]));
    pod.wait_status("Running");

    let old = owner(&pod);
    send(old, Signal::SIGKILL);
    wait_for("another launcher", BACK, || {
        let now = try_owner(&pod);
        expect(now.is_some_and(|pid| pid != old), now)
    });
    pod.wait_status("Running");
    pause_and_unpause(&pod);
    assert_eq!(subject.process(&pod), hypervisor);
    ok(pod.ctl(&["shutdown"]));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    drop(handler);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn statistics_and_version_are_those_of_the_hypervisor() {
    let subject = HypervisorUnderTest::from_environment();
    let pod = subject.running(subject.setup("demo"), &vmi("demo", ""));
    let stats = || -> serde_json::Value {
        let output = pod.ctl(&["-o", "json", "stats"]);
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let time = |stats: &serde_json::Value| stats.pointer("/Cpu/Time").and_then(serde_json::Value::as_u64);
    let first = stats();
    assert_eq!(first["Name"], "default_demo");
    assert_eq!(first["Vcpu"].as_array().map(Vec::len), Some(2), "{first}");
    assert_eq!(first["Block"].as_array().map(Vec::len), Some(2), "{first}");
    assert!(first.pointer("/Memory/RSS").and_then(serde_json::Value::as_u64).is_some_and(|rss| rss > 0), "{first}");
    wait_for("processor time", BACK, || {
        let now = stats();
        expect(time(&now) > time(&first), now)
    });
    let version = text(&pod.ctl(&["qemu-version"]));
    assert!(version.starts_with(subject.product()), "{version}");
}
