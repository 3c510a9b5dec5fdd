//! Who else runs what of this image, as whom (docs/image-users.md): each container as KubeVirt's controllers render it at
//! commit d923fdb815, with the same command, user, capabilities, limits and mounts, and in the image it is rendered in.

mod node_labeller;
mod rendered;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tempfile::TempDir;

use crate::support::pod::{Pod, image, text};
use crate::support::{expect, wait_for};
use rendered::{Rendered, Running};

/// For a container to come up, on a busy machine.
const UP: Duration = Duration::from_secs(60);
/// For a container to end after SIGTERM; the kubelet gives at least two.
const SECOND: Duration = Duration::from_secs(1);

/// An image that holds a disk, a kernel and an initramfs, and no program, library or shell.
fn disk_image() -> String {
    std::env::var("VIRT_LAUNCHER_GUEST_IMAGE").unwrap_or("localhost/virt-launcher-guest".to_owned())
}

/// A folder that any user of a pod may write to, as an emptyDir is.
fn empty_dir() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

/// Waits until `socket` takes connections, and returns the pid of who listens.
fn listener(socket: &Path, container: &Running) -> i32 {
    let connection = wait_for("a connection", UP, || {
        UnixStream::connect(socket).map_err(|error| format!("{error}: {}", container.log()))
    });
    getsockopt(&connection, PeerCredentials).unwrap().pid()
}

// --- Image volumes on (the default) ---

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn container_disk_runs_out_of_a_mount_in_an_image_that_holds_nothing_else() {
    let image = image();
    // The init containers `volume<name>` and `volumekernel-boot-volume`; the rest are mounts of others' choice.
    for at in ["/container-disk-binary", "/mnt", "/var/lib/some/where/else"] {
        let program = format!("{at}/usr/bin/container-disk");
        let init = Rendered::new(&disk_image(), &[&program], &["--no-op"]).image_volume(&image, at);
        let (code, log) = init.user(107).confined().limits(0.01, 40).read_only_root().run();
        assert_eq!(code, 0, "{at}: {log}");
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn every_helper_runs_out_of_a_mount_in_an_image_that_holds_nothing_else() {
    let image = image();
    assert!(is_static(&image), "the launcher in {image} is a debug build; make images puts the released one there");
    for (program, arguments) in [
        ("usr/bin/virt-launcher", ["--help"].as_slice()),
        ("usr/bin/virt-probe", &["--help"]),
        ("usr/bin/virt-freezer", &["--help"]),
        ("usr/bin/virt-tail", &["--help"]),
        ("etc/libvirt/hooks/qemu", &["default_vm", "started", "begin", "-"]),
    ] {
        let program = format!("/some/where/{program}");
        let helper = Rendered::new(&disk_image(), &[&program], arguments).image_volume(&image, "/some/where");
        let (code, log) = helper.user(107).confined().run();
        assert_eq!(code, 0, "{program}: {log}");
    }
}

/// Whether the launcher in the image needs no library; `make images` makes it so.
fn is_static(image: &str) -> bool {
    let (_, said) = Rendered::new(image, &["/usr/bin/ldd"], &["/usr/bin/virt-launcher"]).run();
    said.contains("statically linked") || said.contains("not a dynamic executable")
}

/// In a mount at another path an absolute link leads to whatever the other image has there.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn links_to_our_files_are_relative() {
    let image = image();
    let links = "for link in /usr/bin/* /etc/libvirt/hooks/*; do
        target=$(readlink $link) || continue
        case $target in *virt-launcher*) echo $link $target ;; esac
    done";
    let (code, found) = Rendered::new(&image, &["/bin/bash"], &["-c", links]).run();
    assert_eq!(code, 0, "{found}");
    assert!(found.contains("/usr/bin/virt-probe"), "{found}");
    for link in found.lines() {
        let (_, target) = link.split_once(' ').unwrap();
        assert!(!target.starts_with('/'), "{link}");
    }
}

// --- Image volumes off: the binary is copied, and run in the disks' images ---

/// What the container `container-disk-binary` leaves in the volume `virt-bin-share-dir`, copied as the user of the VM.
fn copied_binary(image: &str, root: bool) -> TempDir {
    let share = empty_dir();
    let arguments = ["--preserve=all", "/usr/bin/container-disk", "/init/usr/bin/container-disk"];
    let copy = Rendered::new(image, &["/usr/bin/cp"], &arguments).volume(share.path(), "/init/usr/bin").limits(0.1, 40);
    let copy = if root { copy.user(0).without_capabilities() } else { copy.user_and_group(107).confined() };
    let (code, log) = copy.run();
    assert_eq!((code, log.as_str()), (0, ""), "root: {root}");
    share
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn container_disk_binary_is_small_and_executable_for_all() {
    let image = image();
    for root in [false, true] {
        let share = copied_binary(&image, root);
        let copied = fs::symlink_metadata(share.path().join("container-disk")).unwrap();
        assert!(copied.is_file(), "not a link");
        assert_eq!(copied.mode() & 0o777, 0o755);
        // The original's, a C program linked with glibc's archives, has 827 KiB.
        assert!(copied.len() <= 827 * 1024, "{} bytes", copied.len());
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn container_disk_serves_a_disk_until_its_socket_goes() {
    let image = image();
    let share = copied_binary(&image, false);
    let pod = empty_dir();
    let at = "/var/run/kubevirt-ephemeral-disks/container-disk-data/5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11";
    let container = |arguments: &[&str]| {
        Rendered::new(&disk_image(), &["/usr/bin/container-disk"], arguments)
            .volume(share.path(), "/usr/bin")
            .volume(pod.path(), at)
            .user(107)
            .confined()
            .limits(0.01, 40)
    };
    let (code, log) = container(&["--no-op"]).run();
    assert_eq!(code, 0, "{log}");

    for name in ["disk_0", "kernel-boot"] {
        let serving = container(&["--copy-path", &format!("{at}/{name}")]).start();
        let socket = pod.path().join(format!("{name}.sock"));
        let pid = listener(&socket, &serving);
        assert_eq!(pid, serving.pid(), "virt-handler finds the container by who listens");
        let files = format!("/proc/{pid}/root");
        assert!(Path::new(&files).join("disk/disk.img").exists() && Path::new(&files).join("boot/vmlinuz").exists());
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().to_owned();
        let kib: u32 = resident.trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 1000, "the controller requests one megabyte: {resident}");
        // How the monitor ends it.
        fs::remove_file(&socket).unwrap();
        assert_eq!(serving.exit_code(), 0, "{}", serving.log());
    }

    let serving = container(&["--copy-path", &format!("{at}/disk_1")]).start();
    listener(&pod.path().join("disk_1.sock"), &serving);
    let (_, code) = serving.terminate(SECOND);
    assert_eq!(code, 0);
}

// --- Hot-plug ---

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn hot_plug_container_ends_within_a_second_of_sigterm() {
    let image = image();
    let volume = empty_dir();
    let command = ["/bin/sh", "-c", "/usr/bin/container-disk --copy-path /path/hp"];
    let pod = Rendered::new(&image, &command, &[])
        .volume(volume.path(), "/path")
        .user(107)
        .confined()
        .limits(0.1, 80)
        .start();
    let socket = volume.path().join("hp.sock");
    assert_eq!(listener(&socket, &pod), pod.pid(), "the shell's place is taken");
    let (_, code) = pod.terminate(SECOND);
    assert_eq!(code, 0, "{}", pod.log());
    assert!(!socket.exists());
}

/// Pods whose only purpose is that the scheduler binds their claims.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn pods_that_bind_claims_succeed() {
    let image = image();
    let hot_plug = Rendered::new(&image, &["/bin/bash", "-c", "exit", "0"], &[]).user(107).confined().limits(0.1, 80);
    let (code, log) = hot_plug.run();
    assert_eq!(code, 0, "{log}");
    let launch = Rendered::new(&image, &["/bin/bash"], &["-c", "echo", "bound PVCs", "--allow-emulation"]);
    let (code, log) = launch.user_and_group(107).confined().run();
    assert_eq!(code, 0, "{log}");
}

// --- Jobs and pods beside the VM's ---

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn job_that_recovers_a_backend_claim_runs_as_the_images_user() {
    let image = image();
    let claim = empty_dir();
    // As the hook of a finished migration leaves it, on a claim whose files are the VM's user's alone.
    std::os::unix::fs::chown(claim.path(), Some(107), Some(107)).unwrap();
    fs::set_permissions(claim.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let job = || {
        let job = Rendered::new(&image, &["bash"], &["-c", "ls /meta/migrated || exit 42"]);
        job.volume(claim.path(), "/meta").some_user_but_root().confined().run()
    };
    let (code, log) = job();
    assert_eq!(code, 42, "the migration did not finish: {log}");
    fs::write(claim.path().join("migrated"), "").unwrap();
    let (code, log) = job();
    assert_eq!(code, 0, "{log}");
}

/// In virt-handler's pod, which shares the node's process table, where images are pulled with a secret.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn image_holder_waits_and_ends_when_it_is_asked_to() {
    let image = image();
    let holder = Rendered::new(&image, &["/bin/sh", "-c"], &["sleep infinity"]).host_pids().limits(0.1, 20).start();
    let comm = || fs::read_to_string(format!("/proc/{}/comm", holder.pid())).unwrap_or_default();
    wait_for("the shell's last command", UP, || expect(comm() == "sleep\n", comm()));
    holder.terminate(SECOND);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn console_log_container_prints_lines_and_ends_when_it_is_asked_to() {
    let image = image();
    let private = empty_dir();
    let logs = private.path().join("5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11");
    let at = "/var/run/kubevirt-private";
    let logfile = format!("{at}/{}/virt-serial0-log", logs.file_name().unwrap().to_str().unwrap());
    let tail = Rendered::new(&image, &["/usr/bin/virt-tail"], &["--logfile", &logfile])
        .read_only(private.path(), at)
        .env("VIRT_LAUNCHER_LOG_VERBOSITY", "2")
        .user(107)
        .confined()
        .limits(0.015, 60)
        .start();
    fs::create_dir(&logs).unwrap();
    fs::write(logs.join("virt-serial0-log"), "the guest's line\n").unwrap();
    wait_for("the line", UP, || expect(tail.log() == "the guest's line\n", tail.log()));
    // At 1.5 % of a processor a second is little.
    let (_, code) = tail.terminate(UP);
    assert_eq!(code, 0, "{}", tail.log());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn virtiofsd_serves_a_volume() {
    let image = image();
    let (sockets, shared) = (empty_dir(), empty_dir());
    // The second is a service account's, whose token is the pod's user's.
    for (name, more) in [("plain", None), ("account", Some("--translate-uid=host:107:0:1"))] {
        let socket = format!("--socket-path=/var/run/kubevirt/virtiofs-containers/{name}.sock");
        let mut arguments = vec![socket.as_str(), "--shared-dir=/shared", "--sandbox=none", "--cache=auto"];
        arguments.extend(["--migration-on-error=guest-error", "--migration-mode=find-paths"].into_iter().chain(more));
        let virtiofsd = Rendered::new(&image, &["/usr/libexec/virtiofsd"], &arguments)
            .volume(sockets.path(), "/var/run/kubevirt/virtiofs-containers")
            .volume(shared.path(), "/shared")
            .user_and_group(107)
            .confined()
            .limits(0.1, 80)
            .start();
        let socket = sockets.path().join(format!("{name}.sock"));
        wait_for("virtiofsd's socket", UP, || expect(socket.exists(), virtiofsd.log()));
    }
}

// --- In the compute container itself ---

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn probes_and_backup_hooks_run_in_the_compute_container() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    pod.wait_ready();
    let run = |words: &[&str]| {
        let output = pod.try_exec(words);
        (output.status.code(), text(&output))
    };
    // There is no VM: a ping is answered all the same, a command is not.
    let ping = run(&["virt-probe", "--domainName", "default_demo", "--timeoutSeconds", "1", "--guestAgentPing"]);
    assert_eq!(ping.0, Some(0), "{}", ping.1);
    let words = ["virt-probe", "--domainName", "default_demo", "--timeoutSeconds", "1", "--command", "cat", "--", "/x"];
    let exec = run(&words);
    assert_eq!(exec.0, Some(2), "{}", exec.1);
    for way in ["--freeze", "--unfreeze"] {
        let (code, said) = run(&["/usr/bin/virt-freezer", way, "--name", "demo", "--namespace", "default"]);
        assert_eq!(code, Some(0), "nothing to freeze: {said}");
    }
    let libvirt_hook = run(&["/etc/libvirt/hooks/qemu", "default_demo", "started", "begin", "-"]);
    assert_eq!(libvirt_hook.0, Some(0), "{}", libvirt_hook.1);
}

/// Which image a node runs is seen by its `/.version`, as with every image of KubeVirt's.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn image_says_what_it_was_made_of() {
    let image = image();
    let (code, version) = Rendered::new(&image, &["/bin/sh", "-c", "cat /.version"], &[]).run();
    assert!(code == 0 && version.trim().len() >= 7, "{version:?}");
}
