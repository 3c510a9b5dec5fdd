//! What cannot work is refused: one clear message, the right exit code or reply, and the launcher goes on.

use std::fs;
use std::time::Duration;

use super::{CATALOGUE, boot, catalogue, json, vmi, with};
use crate::support::pod::{Pod, Setup, UID, image, text};
use crate::support::{expect, wait_for, write_program};

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launcher_that_cannot_start_says_why() {
    let image = image();
    for (flags, why) in [
        (
            &["--hypervisor", "nonsense"][..],
            "unknown hypervisor \"nonsense\"; known are cloud-hypervisor (or ch), hyperv-direct, qemu-kvm (or kvm)",
        ),
        (
            &["--hypervisor", "cloud-hypervisor"],
            "hypervisor cloud-hypervisor: libvirtDaemon.libvirtDaemonExecutable: /usr/sbin/virtchd does not exist",
        ),
        (
            &["--ephemeral-disk-dir", "/usr/nowhere"],
            "cannot make the directory /usr/nowhere: Permission denied (os error 13)",
        ),
    ] {
        let pod = Pod::start(&image, "demo", flags);
        assert_eq!(pod.wait_exit(), 2, "{flags:?}: {}", pod.log());
        assert_eq!(pod.why_not_started(), why);
    }
}

/// Flags are read before there is a log: the message is the line after the list of flags.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn senseless_flags_are_reported_below_the_usage() {
    let image = image();
    let share = format!("/var/run/kubevirt/{}", "x".repeat(100));
    let too_long = format!(
        "virt-launcher: invalid argument {share:?} for --kubevirt-share-dir: the cmd socket \
         {share}/sockets/launcher-init-sock has 145 bytes, a unix socket's path at most 107"
    );
    for (flags, line) in [
        (["--kubevirt-share-dir", share.as_str()], too_long.as_str()),
        (["--v=2", "--no-such-flag"], "virt-launcher: unknown flag: --no-such-flag"),
    ] {
        let pod = Pod::start(&image, "demo", &flags);
        assert_eq!(pod.wait_exit(), 2, "{flags:?}: {}", pod.log());
        let lines = pod.lines();
        assert_eq!(lines.iter().filter(|said| said.starts_with("virt-launcher: ")).collect::<Vec<_>>(), [line]);
        assert_eq!(lines[0], "Usage of virt-launcher:");
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vmi_that_cannot_run_is_refused_and_the_launcher_goes_on() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    pod.wait_ready();
    let good = vmi("demo");
    let refused = |vmi: &str, why: &[&str]| {
        let (success, message) = pod.sync_raw(&json(vmi));
        assert!(!success && why.iter().all(|part| message.contains(part)), "{why:?}: {message}");
        assert!(!message.contains('\n'), "one line: {message}");
    };
    refused(&good, &["spec.volumes[0] (containerdisk)", "/var/run/kubevirt/container-disks/disk_0.img does not exist"]);
    pod.provide_disks();

    let claim = "hostDisk: {path: /data/disk.img, type: Disk}";
    refused(
        &with(&good, "containerDisk: {image: localhost/virt-launcher-guest}", claim),
        &["spec.volumes[0] (containerdisk)", "/disk.img does not exist"],
    );
    refused(
        &with(&with(&good, "memory: {guest: 256Mi}", ""), "requests: {memory: 256Mi}", "{}"),
        &["spec.domain.memory.guest: is missing"],
    );
    refused(
        &with(&good, "memory: {guest: 256Mi}", "memory: {guest: 0}"),
        &["spec.domain.memory.guest: 0 bytes are no memory"],
    );
    refused(
        &with(&good, "emptyDisk: {capacity: 32Mi}", "emptyDisk: {capacity: 1}"),
        &["creating empty disks failed: the size for volume scratch is too low"],
    );
    refused(
        &with(&good, "echo \"demo:", &format!("# {}\n          echo \"demo:", "x".repeat(2048))),
        &["ReadCloudInitVolumeDataSource failed: volume cloudinit: userData exceeds 2048 byte limit", "secretRef"],
    );
    refused(&with(&good, "name: demo", "name: other"), &["VMI default_other", "default_demo"]);
    // The original's words say no more; the log does, and of a field the reply.
    for (bytes, why, field) in [
        (&b"{\"spec\":{\"domain\":"[..], "EOF while parsing", ""),
        (b"\xff\xfe", "expected value at line 1 column 1", ""),
        (
            b"{\"spec\":{\"domain\":{\"cpu\":{\"cores\":\"many\"}}}}",
            "spec.domain.cpu.cores",
            ": spec.domain.cpu.cores: invalid type: string \"many\", expected u32",
        ),
        (
            b"{\"spec\":{\"domain\":{\"cpu\":[2,1,1]}}}",
            "spec.domain.cpu",
            ": spec.domain.cpu: invalid type: sequence, expected a map",
        ),
        (b"", "", ""),
    ] {
        let none = format!("No valid vmi object present in command server request{field}");
        assert_eq!(pod.sync_raw(bytes), (false, none));
        wait_for("the reason in the log", Duration::from_secs(20), || expect(pod.log().contains(why), pod.log()));
    }
    assert!(pod.ctl(&["ping"]).status.success());

    // What a VMI may not carry itself, a secret may.
    let secret = pod.volume("private").join("secret/cloudinit");
    std::fs::create_dir_all(&secret).unwrap();
    let script = format!("#!/bin/sh\n# {}\necho \"a long script of $(hostname) ran\"\n", "x".repeat(5000));
    std::fs::write(secret.join("userdata"), script).unwrap();
    let (head, tail) = good.split_once("userData: |").unwrap();
    let (_, tail) = tail.split_once("    - name: scratch").unwrap();
    boot(&pod, &format!("{head}secretRef: {{name: long}}\n    - name: scratch{tail}"));
    pod.wait_console("a long script of demo ran");
    let killed = pod.ctl(&["kill"]);
    assert!(killed.status.success(), "{}", text(&killed));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn field_that_needs_a_newer_libvirt_is_refused() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hypervisors.yaml");
    let mut catalogue = catalogue();
    catalogue["hypervisors"]["qemu-kvm"]["launcher"]["features"] = serde_norway::from_str(
        "
- {path: spec.domain.devices.rng, level: needs-version, needs: 8.0.0, reason: an old one will do}
- {path: spec.domain.devices.watchdog, level: needs-version, needs: 99.0.0, reason: of the future}
",
    )
    .unwrap();
    fs::write(&file, serde_norway::to_string(&catalogue).unwrap()).unwrap();
    let pod = Setup::new(&image, "demo").mount(&file, CATALOGUE).disks().start();
    pod.wait_ready();
    let asks = with(
        &vmi("demo"),
        "devices:",
        "devices:\n      rng: {}\n      watchdog: {name: dog, i6300esb: {action: reset}}",
    );
    let (success, message) = pod.sync_raw(&json(&asks));
    assert!(!success);
    let only =
        "1 field not supported by qemu-kvm/amd64: spec.domain.devices.watchdog: of the future (needs libvirt 99.0.0)";
    assert!(message.contains(only), "{message}");
    assert_eq!(pod.virsh(&["list", "--all", "--name"]), "");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn full_disk_is_reported_and_leaves_nothing_half_made() {
    let image = image();
    // Room for the launcher's folders, not for an overlay.
    let pod = Setup::new(&image, "demo").small("ephemeral-disks", 64).disks().start();
    pod.wait_ready();
    for _ in 0..2 {
        let (success, message) = pod.sync_raw(&json(&vmi("demo")));
        assert!(!success);
        let overlay = "/var/run/kubevirt-ephemeral-disks/disk-data/containerdisk/disk.qcow2";
        let what = "preparing ephemeral container disk images failed: qemu-img could not make the overlay";
        assert!(message.starts_with(&format!("{what} {overlay}: ")), "{message}");
        assert!(message.contains("No space left on device"), "{message}");
        let left = pod.exec(&["find", "/var/run/kubevirt-ephemeral-disks/disk-data", "-type", "f"]);
        assert_eq!(left, "");
    }
    assert!(pod.ctl(&["ping"]).status.success());
    assert_eq!(pod.virsh(&["list", "--all", "--name"]), "", "no half-made domain");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn standalone_vmi_that_cannot_run_ends_the_launcher() {
    let image = image();
    for (document, why) in [
        ("{\"spec\":".to_owned(), "STANDALONE_VMI: line 1, column 8: EOF while parsing a value"),
        (
            with(&vmi("demo"), &format!("uid: {UID}"), &format!("uid: {UID}\n  annotations: {{x: [1]}}")),
            "STANDALONE_VMI: line 9: metadata.annotations.x: invalid type: sequence, expected a string",
        ),
        (
            with(&vmi("demo"), &format!("uid: {UID}"), "uid: ../elsewhere"),
            "STANDALONE_VMI: metadata.uid \"../elsewhere\" must be usable as a file name",
        ),
        (vmi("other"), "STANDALONE_VMI: VMI default_other was sent to the launcher of default_demo"),
    ] {
        let pod = Setup::new(&image, "demo").env("STANDALONE_VMI", &document).start();
        assert_eq!(pod.wait_exit(), 2, "{}", pod.log());
        let told = pod.records("error");
        let told: Vec<_> = told.iter().filter(|record| record["msg"] == "the launcher cannot start").collect();
        assert_eq!(told.len(), 1, "{}", pod.log());
        assert!(told[0]["reason"].as_str().unwrap().starts_with(why), "{}", told[0]);
    }
}

/// For what happens by itself, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// In place of the ISO tool, which the launcher calls while it starts the VM: leaves a process behind that listens where
/// virt-handler is to listen, and writes down what it is told.
const IMPOSTOR: &str = "#!/bin/sh\n\
    if [ ! -e /var/run/kubevirt/told ]; then\n\
        setsid virt-launcher ctl -o json events >/var/run/kubevirt/told 2>/var/run/kubevirt/impostor </dev/null &\n\
    fi\n\
    exec /usr/bin/xorrisofs \"$@\"\n";

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn process_of_the_pod_in_virt_handlers_place_gets_no_event() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let tool = dir.path().join("xorrisofs");
    write_program(&tool, IMPOSTOR);
    let pod = Setup::new(&image, "demo").mount(&tool, "/usr/local/bin/xorrisofs").start();
    boot(&pod, &vmi("demo"));
    wait_for("word of the impostor", PATIENCE, || {
        let log = pod.lines().join("\n");
        expect(log.contains("in virt-handler's place"), log)
    });
    // The real one takes the place of what it finds.
    let virt_handler = pod.virt_handler(&vmi("demo"));
    wait_for("an event", PATIENCE, || expect(!virt_handler.pipe.received().is_empty(), pod.log()));
    assert_eq!(fs::read_to_string(pod.volume("public").join("told")).unwrap(), "");
}
