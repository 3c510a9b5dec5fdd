//! The init container of virt-handler that runs `node-labeller.sh`. Real libvirt and QEMU say what this machine can do; for
//! other architectures `uname`, `libvirtd` and `virsh` are doubles, and so what is seen there is how they are asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::rendered::Rendered;
use super::{empty_dir, image};

const AT: &str = "/var/lib/kubevirt-node-labeller";

fn labeller(image: &str, files: &Path) -> Rendered {
    Rendered::new(image, &["/bin/sh", "-c"], &["node-labeller.sh"]).user(0).volume(files, AT)
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn node_labeller_writes_what_virt_handler_reads() {
    let image = image();
    let files = empty_dir();
    // Left by an image that could emulate the other architecture.
    fs::write(files.path().join("virsh_domcapabilities_aarch64.xml"), "<domainCapabilities/>").unwrap();
    let (code, log) = labeller(&image, files.path())
        .privileged()
        .env("PREFERRED_VIRTTYPE", "kvm")
        .env("HYPERVISOR_DEVICE", "kvm")
        .run();
    assert_eq!(code, 0, "{log}");
    let read = |name: &str| fs::read_to_string(files.path().join(name)).unwrap();
    let capabilities = read("virsh_domcapabilities.xml");
    let domain = if Path::new("/dev/kvm").exists() { "kvm" } else { "qemu" };
    assert!(capabilities.contains(&format!("<domain>{domain}</domain>")), "{capabilities}");
    assert!(capabilities.contains("<model usable="), "{capabilities}");
    assert!(read("supported_features.xml").contains("<feature policy='require'"));
    assert!(read("capabilities.xml").starts_with("<capabilities>"));
    assert!(files.path().join("cpu_map/index.xml").exists());
    let left: Vec<_> = fs::read_dir(files.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".new")), "{left:?}");
    // A file would make virt-handler offer the node for VMs of that architecture.
    let cross = left.iter().any(|name| name == "virsh_domcapabilities_aarch64.xml");
    let (emulator, _) = Rendered::new(&image, &["/usr/bin/test"], &["-x", "/usr/bin/qemu-system-aarch64"]).run();
    assert_eq!(cross, emulator == 0, "{left:?}");
}

/// How the doubles were asked, with this environment on this architecture; `fails` is a word at which virsh fails.
fn asked(image: &str, architecture: &str, environment: &[(&str, &str)], fails: &str) -> (Vec<String>, TempDir) {
    let (doubles, files) = (empty_dir(), empty_dir());
    let program = |name: &str, script: &str| {
        let path = doubles.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    program("uname", &format!("echo {architecture}"));
    program("libvirtd", "exit 0");
    program("virtqemud", "exit 0");
    let virsh = format!(
        "case \"$*\" in *--help*) echo --expand-cpu-features --supported-cpu-features; exit 0;; esac
         echo \"$*\" >>/doubles/asked
         case \"$*\" in *{fails}*) exit 1;; esac
         echo '<made/>'"
    );
    program("virsh", &virsh);
    let path = "/doubles:/usr/sbin:/usr/bin";
    let mut container = labeller(image, files.path()).volume(doubles.path(), "/doubles").env("PATH", path);
    for (name, value) in environment {
        container = container.env(name, value);
    }
    let (code, log) = container.run();
    assert_eq!(code, 0, "{log}");
    let asked = fs::read_to_string(doubles.path().join("asked")).unwrap_or_default();
    (asked.lines().map(|line| line.replace("--quiet --connect qemu:///system ", "")).collect(), files)
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn hypervisors_device_and_domain_type_come_from_the_environment() {
    let image = image();
    // /dev/zero is there and stands for the device; nothing else is asked of it.
    let mshv = [("HYPERVISOR_DEVICE", "zero"), ("PREFERRED_VIRTTYPE", "hyperv")];
    let (words, _) = asked(&image, "x86_64", &mshv, "aarch64");
    let guest = "--machine q35 --arch x86_64 --virttype hyperv";
    assert_eq!(
        words,
        [
            format!("domcapabilities {guest} --expand-cpu-features"),
            format!("domcapabilities {guest} --expand-cpu-features --supported-cpu-features"),
            format!("hypervisor-cpu-baseline --features {guest} {AT}/all_features.new"),
            "capabilities".into(),
            "domcapabilities --machine virt --arch aarch64 --virttype qemu".into(),
        ]
    );
    let none = [("HYPERVISOR_DEVICE", "no-such-device"), ("PREFERRED_VIRTTYPE", "hyperv")];
    let (words, _) = asked(&image, "x86_64", &none, "aarch64");
    assert!(words[0].contains("--virttype qemu"), "without its device it is emulation: {words:?}");
    let half = [("HYPERVISOR_DEVICE", "zero")];
    let (words, _) = asked(&image, "x86_64", &half, "aarch64");
    assert!(words[0].contains("--virttype qemu") || words[0].contains("--virttype kvm"), "both or none: {words:?}");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn each_architecture_gets_its_files() {
    let image = image();
    let names = |files: &TempDir| {
        let names = fs::read_dir(files.path()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".xml")).collect();
        names.sort();
        names
    };
    let all = ["capabilities.xml", "supported_features.xml", "virsh_domcapabilities.xml"];

    let (words, files) = asked(&image, "aarch64", &[], "no-word");
    assert_eq!(names(&files), ["capabilities.xml", "virsh_domcapabilities.xml", "virsh_domcapabilities_x86_64.xml"]);
    assert!(words[0].contains("--machine virt --arch aarch64"), "{words:?}");
    assert!(words.iter().any(|words| words.contains("--machine q35 --arch x86_64 --virttype qemu")), "{words:?}");

    let (_, files) = asked(&image, "x86_64", &[], "no-word");
    assert_eq!(names(&files), [&all[..], &["virsh_domcapabilities_aarch64.xml"]].concat());
    // An empty file would be as bad as a wrong one.
    let (_, files) = asked(&image, "x86_64", &[], "aarch64");
    assert_eq!(names(&files), all);

    let (words, files) = asked(&image, "s390x", &[], "no-word");
    assert_eq!(names(&files), all);
    assert!(words[0].contains("--machine s390-ccw-virtio --arch s390x"), "{words:?}");

    let (words, files) = asked(&image, "ppc64le", &[], "no-word");
    assert!(words.is_empty() && names(&files).is_empty(), "{words:?}");
}
