//! The launcher dies, its VM lives on: SIGKILL at every point of a VM's life, and again and again.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{boot, children, owner, send, stat, try_owner, vmi};
use crate::support::beats::Heartbeat;
use crate::support::pod::{Pod, Setup, UID, image, text};
use crate::support::virt_handler::{Received, VirtHandler};
use crate::support::{expect, wait_for, write_program};

/// For a new launcher to answer, on a machine that is busy with other things. `make faults` prints what it took.
pub const BACK: Duration = Duration::from_secs(30);
/// Kills in a row.
const KILLS: u32 = 50;

fn hypervisors(pod: &Pod) -> Vec<u32> {
    let of =
        |parent| children(parent).into_iter().filter(|(_, comm)| comm.starts_with("qemu-system")).map(|(pid, _)| pid);
    of(pod.pid_1()).collect()
}

pub fn the_hypervisor(pod: &Pod) -> u32 {
    match hypervisors(pod)[..] {
        [pid] => pid,
        ref other => panic!("hypervisors: {other:?}; {}", pod.log()),
    }
}

/// What the launcher and its monitor wrote, without what they forward.
pub fn own_lines(pod: &Pod) -> String {
    let own = |line: &&String| !line.contains("\"subcomponent\"") && !line.contains("\"pos\":\"dump.rs");
    pod.lines().iter().filter(own).map(|line| line.as_str()).collect::<Vec<_>>().join("\n")
}

/// As virt-handler does: again until it works.
fn sync_until_it_works(pod: &Pod, vmi: &str) {
    wait_for("sync", BACK * 4, || {
        let synced = pod.sync(vmi);
        expect(synced.status.success(), format!("{}\n{}", text(&synced), own_lines(pod)))
    });
}

/// virt-handler heard of the end and did what follows it; it may have heard more than once before that was done.
pub fn assert_only_deleted(virt_handler: &VirtHandler) {
    let mut calls = virt_handler.calls();
    calls.dedup();
    assert_eq!(calls, ["DeleteVirtualMachine"]);
}

/// The VM runs, in one hypervisor, and its end is as it should be.
fn assert_runs_and_ends(pod: &Pod, vmi: &str) {
    pod.wait_status("Running");
    the_hypervisor(pod);
    let virt_handler = pod.virt_handler(vmi);
    let killed = pod.ctl(&["kill"]);
    assert!(killed.status.success(), "{}", text(&killed));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    assert_only_deleted(&virt_handler);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launcher_killed_before_the_define_is_followed_by_one_that_starts_the_vm() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    pod.wait_ready();
    pod.provide_disks();
    pod.replace_launcher();
    sync_until_it_works(&pod, &vmi("demo"));
    assert_runs_and_ends(&pod, &vmi("demo"));
}

/// A script in place of the ISO tool, which is called between the define and the start: it waits to be killed, the first time.
fn tool_that_waits(dir: &tempfile::TempDir) -> PathBuf {
    let tool = dir.path().join("xorrisofs");
    let script = "#!/bin/sh\n\
        reached=/var/run/kubevirt/reached\n\
        if [ ! -e $reached ]; then : >$reached; exec sleep 600; fi\n\
        exec /usr/bin/xorrisofs \"$@\"\n";
    write_program(&tool, script);
    tool
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launcher_killed_between_define_and_start_is_followed_by_one_that_starts_the_vm() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let pod = Setup::new(&image, "demo").mount(&tool_that_waits(&dir), "/usr/local/bin/xorrisofs").start();
    pod.wait_ready();
    pod.provide_disks();
    std::thread::scope(|scope| {
        // Fails with its launcher.
        scope.spawn(|| pod.sync(&vmi("demo")));
        wait_for("the moment between define and start", BACK, || {
            expect(pod.volume("public").join("reached").exists(), pod.log())
        });
        pod.replace_launcher();
    });
    // A libvirt that tried the emulator out when it was killed leaves that one behind until the next start.
    let of_a_vm = |pid: &u32| {
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.contains("guest=")
    };
    wait_for("no VM", BACK, || {
        let vms: Vec<u32> = hypervisors(&pod).into_iter().filter(of_a_vm).collect();
        expect(vms.is_empty(), vms)
    });
    sync_until_it_works(&pod, &vmi("demo"));
    assert_runs_and_ends(&pod, &vmi("demo"));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launcher_killed_during_the_start_leaves_one_vm_with_an_owner() {
    let image = image();
    // From the moment the hypervisor's process is there.
    for after in [0, 30, 100, 300] {
        let pod = Pod::start(&image, "demo", &[]);
        pod.wait_ready();
        pod.provide_disks();
        let pid_file = pod.volume("libvirt-runtime").join("qemu/run/default_demo.pid");
        std::thread::scope(|scope| {
            scope.spawn(|| pod.sync(&vmi("demo")));
            wait_for("the hypervisor's start", BACK * 2, || expect(pid_file.exists(), pod.log()));
            std::thread::sleep(Duration::from_millis(after));
            pod.replace_launcher();
        });
        sync_until_it_works(&pod, &vmi("demo"));
        assert_runs_and_ends(&pod, &vmi("demo"));
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn paused_vm_stays_paused_under_the_next_launcher() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    boot(&pod, &vmi("demo"));
    let hypervisor = the_hypervisor(&pod);
    assert!(pod.ctl(&["pause"]).status.success());
    pod.wait_status("Paused");
    pod.replace_launcher();
    pod.wait_status("Paused");
    sync_until_it_works(&pod, &vmi("demo"));
    assert_eq!(pod.status(), "Paused", "a sync resumes only what nobody paused");
    assert!(pod.ctl(&["unpause"]).status.success());
    pod.wait_status("Running");
    pod.replace_launcher();
    pod.wait_status("Running");
    assert_eq!(the_hypervisor(&pod), hypervisor);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launcher_killed_during_the_shutdown_is_followed_by_one_that_finishes_it() {
    let image = image();
    for pod_is_told in [true, false] {
        let pod = Pod::start(&image, "demo", &[]);
        boot(&pod, &vmi("demo"));
        pod.wait_console("guest: ready");
        let virt_handler = pod.virt_handler(&vmi("demo"));
        let launcher = owner(&pod);
        if pod_is_told {
            send(pod.pid_1(), Signal::SIGTERM);
            send(launcher, Signal::SIGKILL);
        } else {
            // The answer comes when the guest is off; by then the launcher may have ended, its work done.
            std::thread::scope(|scope| {
                scope.spawn(|| pod.ctl(&["shutdown"]));
                std::thread::sleep(Duration::from_millis(100));
                send(launcher, Signal::SIGKILL);
            });
            // As virt-handler does, whose first order may have died with the launcher. The VM may have ended meanwhile.
            wait_for("the order's success, or the end", BACK, || {
                let other = || try_owner(&pod).is_some_and(|owner| owner != launcher);
                expect(!pod.running() || other() && pod.ctl(&["shutdown"]).status.success(), "neither")
            });
        }
        assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
        let calls = virt_handler.calls();
        assert_eq!(calls.last(), Some(&"DeleteVirtualMachine"), "{calls:?}: {}", own_lines(&pod));
        assert!(!calls.contains(&"KillVirtualMachine"), "{calls:?}");
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_that_ended_while_nobody_looked_is_reported_and_not_started_again() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    boot(&pod, &vmi("demo"));
    let hypervisor = the_hypervisor(&pod);
    send(owner(&pod), Signal::SIGKILL);
    send(hypervisor, Signal::SIGKILL);
    wait_for("another launcher", BACK, || try_owner(&pod).ok_or_else(|| pod.log()));
    // virt-handler has not heard of it yet.
    let _ = pod.sync(&vmi("demo"));
    assert_eq!(hypervisors(&pod), [0_u32; 0]);
    let virt_handler = pod.virt_handler(&vmi("demo"));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    assert_only_deleted(&virt_handler);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_whose_end_only_the_dead_launcher_saw_is_reported_with_its_reason() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    boot(&pod, &vmi("demo"));
    pod.wait_console("guest: ready");
    assert!(pod.ctl(&["shutdown"]).status.success());
    pod.wait_status("Shutoff");
    send(owner(&pod), Signal::SIGKILL);
    wait_for("another launcher", BACK, || try_owner(&pod).ok_or_else(|| pod.log()));
    // The new libvirt daemon finds a domain that is off, and nothing that tells it why.
    let virt_handler = pod.virt_handler(&vmi("demo"));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    assert_only_deleted(&virt_handler);
    let reasons = virt_handler.pipe.received().into_iter().filter_map(|received| match received {
        Received::Domain { domain, .. } if domain["Status"]["Status"] == "Shutoff" => Some(domain),
        Received::Domain { .. } | Received::K8s(_) => None,
    });
    for domain in reasons {
        assert_eq!(domain["Status"]["Reason"], "Shutdown");
    }
}

/// All processes of the container with this name.
fn named(pod: &Pod, name: &str) -> Vec<u32> {
    let mut found = Vec::new();
    let mut parents = vec![pod.pid_1()];
    while let Some(parent) = parents.pop() {
        for (pid, comm) in children(parent) {
            if comm == name && stat(pid).is_some_and(|(state, _)| state != 'Z') {
                found.push(pid);
            }
            parents.push(pid);
        }
    }
    found
}

/// The container's one virtlogd, whoever is its parent.
pub fn the_virtlogd(pod: &Pod) -> Option<u32> {
    match named(pod, "virtlogd")[..] {
        [pid] => Some(pid),
        [] => None,
        ref several => panic!("several virtlogd: {several:?}; {}", own_lines(pod)),
    }
}

/// Waits until the log of the VM's console has grown.
pub fn wait_console_log(pod: &Pod, log: &Path) {
    let length = || fs::metadata(log).map(|about| about.len()).unwrap_or_default();
    let before = length();
    wait_for("the log of the console", BACK * 2, || expect(length() > before, own_lines(pod)));
}

/// Records of the hypervisor's log with this text, without what the monitor repeats at the end.
fn forwarded(pod: &Pod, text: &str) -> usize {
    let of_qemu = |line: &&String| line.contains("\"subcomponent\":\"qemu\"") && line.contains(text);
    pod.lines().iter().filter(of_qemu).count()
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn virtlogd_outlives_its_launcher_and_the_logs_of_the_vm_go_on() {
    let image = image();
    let pod = Pod::start(&image, "demo", &["--adopt-limit=1000"]);
    pod.wait_ready();
    // Before there is a VM.
    let virtlogd = wait_for("virtlogd", BACK, || the_virtlogd(&pod).ok_or("none"));
    pod.replace_launcher();
    boot(&pod, &vmi("demo"));
    pod.wait_console("guest: ready");
    let log = pod.volume("private").join(UID).join("virt-serial0-log");
    let qemu_log = pod.volume("private").join("libvirt/qemu/log/default_demo.log");
    wait_for("QEMU's command line", BACK, || expect(forwarded(&pod, "-name guest=default_demo") == 1, own_lines(&pod)));
    for death in 0..3 {
        send(owner(&pod), Signal::SIGKILL);
        // Written while nobody reads, and forwarded by the next launcher.
        let line = format!("written while no launcher ran {death}\n");
        fs::File::options().append(true).open(&qemu_log).unwrap().write_all(line.as_bytes()).unwrap();
        wait_for("another launcher", BACK, || try_owner(&pod).ok_or_else(|| own_lines(&pod)));
        wait_console_log(&pod, &log);
        assert_eq!(the_virtlogd(&pod), Some(virtlogd), "{}", own_lines(&pod));
        wait_for("what was written meanwhile", BACK, || expect(forwarded(&pod, line.trim()) == 1, own_lines(&pod)));
    }
    assert_eq!(forwarded(&pod, "-name guest=default_demo"), 1, "old lines came again");
    assert_eq!(forwarded(&pod, "written while no launcher ran"), 3);

    // One that was adopted is looked after like one of the launcher's own.
    for fault in [Signal::SIGSTOP, Signal::SIGKILL] {
        let before = the_virtlogd(&pod).unwrap();
        send(before, fault);
        wait_for("another virtlogd", BACK, || expect(named(&pod, "virtlogd").iter().any(|pid| *pid != before), before));
        wait_console_log(&pod, &log);
        wait_for("only one virtlogd", BACK, || expect(named(&pod, "virtlogd").len() == 1, named(&pod, "virtlogd")));
    }
    assert!(pod.ctl(&["shutdown"]).status.success());
    let _virt_handler = pod.virt_handler(&vmi("demo"));
    assert_eq!(pod.wait_exit(), 0, "{}", own_lines(&pod));
}

/// Neither the end of virtlogd nor that of the launcher stops a guest that writes to its console.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn guest_that_writes_to_a_console_log_without_a_reader_goes_on() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    boot(&pod, &vmi("demo"));
    pod.wait_console("guest: ready");
    let hypervisor = the_hypervisor(&pod);
    let heartbeat = Heartbeat::listen(&pod);
    let (launcher, virtlogd) = (owner(&pod), the_virtlogd(&pod).unwrap());
    send(launcher, Signal::SIGSTOP);
    send(virtlogd, Signal::SIGKILL);
    for _ in 0..5 {
        heartbeat.wait_beat();
    }
    assert_eq!(the_hypervisor(&pod), hypervisor);
    send(launcher, Signal::SIGCONT);
    wait_for("another virtlogd", BACK, || {
        expect(the_virtlogd(&pod).is_some_and(|pid| pid != virtlogd), own_lines(&pod))
    });
    heartbeat.wait_beat();
    assert_eq!(pod.status(), "Running");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_is_ended_gracefully_after_the_adopt_limit() {
    let image = image();
    let pod = Pod::start(&image, "demo", &["--adopt-limit=2"]);
    boot(&pod, &vmi("demo"));
    pod.replace_launcher();
    send(owner(&pod), Signal::SIGKILL);
    assert_eq!(pod.wait_exit(), 255, "{}", pod.log());
    let said = |start: &str| {
        let start = start.to_owned();
        move |record: &serde_json::Value| record["msg"].as_str().is_some_and(|text| text.starts_with(&start))
    };
    assert!(pod.records("error").iter().any(said("virt-launcher dies again and again")));
    assert!(pod.records("info").iter().any(said("ending the hypervisor qemu-system-x86")));
}

/// Who is killed.
#[derive(Debug, Clone, Copy)]
struct Victims {
    launcher: bool,
    daemon: bool,
}

pub fn the_daemon(launcher: u32) -> Option<u32> {
    let daemons = ["libvirtd", "virtqemud"];
    children(launcher).into_iter().find(|(_, comm)| daemons.contains(&comm.as_str())).map(|(pid, _)| pid)
}

/// Kills again and again, at moments that differ, and looks each time that the VM is the same and that it answers.
fn survives(victims: Victims) {
    let image = image();
    let pod = Pod::start(&image, "demo", &["--adopt-limit=1000"]);
    let vmi = vmi("demo");
    boot(&pod, &vmi);
    pod.wait_console("guest: ready");
    let virt_handler = pod.virt_handler(&vmi);
    let hypervisor = the_hypervisor(&pod);
    let heartbeat = Heartbeat::listen(&pod);
    let (mut longest, mut random) = (Duration::ZERO, 12345_u64);
    for kill in 0..KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis((random >> 33) % 300));
        let launcher = wait_for("a launcher", BACK, || try_owner(&pod).ok_or_else(|| pod.log()));
        let daemon = wait_for("a daemon", BACK, || the_daemon(launcher).ok_or_else(|| pod.log()));
        if victims.daemon {
            send(daemon, Signal::SIGKILL);
        }
        if victims.launcher {
            send(launcher, Signal::SIGKILL);
        }
        let killed = Instant::now();
        wait_for("an answer", BACK, || {
            if victims.launcher {
                expect(try_owner(&pod).is_some_and(|new| new != launcher), pod.log())?;
            }
            let status = pod.status();
            expect(status == "Running", format!("{status}: {}", pod.log()))
        });
        longest = longest.max(killed.elapsed());
        assert_eq!(the_hypervisor(&pod), hypervisor, "after kill {kill}");
        heartbeat.wait_beat();
    }
    println!(
        "{victims:?}: answers again within {longest:?}; longest pause between two heartbeats {:?}",
        heartbeat.longest()
    );
    assert!(heartbeat.longest() < Duration::from_secs(20), "{:?}", heartbeat.longest());
    assert_eq!(virt_handler.calls(), [""; 0], "nothing told virt-handler that the VM had ended");
    // Reads answer without the daemon; an order needs the new one, and virt-handler repeats it until it succeeds.
    wait_for("a shutdown", BACK, || {
        let asked = pod.ctl(&["shutdown"]);
        expect(asked.status.success(), text(&asked))
    });
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    assert_only_deleted(&virt_handler);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_survives_fifty_deaths_of_its_launcher() {
    survives(Victims { launcher: true, daemon: false });
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_survives_fifty_deaths_of_the_libvirt_daemon() {
    survives(Victims { launcher: false, daemon: true });
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_survives_fifty_deaths_of_both() {
    survives(Victims { launcher: true, daemon: true });
}
