//! What the container's end looks like, and what PID 1 does for it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{boot, children, owner, send, stat, vmi};
use crate::support::pod::{Pod, Setup, image};
use crate::support::{expect, wait_for, write_program};

/// The monitor asked QEMU by SIGTERM and saw it end.
fn assert_ended_gracefully(pod: &Pod) {
    let asked = |record: &serde_json::Value| {
        record["msg"].as_str().unwrap_or_default().starts_with("ending the hypervisor qemu-system-x86")
    };
    let told = pod.records("info");
    assert_eq!(told.iter().filter(|record| asked(record)).count(), 1, "{told:#?}");
    let errors: Vec<_> = pod.records("error").into_iter().filter(|record| record["subcomponent"].is_null()).collect();
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert_eq!(errors[0]["msg"], "dirty virt-launcher shutdown: exit-code -1");
}

/// A script in the launcher's place, and its folder.
fn fake_launcher(script: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let launcher = dir.path().join("virt-launcher");
    write_program(&launcher, script);
    (dir, launcher)
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launcher_killed_in_mid_run_takes_qemu_along_gracefully() {
    let image = image();
    for signal in [Signal::SIGKILL, Signal::SIGSEGV] {
        let pod = Pod::start(&image, "demo", &["--no-adopt"]);
        boot(&pod, &vmi("demo"));
        send(owner(&pod), signal);
        assert_eq!(pod.wait_exit(), 255, "{signal}: {}", pod.log());
        assert_ended_gracefully(&pod);
    }
}

/// The real launcher catches SIGTERM from its first instruction on, so that another one has to be killed by it.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launcher_killed_by_sigterm_counts_as_killed() {
    let image = image();
    // QEMU is ready to be asked once it catches SIGTERM, the fifteenth of the mask.
    let script = "#!/bin/sh\n\
        (qemu-system-x86_64 -name left-behind -machine none -display none 2>/var/run/kubevirt/qemu.log &)\n\
        catches() { [ $((0x$(sed -n 's/^SigCgt:[[:space:]]*//p' \"/proc/$1/status\") >> 14 & 1)) = 1 ]; }\n\
        until qemu=$(pidof qemu-system-x86_64) && catches \"$qemu\"; do :; done\n\
        kill -TERM $$\n";
    let (_dir, launcher) = fake_launcher(script);
    let pod = Setup::new(&image, "demo").flags(&["--no-adopt"]).mount(&launcher, "/usr/bin/virt-launcher").start();
    assert_eq!(pod.wait_exit(), 255, "{}", pod.log());
    assert_ended_gracefully(&pod);
    let last_words = fs::read_to_string(pod.volume("public").join("qemu.log")).unwrap();
    assert!(
        last_words.contains("terminating on signal 15 from pid 1 (/usr/bin/virt-launcher-monitor)"),
        "{last_words}"
    );
}

/// PID 1 for one of them; the others by monitors that PID 1's launcher starts, for 256 containers would take minutes.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn every_exit_code_of_the_launcher_comes_through() {
    let image = image();
    let script = "#!/bin/bash\n\
        [ -z \"$CODE\" ] || exit \"$CODE\"\n\
        for code in {0..255}; do\n\
            CODE=$code virt-launcher-monitor 2>>/var/run/kubevirt/monitors.log\n\
            echo \"$code $?\" >>/var/run/kubevirt/codes\n\
        done\n\
        exit 42\n";
    let (_dir, launcher) = fake_launcher(script);
    let pod = Setup::new(&image, "demo").mount(&launcher, "/usr/bin/virt-launcher").start();
    assert_eq!(pod.wait_exit_within(Duration::from_secs(600)), 42, "{}", pod.log());
    let codes = fs::read_to_string(pod.volume("public").join("codes")).unwrap();
    let expected: String = (0..=255).map(|code| format!("{code} {code}\n")).collect();
    assert_eq!(codes, expected);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn ten_thousand_orphans_leave_no_zombie() {
    const ORPHANS: u64 = 10_000;
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    pod.wait_ready();
    // Each leaves its mark once its parent has ended, then ends; PID 1 must be its parent by then.
    let script = "for ((i = 0; i < $0; i++)); do (
            (until read -r _ _ _ ppid _ <\"/proc/$BASHPID/stat\" && [ \"$ppid\" = 1 ]; do :; done; \
             printf x >>/var/run/kubevirt/orphans) &
        ); done";
    pod.exec(&["bash", "-c", script, &ORPHANS.to_string()]);
    let marks = pod.volume("public").join("orphans");
    wait_for("the orphans' marks", Duration::from_secs(120), || {
        let count = fs::metadata(&marks).map(|file| file.len()).unwrap_or_default();
        expect(count == ORPHANS, count)
    });
    let pid_1 = pod.pid_1();
    let zombies = || children(pid_1).into_iter().filter(|(pid, _)| stat(*pid).is_some_and(|(state, _)| state == 'Z'));
    // The last ones may be ending just now.
    wait_for("no zombies", Duration::from_secs(10), || expect(zombies().count() == 0, zombies().collect::<Vec<_>>()));
    let own: Vec<_> = children(pid_1).into_iter().map(|(_, comm)| comm).collect();
    assert_eq!(own, ["virt-launcher"], "only the launcher is left");
    assert!(pod.ctl(&["ping"]).status.success());
}
