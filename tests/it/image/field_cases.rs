//! Cases from the field, each with two more of its kind, put to a launcher as a person would: `ctl sync` of a file.

use std::process::Output;
use std::time::{Duration, Instant};

use super::adoption::{the_daemon, the_hypervisor};
use super::owner;
use crate::support::pod::{Pod, Setup, image, text};
use crate::support::subject::ok;

/// What virt-controller would have made the pod with.
const OF_THE_CASE: [&str; 4] = ["--namespace", "lab", "--uid", "00000000-0000-4000-8000-000000000001"];

fn refused(output: &Output, said: &[&str]) {
    let answer = text(output);
    assert!(!output.status.success() && said.iter().all(|part| answer.contains(part)), "{said:?}: {answer}");
}

/// What the API server would have added is added: the UUID, the buses, the machine.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vmi_as_people_write_it_runs() {
    let image = image();
    let file = |devices: &str, domain: &str| {
        format!(
            "apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {{name: as-written, namespace: lab}}
spec:
  domain:
    memory: {{guest: 128Mi}}
{domain}    devices:
      autoattachPodInterface: false
      disks: [{devices}]
  volumes: [{{name: hd, emptyDisk: {{capacity: 16Mi}}}}]
"
        )
    };
    let as_written = file("{name: hd, disk: {}}", "");
    for vmi in [&as_written, &file("{name: hd, cdrom: {}}", ""), &file("{name: hd}", "    machine: {type: pc}\n")] {
        let pod = Setup::new(&image, "as-written").flags(&["--namespace", "lab"]).start();
        pod.wait_ready();
        ok(pod.sync(vmi));
        pod.wait_status("Running");
        let uuid = || pod.virsh(&["domuuid", "lab_as-written"]);
        let (before, hypervisor) = (uuid(), the_hypervisor(&pod));
        // The next sync of the same file means the same VM.
        ok(pod.sync(vmi));
        assert_eq!((uuid(), the_hypervisor(&pod)), (before, hypervisor), "{vmi}");
        ok(pod.ctl(&["kill"]));
    }
    let flags = ["--name", "", "--namespace", "", "--uid", ""];
    let pod = Setup::new(&image, "").flags(&flags).env("STANDALONE_VMI", &as_written).start();
    pod.wait_ready();
    pod.wait_status("Running");
}

/// No VMI kills or hangs the libvirt daemon: the field is named, and the next VMI runs.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn absurd_numbers_of_vcpus_are_refused_by_field() {
    let image = image();
    let pod = Pod::start(&image, "absurd", &OF_THE_CASE);
    pod.wait_ready();
    let daemon = the_daemon(owner(&pod)).unwrap();
    let file = |cpu: &str| {
        format!(
            "apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {{name: absurd, namespace: lab, uid: 00000000-0000-4000-8000-000000000001}}
spec:
  domain:
    cpu: {cpu}
    memory: {{guest: 256Mi}}
    firmware: {{uuid: c3ecdb42-282e-44c3-8266-91b99ac91261}}
    devices: {{autoattachPodInterface: false}}
"
        )
    };
    for cpu in [
        "{cores: 70000, sockets: 70000, threads: 2}",
        "{cores: 1, sockets: 40000000}",
        "{cores: 1, sockets: 1, maxSockets: 2000000}",
    ] {
        // Three times: nothing that the first leaves behind makes a difference.
        for _ in 0..3 {
            let begun = Instant::now();
            refused(&pod.sync(&file(cpu)), &["spec.domain.cpu", "vCPUs"]);
            assert!(begun.elapsed() < Duration::from_secs(20), "{cpu}: {:?}", begun.elapsed());
        }
    }
    assert_eq!(the_daemon(owner(&pod)), Some(daemon), "the daemon that was there at first");
    ok(pod.sync(&file("{cores: 1, sockets: 1, threads: 1}")));
    pod.wait_status("Running");
}

/// A CD-ROM on the USB bus gets its controller, and QEMU starts with it; beside other USB devices, and two of them.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn usb_cd_rom_starts() {
    let image = image();
    let one = "{name: a, cdrom: {bus: usb}}";
    for (devices, drives) in [
        (format!("disks: [{one}, {{name: b, disk: {{bus: virtio}}}}]"), 1),
        (format!("disks: [{one}, {{name: b, cdrom: {{bus: usb}}}}]"), 2),
        (
            format!(
                "inputs: [{{name: tablet, type: tablet, bus: usb}}]\n      disks: [{one}, {{name: b, disk: {{bus: usb}}}}]"
            ),
            1,
        ),
    ] {
        let vmi = format!(
            "apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {{name: no-field, namespace: lab, uid: 00000000-0000-4000-8000-000000000001}}
spec:
  architecture: amd64
  terminationGracePeriodSeconds: 30
  domain:
    cpu: {{cores: 1, sockets: 1, threads: 1}}
    memory: {{guest: 256Mi}}
    resources: {{requests: {{memory: 256Mi}}}}
    machine: {{type: q35}}
    firmware:
      uuid: c3ecdb42-282e-44c3-8266-91b99ac91261
      kernelBoot:
        kernelArgs: console=ttyS0 no_timer_check quiet
        container: {{image: localhost/virt-launcher-guest, kernelPath: /boot/vmlinuz, initrdPath: /boot/initrd}}
    features: {{acpi: {{enabled: true}}}}
    devices:
      autoattachPodInterface: false
      autoattachGraphicsDevice: false
      rng: {{}}
      {devices}
  volumes:
  - {{name: a, emptyDisk: {{capacity: 16Mi}}}}
  - {{name: b, emptyDisk: {{capacity: 16Mi}}}}
status: {{phase: Scheduled, runtimeUser: 107}}
"
        );
        let pod = Pod::start(&image, "no-field", &OF_THE_CASE);
        pod.wait_ready();
        pod.provide_disks();
        ok(pod.sync(&vmi));
        pod.wait_status("Running");
        let usb = pod.virsh(&["qemu-monitor-command", "--hmp", "lab_no-field", "info usb"]);
        assert!(usb.matches("QEMU USB MSD").count() >= drives, "{devices}: {usb}");
        let blocks = pod.virsh(&["domblklist", "--details", "lab_no-field"]);
        assert_eq!(blocks.matches(" cdrom ").count(), drives, "{blocks}");
    }
}
