//! Starts: those that fail, and names that are hard.

use std::fs;

use serde_json::json;

use crate::support::pod::text;
use crate::support::subject::{HypervisorUnderTest, ok, vmi};

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn starts_that_fail_say_why_and_leave_nothing() {
    let subject = HypervisorUnderTest::from_environment();
    let vmi = vmi("demo", "");
    let pod = subject.ready(subject.setup("demo"));
    let kernel = pod.volume("container-disks").join("kernel-boot/vmlinuz");
    let disk = pod.volume("container-disks").join("disk_0.img");
    let (good, kept) = (kernel.with_file_name("good"), disk.with_file_name("kept"));
    let refused = |said: &str| {
        let refused = pod.sync(&vmi);
        assert!(!refused.status.success() && text(&refused).contains(said), "{said}: {}", text(&refused));
        subject.wait_no_process(&pod);
        assert!(pod.ctl(&["ping"]).status.success());
    };
    fs::rename(&disk, &kept).unwrap();
    refused("disk_0.img");
    fs::rename(&kept, &disk).unwrap();
    fs::rename(&kernel, &good).unwrap();
    refused("kernel-boot/vmlinuz");
    fs::write(&kernel, "no kernel").unwrap();
    refused(subject.on_a_bad_kernel());
    fs::rename(&good, &kernel).unwrap();
    ok(pod.sync(&vmi));
    pod.wait_status("Running");
    subject.process(&pod);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launcher_without_the_device_says_so_and_does_not_hang() {
    let subject = HypervisorUnderTest::from_environment();
    let pod = subject.without_device("demo");
    let refused = pod.sync(&vmi("demo", ""));
    let said = subject.on_a_missing_device();
    assert!(!refused.status.success() && text(&refused).contains(said), "{said}: {}", text(&refused));
    assert!(pod.ctl(&["ping"]).status.success());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn longest_name_works_and_is_reported_in_full() {
    let subject = HypervisorUnderTest::from_environment();
    let (name, namespace) = ("v".repeat(63), "n".repeat(63));
    let vmi = vmi(&name, "").replace("namespace: default", &format!("namespace: {namespace}"));
    let pod = subject.running(subject.setup(&name).flags(&["--namespace", &namespace]), &vmi);
    assert_eq!(pod.domain().pointer("/Spec/Name").unwrap(), &format!("{namespace}_{name}"));
    ok(pod.ctl(&["kill"]));
    pod.wait_status("Shutoff");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_may_be_named_like_hypervisors_and_daemons() {
    let subject = HypervisorUnderTest::from_environment();
    let name = "my-qemu-kvm-and-qemu-system-and-cloud-hypervisor-and-virtchd";
    let pod = subject.running(subject.setup(name), &vmi(name, ""));
    subject.process(&pod);
    ok(pod.ctl(&["kill"]));
    pod.wait_status("Shutoff");
    subject.wait_no_process(&pod);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn nic_is_the_tap_that_virt_handler_prepared() {
    let subject = HypervisorUnderTest::from_environment();
    let pod = subject.ready(subject.setup("demo").podman(&["--device", "/dev/net/tun"]));
    // A tap can stand for the pod's link, too.
    for link in ["eth0", "tap0"] {
        pod.in_network(&["ip", "tuntap", "add", "mode", "tap", "user", "107", "name", link]);
        pod.in_network(&["ip", "link", "set", link, "mtu", "1400", "up"]);
    }
    pod.give_device("/dev/net/tun");
    let vmi = vmi("demo", "")
        .replace(
            "autoattachPodInterface: false",
            r#"interfaces: [{name: default, masquerade: {}, macAddress: "02:00:00:00:00:0a"}]"#,
        )
        .replace("  volumes:", "  networks: [{name: default, pod: {}}]\n  volumes:");
    let options = pod.volume("public").join("options.json");
    fs::write(&options, r#"{"interfaceDomainAttachment":{"default":"tap"}}"#).unwrap();
    ok(pod.ctl_with(&["--timeout", "120", "sync", "--options", options.to_str().unwrap()], &vmi));
    pod.wait_status("Running");
    pod.wait_console("guest: boot");
    let domain = pod.domain();
    let nic = &domain["Spec"]["Devices"]["Interfaces"][0];
    assert_eq!((&nic["Target"]["Device"], &nic["MAC"]["MAC"]), (&json!("tap0"), &json!("02:00:00:00:00:0a")), "{nic}");
    let stats: serde_json::Value = serde_json::from_slice(&pod.ctl(&["-o", "json", "stats"]).stdout).unwrap();
    assert_eq!(stats["Net"].as_array().map(Vec::len), Some(1), "{stats}");
    assert!(stats["Net"][0]["TxBytes"].is_u64(), "{stats}");
    ok(pod.ctl(&["kill"]));
    pod.wait_status("Shutoff");
}
