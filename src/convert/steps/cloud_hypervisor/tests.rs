//! Each step for Cloud Hypervisor by itself.

use serde_json::{Value, json};

use super::super::testing::{self, Run, vmi};

/// Runs the step as for a pod with Cloud Hypervisor, KVM and a firmware image; `facts` overrides that.
fn run(step: Run, vmi: Value, facts: Value) -> Result<String, String> {
    let mut all = json!({"hypervisor": {
        "name": "cloud-hypervisor", "profile": "cloud-hypervisor", "devicePresent": true, "firmwareImage": "/fw",
        "diskDriver": "ch",
    }});
    for (key, value) in facts.as_object().unwrap() {
        match value {
            Value::Object(fields) if key == "hypervisor" => {
                for (field, value) in fields {
                    all[key][field] = value.clone();
                }
            }
            _ => all[key] = value.clone(),
        }
    }
    testing::run(step, vmi, all)
}

fn written(step: Run, domain: Value) -> String {
    run(step, vmi(domain), json!({})).unwrap()
}

#[test]
fn name_is_the_one_that_fits_into_socket_paths() {
    let name = |facts| run(super::name, vmi(json!({"firmware": {"uuid": "u"}})), facts).unwrap();
    assert_eq!(name(json!({})), "<name>ns_vm</name><uuid>u</uuid>");
    assert_eq!(name(json!({"hypervisor": {"domainName": "short"}})), "<name>short</name><uuid>u</uuid>");
}

#[test]
fn interfaces_are_taps_without_what_the_driver_drops() {
    let interface = |attachment: &str| {
        let fields = json!({"name": "n", "bootOrder": 1, "state": "down", "acpiIndex": 7});
        let mut vmi = vmi(json!({"devices": {"interfaces": [fields]}}));
        vmi["spec"]["networks"] = json!([{"name": "n", "pod": {}}]);
        let facts = json!({"optionsPresent": true, "interfaceDomainAttachment": {"n": attachment}});
        run(super::interfaces_on_taps, vmi, facts)
    };
    assert_eq!(
        interface("tap").unwrap(),
        r#"<interface type="ethernet"><source/><model type="virtio-non-transitional"/><alias name="ua-n"/></interface>"#
    );
    assert_eq!(
        interface("").unwrap_err(),
        "spec.domain.devices.interfaces[0]: Cloud Hypervisor needs a tap, and this interface's binding gives none"
    );
}

#[test]
fn host_devices_are_pci_devices() {
    let device = |variable: &str, value: &str| {
        let vmi = vmi(json!({"devices": {"hostDevices": [{"name": "d", "deviceName": "r"}]}}));
        run(super::host_devices, vmi, json!({"env": {variable: value}}))
    };
    let pci = device("PCI_RESOURCE_R", "0000:01:00.0").unwrap();
    assert!(pci.starts_with(r#"<hostdev type="pci""#), "{pci}");
    assert_eq!(
        device("USB_RESOURCE_R", "1:2").unwrap_err(),
        "spec.domain.devices: Cloud Hypervisor gets whole PCI devices of the host, not usb devices"
    );
}

#[test]
fn serial_port_is_the_vmms_own_socket() {
    let folder = "/var/run/kubevirt-private/1-2";
    assert_eq!(
        written(super::serial, json!({})),
        [
            r#"<serial type="unix"><target port="0"/>"#,
            &format!(r#"<source mode="bind" path="{folder}/vmm-serial0"/>"#),
            &format!(r#"<log file="{folder}/virt-serial0-log" append="on"/></serial>"#),
        ]
        .concat()
    );
    assert_eq!(written(super::serial, json!({"devices": {"autoattachSerialConsole": false}})), "");
}

#[test]
fn os_boots_a_kernel_or_the_firmware_image() {
    let kernel = json!({"kernelArgs": "a=b", "container": {"kernelPath": "/boot/vmlinuz"}});
    let firmware = json!({"firmware": {"kernelBoot": kernel}});
    assert_eq!(
        written(super::os, firmware),
        r#"<type arch="x86_64">hvm</type><kernel>/var/run/kubevirt/container-disks/kernel-boot/vmlinuz</kernel><cmdline>a=b</cmdline>"#
    );
    let image = r#"<type arch="x86_64">hvm</type><kernel>/fw</kernel>"#;
    assert_eq!(written(super::os, json!({"firmware": {"kernelBoot": {"kernelArgs": "a=b"}}})), image);
    let refused = |facts| run(super::os, vmi(json!({})), facts).unwrap_err();
    assert_eq!(
        refused(json!({"hypervisor": {"firmwareImage": ""}})),
        "spec.domain.firmware: the image has no firmware for Cloud Hypervisor, so only firmware.kernelBoot.container can boot"
    );
    assert_eq!(refused(json!({"hostArch": "s390x"})), "spec.architecture: Cloud Hypervisor exists for amd64 and arm64");
}

fn disks(disks: Value, volumes: Value) -> Result<String, String> {
    let mut vmi = vmi(json!({"devices": {"disks": disks}}));
    vmi["spec"]["volumes"] = volumes;
    run(super::virtio_disks, vmi, json!({}))
}

#[test]
fn disks_stand_in_boot_order_and_seeds_are_read_only_images() {
    let volumes = json!([
        {"name": "seed", "cloudInitNoCloud": {"userData": "x"}},
        {"name": "root", "persistentVolumeClaim": {"claimName": "c"}},
    ]);
    let list = json!([{"name": "seed", "disk": {"bus": "virtio"}}, {"name": "root", "disk": {}, "bootOrder": 1}]);
    let written = disks(list, volumes).unwrap();
    let (root, seed) = written.split_once("</disk>").unwrap();
    assert!(root.contains(r#"dev="vda""#) && root.contains("vmi-disks/root/disk.img"), "{root}");
    assert!(!root.contains("<readonly/>") && !root.contains("<boot "), "{root}");
    assert!(seed.contains(r#"dev="vdb""#) && seed.contains("noCloud.img") && seed.contains("<readonly/>"), "{seed}");
    assert!(root.contains(r#"<driver name="ch" type="raw"/>"#), "{root}");
}

#[test]
fn disks_that_are_not_virtio_or_have_no_volume_are_refused_at_their_place() {
    let volume = json!([{"name": "a", "persistentVolumeClaim": {"claimName": "c"}}]);
    let sata = disks(json!([{"name": "a", "disk": {"bus": "sata"}}]), volume);
    assert_eq!(sata.unwrap_err(), "spec.domain.devices.disks[0]: Cloud Hypervisor has virtio disks only");
    let empty = disks(json!([{"name": "a", "disk": {}}]), json!([]));
    assert_eq!(
        empty.unwrap_err(),
        "spec.domain.devices.disks[0]: there is no volume of this name, and no drive that can be empty"
    );
}

#[test]
fn target_names_go_on_after_z() {
    let names: Vec<String> = super::target_names().take(703).collect();
    let at = |index: usize| names.get(index).map(String::as_str);
    assert_eq!([at(0), at(25), at(26), at(701), at(702)], ["vda", "vdz", "vdaa", "vdzz", "vdaaa"].map(Some));
}

#[test]
fn processors_have_a_topology_and_no_model() {
    assert_eq!(
        written(super::processors, json!({"cpu": {"cores": 2, "model": "Haswell"}})),
        r#"<cpu><topology sockets="1" cores="2" threads="1"/></cpu><vcpu placement="static">2</vcpu>"#
    );
}

#[test]
fn memory_has_no_maximum() {
    let domain = json!({"memory": {"guest": "1Mi", "maxGuest": "2Mi"}});
    assert_eq!(written(super::fixed_memory, domain), r#"<memory unit="b">1048576</memory>"#);
}

#[test]
fn hypervisor_needs_a_device() {
    let hypervisor = |facts| run(super::hypervisor, vmi(json!({})), facts);
    assert!(hypervisor(json!({})).unwrap().contains(r#"<domain type="kvm">"#));
    let mshv = hypervisor(json!({"hypervisor": {"name": "hyperv-direct"}})).unwrap();
    assert!(mshv.contains(r#"<domain type="hyperv">"#), "{mshv}");
    assert_eq!(
        hypervisor(json!({"hypervisor": {"devicePresent": false}})).unwrap_err(),
        "Cloud Hypervisor cannot emulate, and there is neither /dev/kvm nor /dev/mshv"
    );
}

#[test]
fn placement_pins_vcpus_and_no_io_threads() {
    let cpu = json!({"cores": 2, "dedicatedCpuPlacement": true});
    let disk = json!([{"name": "a", "disk": {}, "dedicatedIOThread": true}]);
    let mut vmi = vmi(json!({"cpu": cpu, "devices": {"disks": disk}}));
    vmi["spec"]["volumes"] = json!([{"name": "a", "persistentVolumeClaim": {"claimName": "c"}}]);
    let topology = json!({"numaCells": [{"id": 0, "cpus": [{"id": 4}, {"id": 5}]}]});
    let facts = json!({"cpuSet": [4, 5], "optionsPresent": true, "topology": topology});
    // The pinning counts the vCPUs of the topology.
    let after_processors: Run = |context, domain| {
        super::processors(context, domain)?;
        super::placement(context, domain)
    };
    let written = run(after_processors, vmi, facts).unwrap();
    let pins = r#"<cputune><vcpupin vcpu="0" cpuset="4"/><vcpupin vcpu="1" cpuset="5"/></cputune>"#;
    assert!(written.contains(pins), "{written}");
}
