//! Cloud Hypervisor as the second hypervisor: its documents, and VMs in the image under the real virtchd. KVM works on few
//! build machines: where it does not, a double stands in for the VMM, and the tests say so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test ends by panicking

mod support;

use support::pod::{Pod, Setup, UID, text};

use virt_launcher::convert::{Defines, HostFacts, HypervisorFacts, Profile};
use virt_launcher::vmi::{self, VirtualMachineInstance};

const VMI: &str = r#"
metadata: {name: demo, namespace: ns, uid: u-1}
spec:
  architecture: amd64
  domain:
    cpu: {sockets: 2, maxSockets: 4, model: host-model}
    memory: {guest: 128Mi, maxGuest: 1Gi}
    firmware: {uuid: 6f5a1c1e-5ee5-4d2c-8f62-1a2b3c4d5e6f}
    clock: {utc: {}, timer: {rtc: {tickPolicy: catchup}}}
    devices:
      interfaces: [{name: default, masquerade: {}, macAddress: "02:00:00:00:00:01", bootOrder: 3}]
      disks:
        - {name: seed, disk: {bus: virtio}}
        - {name: claim, disk: {bus: virtio}, cache: none, errorPolicy: report}
        - {name: root, bootOrder: 1, disk: {bus: virtio}, dedicatedIOThread: true}
        - {name: config, disk: {bus: virtio}}
  networks: [{name: default, pod: {}}]
  volumes:
    - {name: root, containerDisk: {image: x}}
    - {name: seed, cloudInitNoCloud: {userData: x}}
    - {name: claim, persistentVolumeClaim: {claimName: c}}
    - {name: config, configMap: {name: c}}
"#;

fn facts() -> HostFacts {
    let facts = r#"{"optionsPresent": true, "interfaceDomainAttachment": {"default": "tap"},
        "links": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1400}, {"name": "tap0"}],
        "blockVolumes": ["claim"], "containerDisks": {"root": {"format": "raw"}}}"#;
    let hypervisor = HypervisorFacts {
        name: "kvm".into(),
        device_present: true,
        profile: Profile::CloudHypervisor,
        firmware_image: "/usr/share/cloud-hypervisor/CLOUDHV.fd".into(),
        ..HypervisorFacts::default()
    };
    HostFacts { hypervisor, ..serde_json::from_str(facts).unwrap() }
}

fn document(text: &str) -> VirtualMachineInstance {
    vmi::parse_document(text).unwrap()
}

/// The XML, each element on a line of its own.
fn xml(vmi: &str, facts: &HostFacts) -> String {
    let defines = Defines::new(&document(vmi), facts).unwrap();
    assert!(defines.is_last(), "one define is enough");
    defines.xml().replace("><", ">\n<")
}

#[test]
fn the_document_has_only_what_the_driver_takes() {
    let xml = xml(VMI, &facts());
    for refused in [
        "memballoon",
        "<rng",
        "watchdog",
        "<video",
        "<graphics",
        "<input",
        "<controller",
        "<channel",
        "qemu",
        "<console",
    ] {
        assert!(!xml.contains(refused), "{refused}: {xml}");
    }
    for dropped in
        ["cache=", "iothread", "<backingStore", "<boot ", "<cpu mode", "<clock", "<sysinfo", "<maxMemory", "<rom"]
    {
        assert!(!xml.contains(dropped), "{dropped}: {xml}");
    }
    for wanted in [
        "<name>ns_demo</name>",
        "<uuid>6f5a1c1e-5ee5-4d2c-8f62-1a2b3c4d5e6f</uuid>",
        "<kernel>/usr/share/cloud-hypervisor/CLOUDHV.fd</kernel>",
        r#"<target dev="tap0" managed="no">"#,
        r#"<source mode="bind" path="/var/run/kubevirt-private/u-1/vmm-serial0">"#,
        r#"<memory unit="b">134217728</memory>"#,
        r#"<vcpu id="1" enabled="yes" hotpluggable="yes">"#,
        r#"<vcpu id="2" enabled="no" hotpluggable="yes">"#,
    ] {
        assert!(xml.contains(wanted), "{wanted}: {xml}");
    }
}

#[test]
fn disks_are_files_in_boot_order_and_seeds_read_only() {
    let document = Defines::new(&document(VMI), &facts()).unwrap().document().clone();
    let disks: Vec<_> = document
        .devices
        .disks
        .iter()
        .map(|disk| {
            let driver = disk.driver.as_ref().unwrap();
            assert_eq!((disk.type_.as_str(), disk.target.bus.as_str()), ("file", "virtio"));
            assert!(disk.backing_store.is_none());
            let file = disk.source.file.rsplit('/').next().unwrap().to_owned();
            (disk.target.device.clone(), file, driver.type_.clone(), disk.read_only.is_some())
        })
        .collect();
    let expected = [
        ("vda", "disk.qcow2", "qcow2", false),
        ("vdb", "noCloud.img", "raw", true),
        ("vdc", "claim", "raw", false),
        ("vdd", "config.iso", "raw", true),
    ];
    assert_eq!(disks, expected.map(|(dev, file, kind, ro)| (dev.to_owned(), file.to_owned(), kind.to_owned(), ro)));
}

#[test]
fn a_kernel_of_its_own_boots_without_firmware_and_nothing_else_does() {
    let without =
        HostFacts { hypervisor: HypervisorFacts { firmware_image: String::new(), ..facts().hypervisor }, ..facts() };
    let error = Defines::new(&document(VMI), &without).unwrap_err().to_string();
    assert!(error.contains("spec.domain.firmware") && error.contains("kernelBoot"), "{error}");
    let kernel =
        "firmware: {kernelBoot: {kernelArgs: console=ttyS0, container: {kernelPath: /boot/vmlinuz, initrdPath: /i}}}";
    let own = VMI.replace("firmware: {uuid: 6f5a1c1e-5ee5-4d2c-8f62-1a2b3c4d5e6f}", kernel);
    let xml = xml(&own, &without);
    for wanted in [
        "<kernel>/var/run/kubevirt/container-disks/kernel-boot/vmlinuz</kernel>",
        "<initrd>/var/run/kubevirt/container-disks/kernel-boot/i</initrd>",
        "<cmdline>console=ttyS0</cmdline>",
    ] {
        assert!(xml.contains(wanted), "{wanted}: {xml}");
    }
}

#[test]
fn what_cannot_be_said_to_the_driver_is_an_error_with_its_path() {
    let plain = facts();
    let no_device = HostFacts {
        hypervisor: HypervisorFacts { device_present: false, ..plain.hypervisor.clone() },
        ..plain.clone()
    };
    let sata = VMI.replace("{name: claim, disk: {bus: virtio}", "{name: claim, disk: {bus: sata}");
    let empty = VMI.replace("{name: config, disk: {bus: virtio}}", "{name: tray, cdrom: {bus: virtio}}");
    let no_tap = HostFacts { options: Default::default(), ..plain.clone() };
    for (vmi, facts, said) in [
        (VMI, &no_device, "/dev/kvm"),
        (&sata, &plain, "spec.domain.devices.disks[1]"),
        (&empty, &plain, "spec.domain.devices.disks[3]"),
        (VMI, &no_tap, "spec.domain.devices.interfaces[default]"),
    ] {
        let error = Defines::new(&document(vmi), facts).unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}

// From here on: the image, with the real virtchd. `images/build.sh ch` builds it, VIRT_LAUNCHER_CH_IMAGE names it; without,
// these tests pass without looking.

/// The VMM under test and the image; `None` without an image.
fn setup<'a>(image: &'a str, vm: &'a str) -> Setup<'a> {
    let fake = std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/fake-cloud-hypervisor");
    let given = std::env::var_os("CLOUD_HYPERVISOR").map(std::path::PathBuf::from).filter(|_| kvm_works());
    eprintln!("the VMM is {}", if given.is_some() { "the real one" } else { "the fake one" });
    Setup::new(image, vm)
        .flags(&["--hypervisor", "cloud-hypervisor"])
        .podman(&["--device", "/dev/kvm"])
        .mount(&given.unwrap_or(fake), "/usr/bin/cloud-hypervisor:ro")
}

fn kvm_works() -> bool {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/images/kvm-works.sh");
    std::process::Command::new(script).output().is_ok_and(|output| output.status.success())
}

fn image() -> Option<String> {
    let image = std::env::var("VIRT_LAUNCHER_CH_IMAGE").ok();
    if image.is_none() {
        eprintln!("skipped: VIRT_LAUNCHER_CH_IMAGE is not set (images/build.sh ch builds the image)");
    }
    image
}

/// What virt-controller made of the user's VMI.
fn guest(name: &str, arguments: &str) -> String {
    format!(
        r#"
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {{name: "{name}", namespace: default, uid: {UID}}}
spec:
  architecture: amd64
  terminationGracePeriodSeconds: 5
  domain:
    cpu: {{cores: 2}}
    memory: {{guest: 64Mi}}
    resources: {{requests: {{memory: 64Mi}}}}
    firmware:
      kernelBoot: {{kernelArgs: "console=ttyS0 {arguments}", container: {{image: x, kernelPath: /boot/vmlinuz}}}}
    devices:
      logSerialConsole: true
      disks:
        - {{name: root, disk: {{bus: virtio}}}}
        - {{name: seed, disk: {{bus: virtio}}}}
  volumes:
    - {{name: root, containerDisk: {{image: x}}}}
    - {{name: seed, cloudInitNoCloud: {{userData: "x"}}}}
status: {{phase: Scheduled, runtimeUser: 107}}
"#
    )
}

fn started(setup: Setup<'_>) -> Pod {
    let pod = setup.start();
    pod.give_device("/dev/kvm");
    pod.wait_ready();
    let disks = pod.volume("container-disks");
    std::fs::create_dir_all(disks.join("kernel-boot")).unwrap();
    std::fs::write(disks.join("kernel-boot/vmlinuz"), b"\x7fELF").unwrap();
    let disk = std::fs::File::create(disks.join("disk_0.img")).unwrap();
    disk.set_len(8 << 20).unwrap();
    pod
}

fn ok(output: std::process::Output) {
    assert!(output.status.success(), "{}", text(&output));
}

fn vmms(pod: &Pod) -> String {
    pod.exec(&["sh", "-c", "ps -e -o comm= | grep -c '^cloud-hyperviso' || true"])
}

fn reason(pod: &Pod) -> String {
    let domain: serde_json::Value =
        serde_json::from_slice(&pod.ctl(&["-o", "json", "get-domain"]).stdout).unwrap_or_default();
    domain.pointer("/Status/Reason").and_then(|reason| reason.as_str()).unwrap_or_default().to_owned()
}

/// Types a line at the guest's console.
fn type_line(pod: &Pod, line: &str) {
    use std::io::Write;
    let path = pod.volume("private").join(UID).join("virt-serial0");
    let mut console = std::os::unix::net::UnixStream::connect(path).unwrap();
    writeln!(console, "{line}").unwrap();
    // Closing at once would drop it on its way.
    let _ = std::io::Read::read(&mut console, &mut [0; 64]);
}

#[test]
fn a_vm_lives_and_shuts_down_in_order() {
    let Some(image) = image() else { return };
    let pod = started(setup(&image, "demo"));
    let vmi = guest("demo", "");
    let handler = pod.virt_handler(&vmi);
    ok(pod.sync(&vmi));
    pod.wait_status("Running");
    pod.wait_console("fake guest: boot 1");
    ok(pod.sync(&vmi));
    for (command, status) in [("pause", "Paused"), ("unpause", "Running")] {
        ok(pod.ctl(&[command]));
        pod.wait_status(status);
    }
    ok(pod.ctl(&["reset"]));
    pod.wait_console("fake guest: boot 2");
    ok(pod.ctl(&["shutdown"]));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    let log = std::fs::read_to_string(pod.volume("private").join(UID).join("virt-serial0-log")).unwrap();
    for line in ["boot 1", "boot 2", "power button", "going down"] {
        assert!(log.contains(line), "{line}: {log}");
    }
    drop(handler);
}

#[test]
fn a_crash_is_told_within_a_second() {
    let Some(image) = image() else { return };
    let pod = started(setup(&image, "demo"));
    ok(pod.sync(&guest("demo", "")));
    pod.wait_status("Running");
    pod.exec(&["sh", "-c", "kill -9 $(pgrep cloud-hyperviso)"]);
    let killed = std::time::Instant::now();
    pod.wait_status("Shutoff");
    assert!(killed.elapsed() < std::time::Duration::from_millis(1500), "{:?}", killed.elapsed());
    assert_eq!(reason(&pod), "Crashed");
    assert_eq!(vmms(&pod), "0");
}

#[test]
fn a_guest_s_own_power_off_is_no_crash() {
    let Some(image) = image() else { return };
    let pod = started(setup(&image, "demo"));
    ok(pod.sync(&guest("demo", "")));
    pod.wait_status("Running");
    type_line(&pod, "poweroff");
    pod.wait_status("Shutoff");
    assert_eq!(reason(&pod), "Shutdown");
}

#[test]
fn a_vm_that_does_not_listen_is_ended() {
    let Some(image) = image() else { return };
    let pod = started(setup(&image, "demo"));
    let vmi = guest("demo", "ignore-power-button stubborn");
    let handler = pod.virt_handler(&vmi);
    ok(pod.sync(&vmi));
    pod.wait_status("Running");
    ok(pod.ctl(&["shutdown"]));
    pod.wait_console("power button");
    ok(pod.ctl(&["kill"]));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    drop(handler);
}

#[test]
fn a_vm_outlives_its_daemon_and_stays_under_control() {
    let Some(image) = image() else { return };
    let pod = started(setup(&image, "demo"));
    let vmi = guest("demo", "");
    let handler = pod.virt_handler(&vmi);
    ok(pod.sync(&vmi));
    pod.wait_status("Running");
    pod.exec(&["sh", "-c", "kill -9 $(pgrep virtchd)"]);
    support::wait_for("the new daemon", std::time::Duration::from_secs(20), || {
        let listed = pod.exec(&[
            "sh",
            "-c",
            "virsh -c 'ch+unix:///session?socket=/run/libvirt/virtchd-sock' list --all || true",
        ]);
        support::expect(listed.contains("Id") && !listed.contains("demo"), listed)
    });
    assert_eq!(pod.status(), "Running");
    for (command, status) in [("pause", "Paused"), ("unpause", "Running")] {
        ok(pod.ctl(&[command]));
        pod.wait_status(status);
    }
    ok(pod.ctl(&["shutdown"]));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    drop(handler);
}

#[test]
fn starts_that_fail_say_why_and_leave_nothing() {
    let Some(image) = image() else { return };
    let pod = started(setup(&image, "demo"));
    let kernel = pod.volume("container-disks").join("kernel-boot/vmlinuz");
    std::fs::write(&kernel, "no kernel").unwrap();
    let refused = pod.sync(&guest("demo", ""));
    assert!(!refused.status.success() && text(&refused).contains("invalid ELF magic"), "{}", text(&refused));
    assert_eq!(vmms(&pod), "0");
    std::fs::remove_file(&kernel).unwrap();
    let refused = pod.sync(&guest("demo", ""));
    assert!(!refused.status.success() && text(&refused).contains("kernel-boot/vmlinuz"), "{}", text(&refused));
    assert!(pod.ctl(&["ping"]).status.success());
    std::fs::write(&kernel, b"\x7fELF").unwrap();
    ok(pod.sync(&guest("demo", "")));
    pod.wait_status("Running");
    assert_eq!(vmms(&pod), "1");
}

#[test]
fn without_the_device_it_says_so_and_does_not_hang() {
    let Some(image) = image() else { return };
    let pod = setup(&image, "demo").start();
    pod.wait_ready();
    let disks = pod.volume("container-disks");
    std::fs::create_dir_all(disks.join("kernel-boot")).unwrap();
    std::fs::write(disks.join("kernel-boot/vmlinuz"), b"\x7fELF").unwrap();
    std::fs::File::create(disks.join("disk_0.img")).unwrap().set_len(1 << 20).unwrap();
    let refused = pod.sync(&guest("demo", ""));
    assert!(!refused.status.success() && text(&refused).contains("/dev/kvm"), "{}", text(&refused));
    assert!(pod.ctl(&["ping"]).status.success());
}

#[test]
fn the_longest_name_works_and_is_told_in_full() {
    let Some(image) = image() else { return };
    let name = "v".repeat(63);
    let pod = started(setup(&image, &name).flags(&["--namespace", &"n".repeat(63)]));
    let vmi = guest(&name, "").replace("namespace: default", &format!("namespace: {}", "n".repeat(63)));
    ok(pod.sync(&vmi));
    pod.wait_status("Running");
    let domain: serde_json::Value = serde_json::from_slice(&pod.ctl(&["-o", "json", "get-domain"]).stdout).unwrap();
    assert_eq!(domain.pointer("/Spec/Name").unwrap(), &format!("{}_{name}", "n".repeat(63)));
}

#[test]
fn what_it_cannot_do_is_refused_in_one_answer() {
    let Some(image) = image() else { return };
    let pod = started(setup(&image, "demo"));
    let bad = guest("demo", "")
        .replace("cpu: {cores: 2}", "cpu: {cores: 2, model: Skylake-Client}")
        .replace("logSerialConsole: true", "tpm: {}\n      watchdog: {name: w, i6300esb: {action: reset}}")
        .replace("{name: seed, disk: {bus: virtio}}", "{name: seed, cdrom: {bus: sata}}");
    let refused = text(&pod.sync(&bad));
    for path in
        ["spec.domain.devices.tpm", "spec.domain.devices.watchdog", "spec.domain.cpu.model", "disks[1].cdrom.bus"]
    {
        assert!(refused.contains(path), "{path}: {refused}");
    }
}
