//! The libvirt daemon and virtlogd die, hang or do not come up; the pod is stopped where nobody shuts the guest down.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::adoption::{BACK, own_lines, the_daemon, the_hypervisor, the_virtlogd};
use super::{CATALOGUE, boot, catalogue, owner, send, stat, vmi};
use crate::support::pod::{self, Pod, Setup, image, text};
use crate::support::virt_handler::{Received, is_deleted};
use crate::support::{expect, wait_for, write_program};

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn daemon_that_was_stopped_is_replaced_and_operations_end_with_their_cause() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    boot(&pod, &vmi("demo"));
    let (launcher, hypervisor) = (owner(&pod), the_hypervisor(&pod));
    let daemon = the_daemon(launcher).unwrap();
    send(daemon, Signal::SIGSTOP);
    let late = pod.ctl(&["pause"]);
    assert!(!late.status.success());
    assert!(text(&late).contains("libvirt did not answer"), "{}", text(&late));
    assert_eq!(pod.status(), "Running", "reads go on");
    wait_for("an operation that works", BACK * 5, || {
        let paused = pod.ctl(&["pause"]);
        expect(paused.status.success(), text(&paused))
    });
    assert_ne!(the_daemon(launcher), Some(daemon));
    assert_eq!((owner(&pod), the_hypervisor(&pod)), (launcher, hypervisor));
    pod.wait_status("Paused");
}

/// What was given up while the daemon was stopped, and what was opened too late for anybody to wait for it, must not stay
/// beside the connection that is used: each would tell every event once more.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn daemon_that_goes_on_is_left_with_one_connection() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    boot(&pod, &vmi("demo"));
    let launcher = owner(&pod);
    let daemon = the_daemon(launcher).unwrap();
    // The accepted end of a connection bears the path of the socket that accepted it.
    let connections = || {
        let sockets = fs::read_to_string(format!("/proc/{daemon}/net/unix")).unwrap();
        let of_daemon = |line: &&str| line.ends_with("/virtqemud-sock") || line.ends_with("/libvirt-sock");
        let connected = |line: &&str| line.split_whitespace().nth(5) == Some("03");
        sockets.lines().filter(of_daemon).filter(connected).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(connections().len(), 1, "{:?}", connections());
    send(daemon, Signal::SIGSTOP);
    // Each asks once for the state.
    for _ in 0..2 {
        assert!(!pod.ctl(&["pause"]).status.success());
    }
    let says = |what: &str| wait_for(what, BACK, || expect(pod.log().contains(what), own_lines(&pod)));
    says("cannot reconnect to libvirt yet");
    send(daemon, Signal::SIGCONT);
    says("connected to libvirt again");
    wait_for("the end of the others", BACK, || expect(connections().len() == 1, connections()));
    assert_eq!(the_daemon(launcher), Some(daemon), "it had time enough");
    assert!(pod.ctl(&["pause"]).status.success());
    pod.wait_status("Paused");
    assert_eq!(connections().len(), 1);
}

/// libvirt is not asked about a hypervisor of which the kernel tells that it was killed.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE, and Linux 6.15, which tells how another's child ended; make test"]
fn crash_is_reported_while_the_daemon_does_not_answer() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    boot(&pod, &vmi("demo"));
    let virt_handler = pod.virt_handler(&vmi("demo"));
    wait_for("the first event", BACK, || expect(!virt_handler.pipe.received().is_empty(), "none"));
    let daemon = the_daemon(owner(&pod)).unwrap();
    send(daemon, Signal::SIGSTOP);
    send(the_hypervisor(&pod), Signal::SIGKILL);
    let states = || -> Vec<(String, String)> {
        let text = |domain: &Value, at| domain.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let received = virt_handler.pipe.received();
        let domains = received.iter().filter_map(|event| match event {
            Received::Domain { domain, .. } => Some((text(domain, "/Status/Status"), text(domain, "/Status/Reason"))),
            Received::K8s(_) => None,
        });
        domains.collect()
    };
    wait_for("word of the crash", BACK, || {
        expect(states().last().is_some_and(|(status, reason)| status == "Shutoff" && reason == "Crashed"), states())
    });
    assert_eq!((stat(daemon).unwrap().0, pod.status().as_str()), ('T', "Shutoff"));
    send(daemon, Signal::SIGCONT);
    assert_eq!(pod.wait_exit(), 0, "{}", own_lines(&pod));
    let states = states();
    let ended = states.iter().position(|(status, _)| status == "Shutoff").unwrap();
    assert!(states.iter().skip(ended).all(|(status, _)| status != "Running"), "{states:?}");
}

/// libvirt starts one to find out what it can do; a launcher that connects again meanwhile must not take that for its VM's, or
/// the VM would count as ended, and never be started, once it is gone.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn process_with_a_hypervisors_name_is_not_taken_for_the_vm() {
    let image = image();
    let pod = Setup::new(&image, "demo").disks().start();
    pod.wait_ready();
    let launcher = owner(&pod);
    let daemon = the_daemon(launcher).unwrap();
    let bystander = "/var/run/kubevirt/qemu-system-x86_64";
    pod.exec(&["cp", "/usr/bin/sleep", bystander]);
    pod.exec(&["sh", "-c", &format!("{bystander} 600 </dev/null >/dev/null 2>&1 & echo $! >/var/run/kubevirt/pid")]);
    send(daemon, Signal::SIGKILL);
    wait_for("another daemon", BACK, || expect(the_daemon(launcher).is_some_and(|pid| pid != daemon), pod.log()));
    wait_for("a connection", BACK, || {
        let lines = pod.log();
        expect(lines.contains("connected to libvirt again"), lines)
    });
    // Answered after the launcher has looked at the domain.
    wait_for("libvirt's version", BACK, || {
        let version = pod.ctl(&["qemu-version"]);
        expect(version.status.success(), text(&version))
    });
    pod.exec(&["sh", "-c", "kill $(cat /var/run/kubevirt/pid)"]);
    wait_for("sync", BACK * 4, || {
        let synced = pod.sync(&vmi("demo"));
        expect(synced.status.success(), text(&synced))
    });
    pod.wait_status("Running");
    assert_eq!(pod.log().matches("Found PID for").count(), 1, "{}", own_lines(&pod));
}

/// In a session libvirt would start a virtlogd of its own, which nobody looks after and which keeps others away.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn libvirt_starts_no_virtlogd_by_itself() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("virtlogd");
    write_program(&program, "#!/bin/sh\necho \"$@\" >>/var/run/kubevirt/virtlogds\nexec sleep 600\n");
    let pod = Setup::new(&image, "demo").mount(&program, "/usr/sbin/virtlogd").disks().start();
    pod.wait_ready();
    let synced = pod.sync(&vmi("demo"));
    assert!(!synced.status.success() && text(&synced).contains("virtlogd"), "{}", text(&synced));
    let started = fs::read_to_string(pod.volume("public").join("virtlogds")).unwrap();
    assert!(started.lines().all(|arguments| arguments.starts_with("-f ")), "{started}");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn virtlogd_is_replaced() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    boot(&pod, &vmi("demo"));
    let virtlogd = || the_virtlogd(&pod);
    for fault in [Signal::SIGKILL, Signal::SIGSTOP] {
        let before = wait_for("virtlogd", BACK, || virtlogd().ok_or("none"));
        send(before, fault);
        wait_for("another virtlogd", BACK, || expect(virtlogd().is_some_and(|pid| pid != before), pod.log()));
    }
    assert!(pod.ctl(&["pause"]).status.success());
    pod.wait_status("Paused");
}

/// What the kubelet mounts as `/dev/termination-log`.
fn termination_log(dir: &TempDir) -> PathBuf {
    let path = dir.path().join("termination-log");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    path
}

/// A daemon that starts once, and fails from its second start on.
const ONCE: &str = "#!/bin/bash\n\
    if [ -e /var/run/kubevirt/started ]; then echo no more >&2; exit 3; fi\n\
    : >/var/run/kubevirt/started\n\
    for daemon in /usr/sbin/virtqemud /usr/sbin/libvirtd; do\n\
        if [ -x $daemon ]; then exec $daemon \"$@\"; fi\n\
    done\n";

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn daemon_that_cannot_come_back_ends_the_vm_in_an_orderly_way_that_says_why() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let daemon = dir.path().join("libvirt-once");
    write_program(&daemon, ONCE);
    // The built-in entry with another daemon, and fewer attempts.
    let mut catalogue = catalogue();
    let entry = &mut catalogue["hypervisors"]["qemu-kvm"]["launcher"];
    entry["daemonRestart"] = serde_norway::from_str("{firstSeconds: 0.05, longestSeconds: 0.1, limit: 5}").unwrap();
    let modular = pod::has_program(&image, "/usr/sbin/virtqemud");
    let (once, none) = ("/usr/local/bin/libvirt-once", "/none");
    entry["monolithic"]["libvirtDaemonExecutable"] = if modular { none } else { once }.into();
    catalogue["hypervisors"]["qemu-kvm"]["libvirtDaemon"]["libvirtDaemonExecutable"] =
        if modular { once } else { none }.into();
    let file = dir.path().join("hypervisors.yaml");
    fs::write(&file, serde_norway::to_string(&catalogue).unwrap()).unwrap();
    let message = termination_log(&dir);

    let pod = Setup::new(&image, "demo")
        .mount(&daemon, "/usr/local/bin/libvirt-once")
        .mount(&file, CATALOGUE)
        .mount(&message, "/dev/termination-log")
        .start();
    boot(&pod, &vmi("demo"));
    let virt_handler = pod.virt_handler(&vmi("demo"));
    send(the_daemon(owner(&pod)).unwrap(), Signal::SIGKILL);
    assert_eq!(pod.wait_exit(), 2, "{}", own_lines(&pod));
    let said = fs::read_to_string(&message).unwrap();
    assert!(said.contains("libvirt daemon does not come back") && said.contains("exit code 3"), "{said}");
    let received = virt_handler.pipe.received();
    let told = |event: &Received| match event {
        Received::K8s(event) => event["message"] == said.as_str(),
        Received::Domain { .. } => false,
    };
    assert!(received.iter().any(told), "{received:#?}");
    let deleted = |event: &Received| match event {
        Received::Domain { domain, .. } => is_deleted(domain),
        Received::K8s(_) => false,
    };
    assert!(received.iter().any(deleted), "{received:#?}");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn virtlogd_that_cannot_run_ends_the_launcher_that_could_start_no_vm() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let virtlogd = dir.path().join("virtlogd");
    write_program(&virtlogd, "#!/bin/sh\necho no log >&2\nexit 3\n");
    let mut catalogue = catalogue();
    catalogue["hypervisors"]["qemu-kvm"]["launcher"]["daemonRestart"] =
        serde_norway::from_str("{firstSeconds: 0.05, longestSeconds: 0.1, limit: 5}").unwrap();
    let file = dir.path().join("hypervisors.yaml");
    fs::write(&file, serde_norway::to_string(&catalogue).unwrap()).unwrap();
    let message = termination_log(&dir);
    let pod = Setup::new(&image, "demo")
        .mount(&virtlogd, "/usr/sbin/virtlogd")
        .mount(&file, CATALOGUE)
        .mount(&message, "/dev/termination-log")
        .start();
    assert_eq!(pod.wait_exit(), 2, "{}", own_lines(&pod));
    let said = fs::read_to_string(&message).unwrap();
    assert!(said.contains("virtlogd does not come back") && said.contains("exit code 3"), "{said}");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn pod_that_is_stopped_without_virt_handler_shuts_its_guest_down() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    boot(&pod, &vmi("demo"));
    // Before the signal: the guest may be gone half a second after it.
    let mut console = pod.console();
    let stopped = Instant::now();
    send(pod.pid_1(), Signal::SIGTERM);
    // Asked by its agent or, before that is up, by the power button.
    console.read_up_to("reboot: Power down");
    assert_eq!(pod.wait_exit(), 0, "{}", own_lines(&pod));
    let took = stopped.elapsed();
    println!("gone {took:?} after SIGTERM, without virt-handler");
    assert!(took < Duration::from_secs(30), "the VMI's grace period: {took:?}");
    assert!(!own_lines(&pod).contains("the grace period is over"), "{}", own_lines(&pod));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn virt_handler_that_is_gone_is_waited_for_five_seconds() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    boot(&pod, &vmi("demo"));
    pod.wait_console("guest: ready");
    let mut virt_handler = pod.virt_handler(&vmi("demo"));
    // The socket's file stays, nobody listens.
    virt_handler.pipe.crash();
    send(pod.pid_1(), Signal::SIGTERM);
    assert_eq!(pod.wait_exit(), 0, "{}", own_lines(&pod));
    assert!(own_lines(&pod).contains("virt-handler does not acknowledge the signal"), "{}", own_lines(&pod));
    assert!(!own_lines(&pod).contains("the grace period is over"), "{}", own_lines(&pod));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn processor_time_is_not_spent_on_waiting_for_a_deaf_guest() {
    let image = image();
    let pod = Pod::start(&image, "demo", &["--grace-period-seconds", "10"]);
    // Before the guest could hear.
    boot(&pod, &vmi("demo").replace("terminationGracePeriodSeconds: 30", "terminationGracePeriodSeconds: 5"));
    let virt_handler = pod.virt_handler(&vmi("demo"));
    let (monitor, launcher) = (pod.pid_1(), owner(&pod));
    send(the_hypervisor(&pod), Signal::SIGSTOP);
    let ticks = |pid: u32| {
        let stat = procfs::process::Process::new(i32::try_from(pid).unwrap()).unwrap().stat().unwrap();
        stat.utime + stat.stime
    };
    let before = (ticks(monitor), ticks(launcher));
    send(monitor, Signal::SIGTERM);
    std::thread::sleep(Duration::from_secs(4));
    let (of_monitor, of_launcher) = (ticks(monitor) - before.0, ticks(launcher) - before.1);
    send(the_hypervisor(&pod), Signal::SIGCONT);
    // Hundredths of a second, of four: the original burns all of them.
    assert!(of_monitor <= 2 && of_launcher <= 60, "monitor {of_monitor}, launcher {of_launcher}");
    assert_eq!(pod.wait_exit(), 0, "{}", own_lines(&pod));
    let _ = virt_handler;
}
