//! A launcher that waits for its VM: what it answers meanwhile, and how it ends before there is one.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::NamedTempFile;

use crate::support::pod::{Pod, text};
use crate::support::processes::{owner, send};
use crate::support::subject::{HypervisorUnderTest, ok, vmi};
use crate::support::virt_handler::NotifyPipe;

/// An end that waits for nobody, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Nothing has gone wrong: no errors of its own, no dead socket, and nothing for the pod's status to say.
fn assert_ended_in_order(pod: &Pod, code: i32, errors: usize) {
    let left: Vec<_> = fs::read_dir(pod.volume("public/sockets")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "sockets that look like a launcher that hangs: {left:?}");
    let told = pod.records("error");
    let own: Vec<_> = told.iter().filter(|record| record["subcomponent"].is_null()).collect();
    assert_eq!(own.len(), errors, "exit code {code}: {own:#?}");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launcher_that_waits_for_its_vm_ends_when_it_is_asked_to() {
    let subject = HypervisorUnderTest::from_environment();
    let message = NamedTempFile::new().unwrap();
    fs::set_permissions(message.path(), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    // What the kubelet sends, and what a node that goes down sends; with virt-handler and without.
    for (signal, virt_handler) in [(Signal::SIGTERM, false), (Signal::SIGINT, true)] {
        let pod = subject.ready(subject.setup("demo").mount(message.path(), "/dev/termination-log"));
        let pipe = virt_handler.then(|| NotifyPipe::present(&pod.volume("public")));
        let none = pod.ctl(&["get-domain"]);
        assert!(!none.status.success() && text(&none).contains("no domain"), "{}", text(&none));
        let told = Instant::now();
        send(pod.pid_1(), signal);
        assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
        assert!(told.elapsed() < AT_ONCE, "{signal}: {:?}", told.elapsed());
        assert_ended_in_order(&pod, 0, 0);
        assert_eq!(fs::read_to_string(message.path()).unwrap(), "");
        let heard = pipe.map(|pipe| pipe.received()).unwrap_or_default();
        assert!(heard.is_empty(), "there is no VM to tell of: {heard:?}");
    }
}

/// virt-handler deletes what it finds no VMI for, and kills it first; that a launcher has nothing to end is no failure, and no
/// reason to stop waiting.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn orders_to_end_a_vm_that_was_never_there_succeed_and_change_nothing() {
    let subject = HypervisorUnderTest::from_environment();
    let pod = subject.ready(subject.setup("demo"));
    let launcher = owner(&pod);
    for order in ["shutdown", "kill", "delete"] {
        ok(pod.ctl_with(&[order, "--vmi"], &vmi("demo", "")));
    }
    for order in ["pause", "unpause", "reset", "soft-reboot"] {
        let refused = pod.ctl_with(&[order, "--vmi"], &vmi("demo", ""));
        assert!(!refused.status.success(), "{order}");
    }
    assert_eq!(owner(&pod), launcher);
    let none = pod.ctl(&["get-domain"]);
    assert!(text(&none).contains("no domain"), "{}", text(&none));
    ok(pod.sync(&vmi("demo", "")));
    pod.wait_status("Running");
}

/// The pod of a migration that is called off. Only the pod that is named leaves, and one that has a VM does not.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn target_that_is_not_needed_leaves_when_it_is_named() {
    let subject = HypervisorUnderTest::from_environment();
    let of_pod = |name: &str| {
        let status = format!("status: {{migrationState: {{targetPod: {name}}}, ");
        vmi("demo", "").replace("status: {", &status)
    };
    let pod = subject.ready(subject.setup("demo").env("POD_NAME", "virt-launcher-demo-abc"));
    ok(pod.ctl_with(&["signal-target-pod-cleanup", "--vmi"], &of_pod("virt-launcher-demo-xyz")));
    assert!(pod.ctl(&["ping"]).status.success());
    let told = Instant::now();
    ok(pod.ctl_with(&["signal-target-pod-cleanup", "--vmi"], &of_pod("virt-launcher-demo-abc")));
    // So that the pod fails, and with it the migration.
    assert_eq!(pod.wait_exit(), 2, "{}", pod.log());
    assert!(told.elapsed() < AT_ONCE, "{:?}", told.elapsed());
    // The monitor's word on the exit code.
    assert_ended_in_order(&pod, 2, 1);
}
