//! A task that the launcher cannot do without panics, its VM lives on.

use std::os::unix::process::CommandExt;
use std::process::Command;

use super::adoption::{BACK, assert_only_deleted, own_lines, the_hypervisor};
use super::{boot, owner, try_owner, vmi};
use crate::support::pod::{Pod, image, text};
use crate::support::{expect, wait_for};

/// The pod's user.
const NONROOT: u32 = 107;

/// From now on the process can start no thread, and the runtime's threads for calls of libvirt, which end when they are idle, have
/// ended: tokio panics in the task that asks for one.
fn take_threads(process: u32) {
    let mut prlimit = Command::new("prlimit");
    // Whoever runs as the same user may lower its limits, root without CAP_SYS_RESOURCE may not.
    prlimit.uid(NONROOT).gid(NONROOT).args(["--pid", &process.to_string(), "--nproc=0:0"]);
    let limited = prlimit.output().unwrap();
    assert!(limited.status.success(), "{}", text(&limited));
    wait_for("the end of idle threads", BACK, || {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
        let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        let left: Vec<_> = threads.flatten().map(name).filter(|name| name.starts_with("tokio")).collect();
        expect(left.is_empty(), left)
    });
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launcher_whose_publisher_panics_is_followed_by_one_that_adopts_the_vm() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    boot(&pod, &vmi("demo"));
    let (launcher, hypervisor) = (owner(&pod), the_hypervisor(&pod));
    take_threads(launcher);
    // The operation itself panics, which the driver survives; the look that follows each operation is the publisher's.
    let paused = pod.ctl(&["pause"]);
    assert!(!paused.status.success(), "{}", text(&paused));
    wait_for("another launcher", BACK, || {
        expect(try_owner(&pod).is_some_and(|owner| owner != launcher), own_lines(&pod))
    });
    let lines = own_lines(&pod);
    assert!(lines.contains("the launcher ends without its VM, which the next launcher adopts"), "{lines}");
    assert!(lines.contains("the publisher failed: "), "{lines}");
    assert!(lines.contains("exit code 101") || lines.contains("exit-code 101"), "{lines}");
    wait_for("the VM's next owner answers", BACK, || {
        let unpaused = pod.ctl(&["unpause"]);
        expect(unpaused.status.success(), text(&unpaused))
    });
    pod.wait_status("Running");
    assert_eq!(the_hypervisor(&pod), hypervisor);
    let virt_handler = pod.virt_handler(&vmi("demo"));
    let killed = pod.ctl(&["kill"]);
    assert!(killed.status.success(), "{}", text(&killed));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    assert_only_deleted(&virt_handler);
}
