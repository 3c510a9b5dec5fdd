//! A pod that was made to receive a VM, and never can.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::{CATALOGUE, boot, vmi};
use crate::support::pod::{Pod, Setup, image, text};

/// In which the container has to be gone, so that virt-controller sees the migration fail.
const SECONDS: Duration = Duration::from_secs(10);
const WHY: &str = "SyncMigrationTarget is not supported by hyperv-direct: QEMU's mshv accelerator cannot migrate";
/// A hypervisor that cannot migrate, on the daemon that the image has.
const ON_LIBVIRTD: &str = "hypervisors:
  hyperv-direct:
    libvirtDaemon: { libvirtDaemonExecutable: /usr/sbin/libvirtd, libvirtDaemonConfig: /var/run/libvirt/libvirtd.conf }
    launcher: { socket: /var/run/libvirt/libvirt-sock, shippedDaemonConfig: /etc/libvirt/libvirtd.conf }
";

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn target_that_can_never_receive_ends_its_pod_and_says_why() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let message = dir.path().join("termination-log");
    fs::write(&message, "").unwrap();
    fs::set_permissions(&message, fs::Permissions::from_mode(0o666)).unwrap();
    let catalogue = dir.path().join("hypervisors.yaml");
    fs::write(&catalogue, ON_LIBVIRTD).unwrap();
    let pod = Setup::new(&image, "demo")
        .flags(&["--hypervisor", "hyperv-direct"])
        .mount(&catalogue, CATALOGUE)
        .mount(&message, "/dev/termination-log")
        .start();
    pod.wait_ready();
    let file = pod.volume("public").join("target.yaml");
    fs::write(&file, vmi("demo")).unwrap();
    let begun = Instant::now();
    let refused = pod.ctl(&["migration", "sync-target", "--vmi", file.to_str().unwrap()]);
    assert!(
        !refused.status.success() && text(&refused).contains(WHY),
        "the reason is answered first: {}",
        text(&refused)
    );
    assert_eq!(pod.wait_exit_within(SECONDS), 2, "{}", pod.log());
    println!("the target's container ended {:?} after the order", begun.elapsed());
    assert_eq!(fs::read_to_string(&message).unwrap(), format!("the migration to this pod failed: {WHY}"));
}

/// Whatever a launcher with a VM is asked, its VM stays.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launcher_with_a_vm_does_not_end_for_a_migration() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    boot(&pod, &vmi("demo"));
    for (order, why) in
        [("sync-target", "it runs one itself"), ("start", "cannot migrate VMI until migrationState is ready")]
    {
        let refused = pod.ctl(&["migration", order]);
        assert!(!refused.status.success() && text(&refused).contains(why), "{}", text(&refused));
    }
    // Another launcher has seen no order to begin with.
    pod.replace_launcher();
    assert!(!pod.ctl(&["migration", "sync-target"]).status.success());
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(pod.status(), "Running", "{}", pod.log());
}
