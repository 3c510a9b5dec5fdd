//! How a VM ends: by itself, by order, by force, and by what nobody wanted.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::support::processes::{owner, send};
use super::support::subject::{Subject, ok, vmi};
use super::support::tiny_guest::type_line;
use super::{reason, wait_lines};

#[test]
fn a_crash_is_told_within_a_second() {
    let Some(subject) = Subject::from_environment() else { return };
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
fn a_guest_s_own_power_off_is_no_crash() {
    let Some(subject) = Subject::from_environment() else { return };
    let vmi = vmi("demo", "");
    let pod = subject.running(subject.setup("demo"), &vmi);
    type_line(&pod.serial_port(), "poweroff");
    pod.wait_status("Shutoff");
    assert_eq!(reason(&pod), "Shutdown");
    ok(pod.ctl_with(&["delete", "--vmi"], &vmi));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
}

#[test]
fn a_vm_that_does_not_listen_is_ended() {
    let Some(subject) = Subject::from_environment() else { return };
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
fn a_paused_vm_can_be_ended() {
    let Some(subject) = Subject::from_environment() else { return };
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
fn a_launcher_asked_to_end_has_virt_handler_shut_the_guest_down() {
    let Some(subject) = Subject::from_environment() else { return };
    let vmi = vmi("demo", "");
    let pod = subject.running(subject.setup("demo"), &vmi);
    let handler = pod.virt_handler(&vmi);
    send(owner(&pod), Signal::SIGTERM);
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    let calls = handler.calls();
    assert_eq!(calls.first(), Some(&"ShutdownVirtualMachine"), "{calls:?}");
    assert!(!calls.contains(&"KillVirtualMachine"), "{calls:?}");
}
