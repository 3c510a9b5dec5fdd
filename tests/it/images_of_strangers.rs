//! What a user gives the launcher as an image, on the real image with real libvirt and QEMU: images and claims that name
//! other files of the pod are refused on every road, and sizes that QEMU does not take are mended before it opens them.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::pod::{Pod, Setup, demo_vmi, image, text};
use crate::support::write_program;
use serde_json::{Value, json};

/// A claim of 7 GB whose image was made by something that counts bytes (kubevirt#6712).
const ODD: u64 = 7_000_000_001;
const ROUNDED: u64 = 7_000_002_560;

fn qemu_img(folder: &Path, words: &[&str]) {
    let output = Command::new("qemu-img").args(words).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", text(&output));
}

/// A qcow2 image of 64 KiB whose external raw data file is `/etc/passwd` of whoever opens it.
fn with_data_file(image: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let words = ["create", "-q", "-f", "qcow2", "-o", "data_file=placeholder,data_file_raw=on", "x", "64K"];
    qemu_img(folder.path(), &words);
    let mut bytes = fs::read(folder.path().join("x")).unwrap();
    let at = bytes.windows(11).position(|bytes| bytes == b"placeholder").unwrap();
    bytes[at..at + 11].copy_from_slice(b"/etc/passwd");
    fs::write(image, bytes).unwrap();
}

/// Makes an image at a path.
type Make = fn(&Path);

/// An image of each kind that is refused, and the reason in the refusal.
fn refused_images() -> Vec<(Make, &'static str)> {
    fn created(image: &Path, words: &[&str]) {
        let words = [&["create", "-q"], words, &[image.to_str().unwrap(), "64K"]].concat();
        qemu_img(image.parent().unwrap(), &words);
    }
    vec![
        (with_data_file, "unsupported: external data file /etc/passwd"),
        (
            |image| created(image, &["-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw"]),
            "expected no backing file, but found /etc/passwd",
        ),
        (
            |image| {
                let name = r#"json:{"driver":"file","filename":"/etc/passwd"}"#;
                created(image, &["-f", "qcow2", "-u", "-b", name, "-F", "raw"]);
            },
            r#"expected no backing file, but found json:{"driver":"file","filename":"/etc/passwd"}"#,
        ),
        (
            |image| {
                let secret = ["--object", "secret,id=s,data=abc"];
                let options = ["-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s"];
                created(image, &[&secret[..], &options].concat());
            },
            "unsupported: encryption (LUKS)",
        ),
        (
            |image| fs::write(image, "# Disk DescriptorFile\nversion=1\nRW 1 FLAT \"/etc/passwd\" 0\n").unwrap(),
            "unsupported image format: vmdk",
        ),
        (
            |image| {
                nix::unistd::mkfifo(image, nix::sys::stat::Mode::S_IRWXU).unwrap();
                chown(image, Some(107), Some(107)).unwrap();
            },
            "/disk_0.img is a FIFO, not a regular file",
        ),
    ]
}

/// The demo's VMI.
fn vmi() -> Value {
    serde_norway::from_str(&demo_vmi()).unwrap()
}

fn push(vmi: &mut Value, pointer: &str, value: Value) {
    vmi.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(value);
}

/// The VMI with a claim as one more volume.
fn with_claim(vmi: &mut Value, name: &str, disk: Value) {
    push(vmi, "/spec/volumes", json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    let mut disk = disk;
    disk["name"] = json!(name);
    push(vmi, "/spec/domain/devices/disks", disk);
}

/// Refused with exactly this text; there is no domain, and the launcher goes on.
fn assert_refused(pod: &Pod, vmi: &Value, wanted: &str) {
    assert_eq!(pod.sync_raw(vmi.to_string().as_bytes()), (false, wanted.to_owned()));
    assert_eq!(pod.virsh(&["list", "--all", "--name"]), "");
}

/// A claim's folder, and its image with so many bytes, the VM's user's.
fn claim(pod: &Pod, name: &str) -> PathBuf {
    let folder = pod.volume("private").join("vmi-disks").join(name);
    fs::create_dir_all(&folder).unwrap();
    folder.join("disk.img")
}

fn sized(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
    chown(path, Some(107), Some(107)).unwrap();
}

fn bytes(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn container_disk_that_names_a_file_of_the_pod_is_refused_and_a_plain_one_boots() {
    let image = image();
    let pod = Setup::new(&image, "demo").disks().start();
    pod.wait_ready();
    let (vmi, disk) = (vmi(), pod.volume("container-disks").join("disk_0.img"));
    for (make, why) in refused_images() {
        fs::remove_file(&disk).unwrap();
        make(&disk);
        let (success, message) = pod.sync_raw(vmi.to_string().as_bytes());
        assert!(!success && message.starts_with("invalid image in containerDisk containerdisk: "), "{why}: {message}");
        assert!(message.ends_with(why), "{why}: {message}");
        assert_eq!(pod.virsh(&["list", "--all", "--name"]), "");
    }
    // Everything that an image may have, and content that the guest finds.
    fs::remove_file(&disk).unwrap();
    let folder = disk.parent().unwrap();
    let raw = File::create(folder.join("raw")).unwrap();
    raw.set_len(1 << 20).unwrap();
    raw.write_all_at(b"harmless content", 0).unwrap();
    qemu_img(
        folder,
        &["convert", "-q", "-c", "-O", "qcow2", "-o", "compression_type=zstd,extended_l2=on", "raw", "disk_0.img"],
    );
    qemu_img(folder, &["snapshot", "-c", "one", "disk_0.img"]);
    qemu_img(folder, &["bitmap", "--add", "disk_0.img", "tracked"]);
    let synced = pod.sync(&vmi.to_string());
    assert!(synced.status.success(), "{}\n{}", text(&synced), pod.log());
    pod.wait_status("Running");
    let mut console = pod.console();
    let read = console.run("dd if=/dev/vda bs=16 count=1 2>/dev/null; echo");
    assert!(read.contains("harmless content"), "{read}");
}

/// In place of qemu-img, which the launcher calls once the image is inspected: another image takes its place.
const SWAP: &str = "#!/bin/sh\n\
    disk=/var/run/kubevirt/container-disks/disk_0.img\n\
    cp $disk.other $disk.new && mv -f $disk.new $disk\n\
    exec /usr/bin/qemu-img \"$@\"\n";

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn container_disk_that_changes_after_its_inspection_is_refused() {
    let image = image();
    let dir = tempfile::tempdir().unwrap();
    let tool = dir.path().join("qemu-img");
    write_program(&tool, SWAP);
    let pod = Setup::new(&image, "demo").mount(&tool, "/usr/local/bin/qemu-img").disks().start();
    pod.wait_ready();
    with_data_file(&pod.volume("container-disks").join("disk_0.img.other"));
    let why = "invalid image in containerDisk containerdisk: unsupported: external data file /etc/passwd";
    assert_refused(&pod, &vmi(), why);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn image_volumes_disk_passes_the_same_gate() {
    let image = image();
    let mounted = tempfile::tempdir().unwrap();
    fs::set_permissions(mounted.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for folder in ["volume/disk", "kernel/boot"] {
        fs::create_dir_all(mounted.path().join(folder)).unwrap();
    }
    for file in ["vmlinuz", "initrd"] {
        fs::write(mounted.path().join("kernel/boot").join(file), "never run").unwrap();
    }
    with_data_file(&mounted.path().join("volume/disk/third-party.qcow2"));
    let pod = Setup::new(&image, "demo")
        .mount(&mounted.path().join("volume"), "/var/run/kubevirt-image-volume/disk_0")
        .mount(&mounted.path().join("kernel"), "/var/run/kubevirt-kernel-boot")
        .flags(&["--image-volume"])
        .start();
    pod.wait_ready();
    let why = "invalid image in containerDisk containerdisk: unsupported: external data file /etc/passwd";
    assert_refused(&pod, &vmi(), why);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn claims_are_files_of_their_own_and_of_sizes_that_qemu_takes() {
    let image = image();
    let pod = Setup::new(&image, "demo").disks().start();
    pod.wait_ready();
    let mut vmi = vmi();
    with_claim(&mut vmi, "pvc", json!({"disk": {"bus": "virtio"}, "cache": "none"}));
    let odd = claim(&pod, "pvc");
    let path = "spec.volumes[3] (pvc): /var/run/kubevirt-private/vmi-disks/pvc/disk.img";
    symlink("/etc/passwd", &odd).unwrap();
    assert_refused(&pod, &vmi, &format!("{path} is a symbolic link that leads out of the volume: /etc/passwd"));
    fs::remove_file(&odd).unwrap();
    nix::unistd::mkfifo(&odd, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_refused(&pod, &vmi, &format!("{path} is a FIFO, neither a regular file nor a block device"));
    fs::remove_file(&odd).unwrap();

    // Odd sizes wherever the launcher picks cache and size by itself: claims that are written, read, or stood upon, and a
    // container disk that is raw.
    with_claim(&mut vmi, "unset", json!({"disk": {"bus": "virtio"}}));
    with_claim(&mut vmi, "read", json!({"disk": {"bus": "virtio", "readonly": true}}));
    // Whatever a claim's image looks like, it is raw for whoever opens it.
    with_claim(&mut vmi, "nested", json!({"disk": {"bus": "virtio"}}));
    let nested = claim(&pod, "nested");
    with_data_file(&nested);
    chown(&nested, Some(107), Some(107)).unwrap();
    push(&mut vmi, "/spec/volumes", json!({"name": "eph", "ephemeral": {"persistentVolumeClaim": {"claimName": "e"}}}));
    push(&mut vmi, "/spec/domain/devices/disks", json!({"name": "eph", "disk": {"bus": "virtio"}}));
    let (unset, read, ephemeral) = (claim(&pod, "unset"), claim(&pod, "read"), claim(&pod, "eph"));
    for image in [&odd, &unset, &read, &ephemeral] {
        sized(image, ODD);
    }
    sized(&pod.volume("container-disks").join("disk_0.img"), (1 << 20) + 1);
    let synced = pod.sync(&vmi.to_string());
    assert!(synced.status.success(), "{}\n{}", text(&synced), pod.log());
    pod.wait_status("Running");
    assert_eq!([&odd, &unset, &read, &ephemeral].map(|image| bytes(image)), [ROUNDED, ROUNDED, ODD, ODD]);
    let xml = pod.virsh(&["dumpxml", "default_demo"]);
    assert_eq!(xml.matches("cache='none'").count(), 8, "{xml}");
    let nested_path = "/var/run/kubevirt-private/vmi-disks/nested/disk.img";
    let info = pod.virsh(&["domblkinfo", "default_demo", nested_path]);
    let capacity = info.lines().find_map(|line| line.strip_prefix("Capacity:")).unwrap().trim().to_owned();
    assert_eq!(capacity, bytes(&nested).to_string(), "{info}");

    // One more, while it runs.
    let hot = pod.volume("public").join("hotplug-disks/hot.img");
    fs::create_dir_all(hot.parent().unwrap()).unwrap();
    sized(&hot, ODD);
    push(&mut vmi, "/spec/domain/devices/disks", json!({"name": "hot", "disk": {"bus": "scsi"}}));
    push(
        &mut vmi,
        "/spec/volumes",
        json!({"name": "hot", "persistentVolumeClaim": {"claimName": "hot", "hotpluggable": true}}),
    );
    vmi["status"]["phase"] = json!("Running");
    vmi["status"]["volumeStatus"] =
        json!([{"name": "hot", "target": "", "phase": "Ready", "hotplugVolume": {"attachPodName": "hp-volume"}}]);
    let synced = pod.sync(&vmi.to_string());
    assert!(synced.status.success(), "{}\n{}", text(&synced), pod.log());
    assert!(pod.virsh(&["domblklist", "default_demo"]).contains("hotplug-disks/hot.img"));
    assert_eq!(bytes(&hot), ROUNDED);

    // A link in the place of the next one is refused, and the VM goes on.
    let secret = pod.volume("public").join("hotplug-disks/link.img");
    symlink("/etc/passwd", &secret).unwrap();
    push(&mut vmi, "/spec/domain/devices/disks", json!({"name": "link", "disk": {"bus": "scsi"}}));
    push(
        &mut vmi,
        "/spec/volumes",
        json!({"name": "link", "persistentVolumeClaim": {"claimName": "link", "hotpluggable": true}}),
    );
    push(
        &mut vmi,
        "/status/volumeStatus",
        json!({"name": "link", "target": "", "phase": "Ready", "hotplugVolume": {"attachPodName": "hp"}}),
    );
    let (success, message) = pod.sync_raw(vmi.to_string().as_bytes());
    let link = "spec.volumes[9] (link): /var/run/kubevirt/hotplug-disks/link.img is a symbolic link that leads out of the volume";
    assert_eq!((success, message), (false, format!("{link}: /etc/passwd")));
    assert_eq!(pod.status(), "Running");
}

/// The same gate without a pod.
#[test]
fn domain_xml_refuses_a_container_disk_that_names_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk_0.img");
    fs::write(folder.path().join("vmi.yaml"), demo_vmi()).unwrap();
    for (make, why) in refused_images() {
        let _ = fs::remove_file(&disk);
        make(&disk);
        let output = Command::new(env!("CARGO_BIN_EXE_virt-launcher"))
            .arg("domain-xml")
            .arg(folder.path().join("vmi.yaml"))
            .args(["--", "--allow-emulation", "--container-disk-dir"])
            .arg(folder.path())
            .output()
            .unwrap();
        let said = text(&output);
        assert!(!output.status.success() && said.contains("spec.volumes[0]") && said.contains(why), "{why}: {said}");
    }
}
