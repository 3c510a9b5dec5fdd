//! Cloud Hypervisor as the second hypervisor: its documents.

mod under_virtchd;

use crate::support::pod::text;
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
        disk_driver: "raw".into(),
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
fn document_has_only_what_the_driver_takes() {
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
fn kernel_of_its_own_boots_without_firmware_and_nothing_else_does() {
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
fn field_that_the_driver_cannot_express_is_an_error_with_its_path() {
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
        (VMI, &no_tap, "spec.domain.devices.interfaces[0]"),
    ] {
        let error = Defines::new(&document(vmi), facts).unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn images_build_says_which_vmm_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    // Both end before they change anything.
    for (how, version, said) in [
        (
            "release",
            "v99.0",
            ["CLOUD_HYPERVISOR_SHA256 is missing", "v99.0", "CLOUD_HYPERVISOR=/path/to/cloud-hypervisor"],
        ),
        ("given", "v53.0", ["CLOUD_HYPERVISOR=given", "target/ch/cloud-hypervisor", "is missing"]),
    ] {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/images/ch/vmm.sh");
        let built =
            std::process::Command::new("sh").args([script, how, version, ""]).arg(folder.path()).output().unwrap();
        let told = text(&built);
        assert!(!built.status.success() && said.iter().all(|part| told.contains(part)), "{told}");
    }
}
