//! The real image with real libvirt and QEMU (in emulation), in a pod made by podman. `make test` builds the image and
//! says so by VIRT_LAUNCHER_IMAGE; without it these tests pass without looking.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test ends by panicking

mod support;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use support::pod::{Pod, image, text};

/// The demo's VMI under another name.
fn vmi(name: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo/vmi.yaml");
    fs::read_to_string(path).unwrap().replace("name: demo", &format!("name: {name}"))
}

fn comm(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// `None` if it has ended.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_comm) = stat.rsplit_once(')')?;
    after_comm.split_whitespace().nth(1)?.parse().ok()
}

fn children(of: u32) -> Vec<(u32, String)> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| parent(*pid) == Some(of))
        .map(|pid| (pid, comm(pid)))
        .collect()
}

/// Who listens on the socket, as virt-handler finds it out.
fn owner(pod: &Pod) -> u32 {
    let stream = UnixStream::connect(pod.socket()).unwrap();
    let credentials = getsockopt(&stream.as_fd(), PeerCredentials).unwrap();
    u32::try_from(credentials.pid()).unwrap()
}

#[test]
fn virt_handler_finds_its_way_and_a_vm_named_like_a_hypervisor_shuts_down() {
    let Some(image) = image() else { return };
    let name = "my-qemu-kvm-and-qemu-system";
    let pod = Pod::start(&image, name, &[]);
    pod.wait_ready();
    pod.provide_disks();
    let synced = pod.sync(&vmi(name));
    assert!(synced.status.success(), "{}", text(&synced));
    pod.wait_status("Running");
    let again = pod.sync(&vmi(name));
    assert!(again.status.success(), "a repeated sync: {}", text(&again));

    let pid_1 = pod.pid_1();
    let launcher = owner(&pod);
    assert!(comm(pid_1).starts_with("virt-launcher-m"), "{}", comm(pid_1));
    assert_eq!(comm(launcher), "virt-launcher");
    assert_eq!(parent(launcher), Some(pid_1), "the socket's owner is PID 1's child");
    let own: Vec<_> = children(launcher).into_iter().map(|(_, comm)| comm).collect();
    assert!(own.iter().any(|comm| comm == "libvirtd" || comm == "virtqemud"), "{own:?}");
    assert!(own.iter().any(|comm| comm == "virtlogd"), "{own:?}");
    let adopted = children(pid_1);
    assert!(adopted.iter().any(|(_, comm)| comm.starts_with("qemu-system")), "{adopted:?}");

    let uri = "qemu+unix:///session?socket=/run/libvirt/libvirt-sock";
    let listed = pod.exec(&["virsh", "-c", uri, "list"]);
    assert!(listed.contains(&format!("default_{name}")) && listed.contains("running"), "{listed}");
    let domain = pod.ctl(&["-o", "json", "get-domain"]);
    let domain: serde_json::Value = serde_json::from_slice(&domain.stdout).unwrap();
    assert_eq!(domain.pointer("/ObjectMeta/name").unwrap(), name);
    assert_eq!(domain.pointer("/Spec/Name").unwrap(), &format!("default_{name}"));

    for (command, status) in [("pause", "Paused"), ("unpause", "Running")] {
        let done = pod.ctl(&[command]);
        assert!(done.status.success(), "{command}: {}", text(&done));
        pod.wait_status(status);
    }

    // The guest can hear the power button once it is up.
    let console = pod.volume("private").join("5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11/virt-serial0");
    let up = pod.ctl(&["--timeout", "120", "console", "--path", console.to_str().unwrap(), "--until", "heartbeat"]);
    assert!(up.status.success(), "{}", text(&up));
    let asked = pod.ctl(&["shutdown"]);
    assert!(asked.status.success(), "{}", text(&asked));
    assert_eq!(pod.wait_exit(), 0, "{}", pod.log());
}

#[test]
fn a_killed_launcher_takes_qemu_along_gracefully() {
    let Some(image) = image() else { return };
    let pod = Pod::start(&image, "demo", &["--no-adopt"]);
    pod.wait_ready();
    pod.provide_disks();
    let synced = pod.sync(&vmi("demo"));
    assert!(synced.status.success(), "{}", text(&synced));
    pod.wait_status("Running");
    let launcher = nix::unistd::Pid::from_raw(i32::try_from(owner(&pod)).unwrap());
    nix::sys::signal::kill(launcher, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(pod.wait_exit(), 255, "{}", pod.log());
}

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

    let no_memory = good.replace("memory: {guest: 256Mi}", "").replace("requests: {memory: 256Mi}", "{}");
    let too_small = good.replace("emptyDisk: {capacity: 32Mi}", "emptyDisk: {capacity: 1}");
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
