//! What cannot work is refused: one clear message, the right exit code or reply, and the launcher goes on.

use super::support::pod::{Pod, image, text};
use super::{vmi, with};

#[test]
fn what_cannot_start_says_why() {
    let Some(image) = image() else { return };
    let long = format!("/var/run/kubevirt/{}", "x".repeat(100));
    for (flags, said) in [
        (&["--hypervisor", "nonsense"][..], "nonsense"),
        (&["--hypervisor", "cloud-hypervisor"], "virtchd"),
        (&["--ephemeral-disk-dir", "/proc/nowhere"], "/proc/nowhere"),
        (&["--kubevirt-share-dir", &long], "xxx"),
        (&["--no-such-flag=1"], "no-such-flag"),
    ] {
        let pod = Pod::start(&image, "demo", flags);
        let code = pod.wait_exit();
        let log = pod.log();
        assert_eq!(code, 2, "{flags:?}: {log}");
        assert!(log.contains(said), "{flags:?}: {log}");
        assert!(!log.contains("panicked"), "{flags:?}: {log}");
    }
}

#[test]
fn a_vmi_that_cannot_run_is_refused_and_the_launcher_goes_on() {
    let Some(image) = image() else { return };
    let pod = Pod::start(&image, "demo", &[]);
    pod.wait_ready();
    let good = vmi("demo");
    let without_disks = pod.sync(&good);
    assert!(!without_disks.status.success());
    assert!(text(&without_disks).contains("disk_0.img"), "{}", text(&without_disks));
    pod.provide_disks();

    let no_memory = with(&with(&good, "memory: {guest: 256Mi}", ""), "requests: {memory: 256Mi}", "{}");
    let too_small = with(&good, "emptyDisk: {capacity: 32Mi}", "emptyDisk: {capacity: 1}");
    for (bad, said) in [(no_memory, "memory"), (too_small, "scratch")] {
        let refused = pod.sync(&bad);
        assert!(!refused.status.success(), "{said}: {}", text(&refused));
        assert!(text(&refused).contains(said), "{said}: {}", text(&refused));
    }
    assert!(pod.ctl(&["ping"]).status.success());
    let synced = pod.sync(&good);
    assert!(synced.status.success(), "{}", text(&synced));
    pod.wait_status("Running");
    let killed = pod.ctl(&["kill"]);
    assert!(killed.status.success(), "{}", text(&killed));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
}
