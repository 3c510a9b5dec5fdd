//! VMs in Cloud Hypervisor's image under the real virtchd: what is peculiar to it; the life of a VM is tests/it/lifecycle. KVM
//! works on few build machines: where it does not, a double stands in for the VMM, and the tests say so.

use crate::support;
use std::io::Write;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;

use crate::support::pod::{Pod, text};
use crate::support::processes::{owner, send, try_owner};
use crate::support::subject::{HypervisorUnderTest, ok, vmi};
use crate::support::tiny_guest::type_line;

/// A VM that runs, and its pod.
fn running(subject: &HypervisorUnderTest) -> Pod {
    subject.running(subject.setup("demo"), &vmi("demo", ""))
}

/// The uid of the process with this name in the pod.
fn uid_of(pod: &Pod, name: &str) -> String {
    pod.exec(&["ps", "-o", "uid=", "-C", name]).trim().to_owned()
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_CH_IMAGE; make test-ch"]
fn root_pods_daemon_and_vmm_run_as_uid_107() {
    let subject = HypervisorUnderTest::cloud_hypervisor();
    let vmi = vmi("demo", "");
    let pod = subject.running(subject.setup("demo").root(true), &vmi);
    for (name, uid) in [("virt-launcher", "0"), ("virtchd", "107"), ("cloud-hyperviso", "107")] {
        assert_eq!(uid_of(&pod, name), uid, "{name}");
    }
    let why = |record: &serde_json::Value| {
        record["msg"].as_str().is_some_and(|text| text.contains("virtchd runs as uid 107") && text.contains("cgroups"))
    };
    assert!(pod.records("info").iter().any(why), "the reason is told: {}", pod.log());
    let handler = pod.virt_handler(&vmi);
    ok(pod.ctl(&["shutdown"]));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    drop(handler);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_CH_IMAGE; make test-ch"]
fn daemon_that_has_forgotten_the_vm_stays_without_it_and_get_domain_goes_on() {
    let subject = HypervisorUnderTest::cloud_hypervisor();
    let pod = running(&subject);
    let before = pod.domain();
    send(subject.daemon(&pod).unwrap(), Signal::SIGKILL);
    let list = "virsh -c 'ch+unix:///session?socket=/run/libvirt/virtchd-sock' list --all || true";
    support::wait_for("the new daemon", std::time::Duration::from_secs(60), || {
        let listed = pod.exec(&["sh", "-c", list]);
        support::expect(listed.contains("Id") && !listed.contains("demo"), listed)
    });
    assert_eq!(pod.status(), "Running");
    assert_eq!(pod.domain()["Spec"]["Devices"]["Disks"], before["Spec"]["Devices"]["Disks"]);
    let stats = pod.ctl(&["stats"]);
    assert!(stats.status.success(), "{}", text(&stats));
    ok(pod.ctl(&["reset"]));
    ok(pod.ctl(&["kill"]));
    pod.wait_status("Shutoff");
    assert_eq!(pod.domain()["Status"]["Reason"], "Destroyed");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_CH_IMAGE; make test-ch"]
fn power_off_while_the_daemon_is_down_is_not_a_crash() {
    let subject = HypervisorUnderTest::cloud_hypervisor();
    let vmi = vmi("demo", "");
    let pod = running(&subject);
    let mut line = UnixStream::connect(pod.serial_port()).unwrap();
    send(subject.daemon(&pod).unwrap(), Signal::SIGKILL);
    line.write_all(b"\npoweroff\n").unwrap();
    subject.wait_no_process(&pod);
    pod.wait_status("Shutoff");
    let ended = |pod: &Pod| assert_eq!(pod.domain()["Status"]["Reason"], "Shutdown", "{}", pod.log());
    ended(&pod);
    // Nor does the next daemon, which never knew the VM, make it disappear.
    support::wait_for("the new connection", std::time::Duration::from_secs(60), || {
        let again = pod.lines().iter().any(|line| line.contains("connected to libvirt again"));
        support::expect(again, pod.log())
    });
    ok(pod.ctl_with(&["kill", "--vmi"], &vmi));
    ended(&pod);
    ok(pod.ctl_with(&["delete", "--vmi"], &vmi));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_CH_IMAGE; make test-ch"]
fn vm_that_ends_between_two_launchers_is_reported_as_ended() {
    let subject = HypervisorUnderTest::cloud_hypervisor();
    let vmi = vmi("demo", "");
    let pod = running(&subject);
    let (vmm, launcher) = (subject.process(&pod), owner(&pod));
    // It cannot look while it is stopped.
    send(launcher, Signal::SIGSTOP);
    send(vmm, Signal::SIGTERM);
    subject.wait_no_process(&pod);
    send(launcher, Signal::SIGKILL);
    support::wait_for("another launcher", std::time::Duration::from_secs(60), || {
        let new = try_owner(&pod);
        support::expect(new.is_some_and(|new| new != launcher), pod.log())
    });
    pod.wait_status("Shutoff");
    assert_eq!(pod.domain()["Status"]["Reason"], "Shutdown", "{}", pod.log());
    ok(pod.ctl_with(&["delete", "--vmi"], &vmi));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_CH_IMAGE; make test-ch"]
fn vmm_that_dies_while_it_starts_does_not_run_for_ever() {
    let subject = HypervisorUnderTest::cloud_hypervisor();
    if !subject.is_a_double() {
        return;
    }
    let vmi = vmi("demo", "die-at-start");
    for _ in 0..3 {
        let pod = subject.ready(subject.setup("demo"));
        // A start that fails, or a crash.
        pod.sync(&vmi);
        pod.wait_status("Shutoff");
        subject.wait_no_process(&pod);
        support::wait_for("the end of the console", std::time::Duration::from_secs(60), || {
            support::expect(!pod.serial_port().exists(), pod.log())
        });
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_CH_IMAGE; make test-ch"]
fn sync_refuses_all_unsupported_fields_in_one_answer() {
    let subject = HypervisorUnderTest::cloud_hypervisor();
    let pod = subject.ready(subject.setup("demo"));
    let bad = vmi("demo", "")
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

#[test]
#[ignore = "needs VIRT_LAUNCHER_CH_IMAGE; make test-ch"]
fn orders_that_the_driver_has_no_way_for_are_refused_with_their_reason() {
    let subject = HypervisorUnderTest::cloud_hypervisor();
    let pod = running(&subject);
    for (words, rpc, reason) in [
        (&["soft-reboot"] as &[&str], "SoftRebootVirtualMachine", "there is neither an agent nor an ACPI reboot"),
        (&["screenshot", "-"], "GetScreenshot", "there are no graphics"),
        (&["exec", "true"], "Exec", "no agent"),
        (&["guest-ping"], "GuestPing", "no agent"),
        (&["freeze"], "FreezeVirtualMachine", "no agent"),
    ] {
        let refused = pod.ctl(words);
        let said = format!("{rpc} is not supported by cloud-hypervisor: {reason}");
        assert!(!refused.status.success() && text(&refused).contains(&said), "{words:?}: {}", text(&refused));
    }
    assert_eq!(pod.status(), "Running");
    assert!(pod.ctl(&["guest-info"]).status.success(), "nothing is known of an agent, and that is no error");
}

/// The VMI with a claim, which is a raw file.
fn vmi_with_claim() -> String {
    vmi("demo", "")
        .replace(
            "{name: seed, disk: {bus: virtio}}",
            "{name: seed, disk: {bus: virtio}}\n        - {name: claim, disk: {bus: virtio}}",
        )
        .replace(
            "    - {name: seed, cloud",
            "    - {name: claim, persistentVolumeClaim: {claimName: c}}\n    - {name: seed, cloud",
        )
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_CH_IMAGE; make test-ch"]
fn guest_may_write_the_first_sector_of_every_disk() {
    let subject = HypervisorUnderTest::cloud_hypervisor();
    let pod = subject.ready(subject.setup("demo"));
    let claim = pod.volume("private").join("vmi-disks/claim");
    std::fs::create_dir_all(&claim).unwrap();
    std::fs::File::create(claim.join("disk.img")).unwrap().set_len(4 << 20).unwrap();
    pod.exec_as_root(&["chown", "-R", "107:107", "/var/run/kubevirt-private/vmi-disks"]);
    ok(pod.sync(&vmi_with_claim()));
    pod.wait_status("Running");
    let told =
        |record: &serde_json::Value| record["msg"].as_str().is_some_and(|text| text.contains("first sector of /"));
    assert!(pod.records("info").iter().any(told), "{}", pod.log());
    if subject.is_a_double() {
        type_line(&pod.serial_port(), "write first sectors");
        let seen = pod.wait_console("vmi-disks/claim/disk.img: written");
        assert!(seen.contains("disk.qcow2: written") && !seen.contains("I/O error"), "{seen}");
    }
    ok(pod.ctl(&["kill"]));
    pod.wait_status("Shutoff");
}

/// Where the first vCPU may run.
fn place_of_vcpu(vmm: u32) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{vmm}/task")).unwrap().map(|task| task.unwrap().path());
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let status: Vec<String> =
        tasks.filter(|task| read(task.join("comm")).trim() == "vcpu0").map(|task| read(task.join("status"))).collect();
    // The last life's thread may not have ended yet.
    let allowed = status.iter().flat_map(|status| status.lines()).filter(|line| line.starts_with("Cpus_allowed_list:"));
    allowed.map(|line| line.split_whitespace().last().unwrap_or_default()).collect::<Vec<_>>().join(" and ")
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_CH_IMAGE; make test-ch"]
fn vcpus_keep_their_places_across_a_reboot() {
    let subject = HypervisorUnderTest::cloud_hypervisor();
    let pinned = vmi("demo", "")
        .replace("cpu: {cores: 2}", "cpu: {cores: 1, dedicatedCpuPlacement: true, isolateEmulatorThread: true}");
    let pod = subject.ready(subject.setup("demo").podman(&["--cpuset-cpus", "0,1"]));
    let options = pod.volume("public").join("options.json");
    std::fs::write(&options, r#"{"topology": {"numa_cells": [{"id": 0, "cpus": [{"id": 0}, {"id": 1}]}]}}"#).unwrap();
    let sync = || ok(pod.ctl_with(&["--timeout", "120", "sync", "--options", options.to_str().unwrap()], &pinned));
    sync();
    // A VM whose emulator is isolated starts paused; the next sync lets it run.
    pod.wait_status("Paused");
    sync();
    pod.wait_status("Running");
    pod.wait_console("guest: boot");
    let domain = pod.domain();
    let cpus = |path: &str| domain.pointer(path).and_then(|cpus| cpus.as_str()).unwrap_or_default().to_owned();
    let (own, emulators) = (cpus("/Spec/CPUTune/VCPUPin/0/CPUSet"), cpus("/Spec/CPUTune/EmulatorPin/CPUSet"));
    assert!(!own.is_empty() && !emulators.is_empty() && own != emulators, "{domain}");
    let vmm = subject.process(&pod);
    let is_in_place = || {
        support::wait_for("the vCPU in its place", std::time::Duration::from_secs(60), || {
            let place = place_of_vcpu(vmm);
            support::expect(place == own, format!("{place}, not {own}"))
        });
    };
    is_in_place();
    type_line(&pod.serial_port(), "reboot");
    let boots = |log: String| log.matches("guest: boot").count();
    support::wait_for("the second boot", std::time::Duration::from_secs(60), || {
        let seen = boots(pod.wait_console("guest: boot"));
        support::expect(seen == 2, seen)
    });
    is_in_place();
    ok(pod.ctl(&["reset"]));
    is_in_place();
}

/// Whether this is the reason why virtchd is not even started.
fn names_the_devices(said: &str) -> bool {
    ["/dev/kvm", "/dev/mshv", "virtchd"].iter().all(|part| said.contains(part))
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_CH_IMAGE; make test-ch"]
fn sync_without_a_device_node_is_refused_until_there_is_one() {
    let subject = HypervisorUnderTest::cloud_hypervisor();
    let vmi = vmi("demo", "");
    let (rule, node) = subject.device_node();
    let pod = subject.bare("demo").podman(&["--device-cgroup-rule", &rule]).start();
    pod.wait_ready();
    subject.provide(&pod);
    ok(pod.ctl(&["ping"]));
    ok(pod.ctl_with(&["kill", "--vmi"], &vmi));
    let asked = text(&pod.ctl(&["get-domain"]));
    assert!(asked.contains("no domain is defined"), "{asked}");
    for _ in 0..2 {
        let refused = pod.sync(&vmi);
        assert!(!refused.status.success() && names_the_devices(&text(&refused)), "{}", text(&refused));
    }
    assert_eq!((subject.daemon(&pod), subject.processes(&pod)), (None, Vec::new()));
    let told = pod.records("warning");
    let waits = told.iter().filter(|record| record["msg"].as_str().is_some_and(|text| text.contains("waiting for")));
    assert_eq!(waits.count(), 1, "{told:#?}");
    let again = |record: &serde_json::Value| record["msg"].as_str().is_some_and(|text| text.contains("restarting"));
    assert!(!told.iter().any(again), "{told:#?}");

    // The device plugin is late.
    pod.exec_as_root(
        &[&["mknod", "-m", "666", "/dev/kvm"] as &[&str], &node.iter().map(String::as_str).collect::<Vec<_>>()]
            .concat(),
    );
    support::wait_for("a sync that succeeds", std::time::Duration::from_secs(60), || {
        let synced = pod.sync(&vmi);
        support::expect(synced.status.success(), text(&synced))
    });
    pod.wait_status("Running");
    pod.wait_console("guest: boot");
    let handler = pod.virt_handler(&vmi);
    ok(pod.ctl(&["shutdown"]));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    drop(handler);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_CH_IMAGE; make test-ch"]
fn launcher_that_waits_for_a_device_ends_when_it_is_told_to() {
    let subject = HypervisorUnderTest::cloud_hypervisor();
    let pod = subject.bare("demo").start();
    pod.wait_ready();
    send(pod.pid_1(), Signal::SIGTERM);
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
    assert!(pod.records("error").is_empty(), "{}", pod.log());
}
