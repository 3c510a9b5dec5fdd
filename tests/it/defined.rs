//! What SyncVirtualMachine defines in the real image is what `virt-launcher domain-xml` prints for the same facts, byte for
//! byte, and the VM runs: for the demo's VMI and for three of KubeVirt's examples, which are cases of the wide suite.
//!
//! At verbosity 5 the launcher logs the facts, each define and libvirt's read-back; that is what is compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::pod::{Pod, Setup, image, text};
use crate::support::wide_suite;
use serde_json::Value;
use virt_launcher::domain::DomainSpec;
use virt_launcher::vmi;

/// Gives the pod the interfaces that virt-handler would: the pod's own and the VM's tap.
fn provide_interfaces(pod: &Pod) {
    let pid = pod.pid_1().to_string();
    let within = |namespace: &str, words: &[&str]| {
        let output = Command::new("nsenter").args(["-t", &pid, namespace]).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", text(&output));
    };
    let ip = |words: &[&str]| within("-n", &[&["ip"], words].concat());
    // The device plugin's permissions; the node is the container's own.
    within("-m", &["chmod", "0666", "/dev/net/tun"]);
    ip(&["tuntap", "add", "mode", "tap", "name", "eth0"]);
    ip(&["link", "set", "eth0", "address", "02:00:00:00:00:01", "mtu", "1450"]);
    ip(&["tuntap", "add", "mode", "tap", "user", "107", "group", "107", "name", "tap0"]);
    ip(&["link", "set", "tap0", "up"]);
}

/// `virt-launcher domain-xml` here, or with other words.
fn domain_xml(words: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_virt-launcher")).arg("domain-xml").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    output
}

/// The texts that the launcher logged under this message.
fn logged(records: &[Value], message: &str, field: &str) -> Vec<String> {
    let told = records.iter().filter(|record| record["msg"] == message);
    told.map(|record| record[field].as_str().expect(field).to_owned()).collect()
}

/// What virt-handler adds to a VMI of one pod network.
const OPTIONS: &str = r#"{
  "VirtualMachineSMBios": {"manufacturer": "KubeVirt", "product": "None", "family": "KubeVirt"},
  "MemBalloonStatsPeriod": 10,
  "interfaceDomainAttachment": {"default": "tap"}
}"#;

/// Boots the VMI of the file; `extra` are further files of the container disks' folder.
fn boots_as_printed(image: &str, file: &Path, extra: &[(&str, &str)]) {
    let document = fs::read_to_string(file).unwrap();
    let vmi = vmi::parse_document(&document).unwrap();
    let uid = vmi.metadata.uid.as_str();
    let flags = ["--uid", uid];
    let pod = Setup::new(image, &vmi.metadata.name)
        .flags(&flags)
        .podman(&["--device", "/dev/net/tun", "-e", "VIRT_LAUNCHER_LOG_VERBOSITY=5"])
        .start();
    pod.wait_ready();
    pod.provide_disks();
    for (from, to) in extra {
        let folder = pod.volume("container-disks");
        fs::copy(folder.join(from), folder.join(to)).unwrap();
    }
    provide_interfaces(&pod);
    let (vmi_file, options) = (pod.volume("public").join("vmi.yaml"), pod.volume("public").join("options.json"));
    fs::write(&vmi_file, &document).unwrap();
    fs::write(&options, OPTIONS).unwrap();
    let synced = pod.ctl(&["sync", vmi_file.to_str().unwrap(), "--options", options.to_str().unwrap()]);
    assert!(synced.status.success(), "{}\n{}", text(&synced), pod.log());
    pod.wait_status("Running");

    // What the launcher did.
    let records = pod.records("info");
    let facts = logged(&records, "converting the VMI", "facts");
    let defines = logged(&records, "defining the domain", "xml");
    let readback = logged(&records, "read the domain back", "readback");
    assert!(facts.len() == 1 && readback.len() == 1 && (2..=3).contains(&defines.len()), "{records:?}");

    // What is printed for it.
    let here = tempfile::tempdir().unwrap();
    let keep = |name: &str, text: &str| -> String {
        fs::write(here.path().join(name), text).unwrap();
        here.path().join(name).display().to_string()
    };
    let (context, read) = (keep("ctx.json", &facts[0]), keep("readback.xml", &readback[0]));
    let folder = here.path().join("defines");
    let words =
        [file.to_str().unwrap(), "--context", &context, "--readback", &read, "--defines-dir", folder.to_str().unwrap()];
    let printed = domain_xml(&words);
    for (index, define) in defines.iter().enumerate() {
        let printed = fs::read_to_string(folder.join(format!("{}.xml", index + 1))).unwrap();
        assert_eq!(&printed, define, "define {}", index + 1);
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), defines.len());
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), *defines.last().unwrap());

    // What libvirt holds: nothing of the define is lost or added among the devices that the VMI names.
    let held = DomainSpec::from_xml(&pod.virsh(&["dumpxml", "--inactive", &vmi.domain_name()])).unwrap();
    let defined = DomainSpec::from_xml(defines.last().unwrap()).unwrap();
    assert_eq!(held.name, defined.name);
    assert_eq!(held.devices.disks.len(), vmi.spec.domain.devices.disks.len());
    let disks = |spec: &DomainSpec| -> Vec<String> {
        let disks = spec.devices.disks.iter();
        disks.map(|disk| format!("{:?} {:?} {:?} {:?}", disk.alias, disk.target, disk.source, disk.address)).collect()
    };
    assert_eq!(disks(&held), disks(&defined));
    let interfaces = |spec: &DomainSpec| -> Vec<String> {
        let interfaces = spec.devices.interfaces.iter();
        interfaces
            .map(|interface| format!("{:?} {:?} {:?}", interface.alias, interface.mac, interface.target))
            .collect()
    };
    assert_eq!(interfaces(&held), interfaces(&defined));

    // The same subcommand without a context, on the machine itself, finds the same facts but for the sync's options.
    let options =
        ["--", "--hypervisor", "kvm", "--allow-emulation", "--run-as-nonroot", "--ovmf-path", "/usr/share/OVMF"];
    let inside =
        pod.exec(&[&["virt-launcher", "domain-xml", "/var/run/kubevirt/vmi.yaml", "--facts"], &options[..]].concat());
    let (inside, outside): (Value, Value) =
        (serde_json::from_str(&inside).unwrap(), serde_json::from_str(&facts[0]).unwrap());
    for key in ["hostArch", "hypervisor", "allowEmulation", "cpuSet", "ovmf", "containerDisks", "directIO", "links"] {
        assert_eq!(inside[key], outside[key], "{key}");
    }
}

/// The VMI of a case of the wide suite.
fn example(name: &str) -> PathBuf {
    wide_suite("domain-xml").join(format!("example-{name}.vmi.json"))
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn demo_is_defined_as_printed() {
    let image = image();
    boots_as_printed(&image, &Path::new(env!("CARGO_MANIFEST_DIR")).join("images/demo/vmi.yaml"), &[]);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE and the wide suite, ../shared/conformance; make test"]
fn wide_suite_example_with_cloud_init_and_a_bridge_is_defined_as_printed() {
    let (image, file) = (image(), example("vmi-nocloud"));
    boots_as_printed(&image, &file, &[]);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE and the wide suite, ../shared/conformance; make test"]
fn wide_suite_example_with_efi_is_defined_as_printed() {
    let (image, file) = (image(), example("vmi-alpine-efi"));
    boots_as_printed(&image, &file, &[]);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE and the wide suite, ../shared/conformance; make test"]
fn wide_suite_example_with_a_kernel_is_defined_as_printed() {
    let (image, file) = (image(), example("vmi-kernel-boot"));
    let kernel =
        [("kernel-boot/vmlinuz", "kernel-boot/vmlinuz-virt"), ("kernel-boot/initrd", "kernel-boot/initramfs-virt")];
    boots_as_printed(&image, &file, &kernel);
}
