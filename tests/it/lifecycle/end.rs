//! How a VM ends: by itself, by order, by force, and by what nobody wanted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::NamedTempFile;

use super::{BACK, reason, wait_lines};
use crate::support::pod::Pod;
use crate::support::processes::{owner, send};
use crate::support::subject::{HypervisorUnderTest, ok, vmi};
use crate::support::tiny_guest::type_line;
use crate::support::virt_handler::{Received, is_deleted};
use crate::support::{expect, wait_for};

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn crash_of_the_hypervisor_is_reported_within_a_second() {
    let subject = HypervisorUnderTest::from_environment();
    let pod = subject.running(subject.setup("demo"), &vmi("demo", ""));
    let hypervisor = subject.process(&pod);
    let killed = Instant::now();
    send(hypervisor, Signal::SIGKILL);
    pod.wait_status("Shutoff");
    // With what it takes to ask.
    assert!(killed.elapsed() < Duration::from_millis(1500), "{:?}", killed.elapsed());
    assert_eq!(reason(&pod), "Crashed");
    assert!(subject.processes(&pod).is_empty());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn power_off_by_the_guest_is_not_a_crash() {
    let subject = HypervisorUnderTest::from_environment();
    let vmi = vmi("demo", "");
    let pod = subject.running(subject.setup("demo"), &vmi);
    type_line(&pod.serial_port(), "poweroff");
    pod.wait_status("Shutoff");
    assert_eq!(reason(&pod), "Shutdown");
    ok(pod.ctl_with(&["delete", "--vmi"], &vmi));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_that_does_not_listen_is_ended() {
    let subject = HypervisorUnderTest::from_environment();
    let vmi = vmi("demo", "ignore-power-button stubborn");
    let pod = subject.running(subject.setup("demo"), &vmi);
    let handler = pod.virt_handler(&vmi);
    ok(pod.ctl(&["shutdown"]));
    wait_lines(&pod, "guest: power button", 1);
    ok(pod.ctl(&["kill"]));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    drop(handler);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn paused_vm_can_be_ended() {
    let subject = HypervisorUnderTest::from_environment();
    let vmi = vmi("demo", "");
    let pod = subject.running(subject.setup("demo"), &vmi);
    ok(pod.ctl(&["pause"]));
    pod.wait_status("Paused");
    ok(pod.ctl(&["kill"]));
    subject.wait_no_process(&pod);
    pod.wait_status("Shutoff");
    assert_eq!(reason(&pod), "Destroyed");
    ok(pod.ctl_with(&["delete", "--vmi"], &vmi));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launcher_asked_to_end_has_virt_handler_shut_the_guest_down() {
    let subject = HypervisorUnderTest::from_environment();
    let vmi = vmi("demo", "");
    let pod = subject.running(subject.setup("demo"), &vmi);
    let handler = pod.virt_handler(&vmi);
    send(owner(&pod), Signal::SIGTERM);
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    let calls = handler.calls();
    assert_eq!(calls.first(), Some(&"ShutdownVirtualMachine"), "{calls:?}");
    assert!(!calls.contains(&"KillVirtualMachine"), "{calls:?}");
}

/// virt-handler cleans up after it has deleted the domain, which takes its time, and then connects again: it deletes once
/// more, and asks what it wants to know.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn socket_answers_while_virt_handler_cleans_up() {
    let subject = HypervisorUnderTest::from_environment();
    let vmi = vmi("demo", "");
    let pod = subject.running(subject.setup("demo"), &vmi);
    let handler = pod.virt_handler_that_cleans_up_in(&vmi, Duration::from_secs(1));
    ok(pod.ctl(&["kill"]));
    let deleted = |event: &Received| matches!(event, Received::Domain { domain, .. } if is_deleted(domain));
    wait_for("the deletion", BACK, || expect(handler.pipe.received().iter().any(deleted), handler.pipe.received()));
    let told = Instant::now();
    // Nothing but this holds the launcher now.
    std::thread::sleep(Duration::from_millis(500));
    ok(pod.ctl(&["guest-info"]));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    assert!(told.elapsed() < Duration::from_secs(15), "a launcher that nobody needs ends: {:?}", told.elapsed());
    assert_eq!(handler.calls(), ["DeleteVirtualMachine", "DeleteVirtualMachine"]);
}

/// A pod whose virt-handler has gone and that was told to stop; its guest is down. When that was, and where its termination
/// message goes.
fn stopped_without_virt_handler(subject: &HypervisorUnderTest) -> (Pod, Instant, NamedTempFile) {
    let message = NamedTempFile::new().unwrap();
    fs::set_permissions(message.path(), fs::Permissions::from_mode(0o666)).unwrap();
    let flags = ["--grace-period-seconds", "20"];
    let setup = subject.setup("demo").flags(&flags).mount(message.path(), "/dev/termination-log");
    let pod = subject.ready(setup);
    let handler = pod.virt_handler(&vmi("demo", ""));
    ok(pod.sync(&vmi("demo", "")));
    handler.wait_vmi("the running VM", BACK, |vmi| vmi.phase == "Running");
    pod.wait_console("guest: boot");
    drop(handler);
    let stopped = Instant::now();
    send(owner(&pod), Signal::SIGTERM);
    pod.wait_status("Shutoff");
    (pod, stopped, message)
}

/// One that is being replaced, such as by an update of its DaemonSet.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn virt_handler_that_comes_back_before_the_pod_ends_learns_how_the_vm_ended() {
    let subject = HypervisorUnderTest::from_environment();
    let (pod, stopped, message) = stopped_without_virt_handler(&subject);
    // Longer than for one that is there and does not answer.
    std::thread::sleep(Duration::from_secs(17).saturating_sub(stopped.elapsed()));
    let handler = pod.virt_handler(&vmi("demo", ""));
    handler.wait_vmi("the end", BACK, |vmi| vmi.phase == "Succeeded");
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    assert_eq!(fs::read_to_string(message.path()).unwrap(), "");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn termination_message_without_virt_handler_says_how_the_vm_ended() {
    let subject = HypervisorUnderTest::from_environment();
    let (pod, stopped, message) = stopped_without_virt_handler(&subject);
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    // The flag's grace period and ten seconds of the fifteen that the kubelet waits beyond it.
    assert!(stopped.elapsed() >= Duration::from_secs(30), "{:?}", stopped.elapsed());
    let said = fs::read_to_string(message.path()).unwrap();
    assert!(said.contains("its domain is Shutoff, reason Shutdown"), "{said}");
}
