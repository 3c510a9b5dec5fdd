//! Each rule with what it refuses and what it lets pass.

use serde_json::{Value, json};

use super::*;

/// What is said of a VMI with these parts of its spec, on a machine where everything is there.
fn said(spec: Value, status: Value) -> Vec<String> {
    said_of(json!({"metadata": {"name": "vm", "namespace": "ns"}, "spec": spec, "status": status}))
}

fn said_of(vmi: Value) -> Vec<String> {
    let vmi = crate::vmi::parse(vmi.to_string().as_bytes()).unwrap();
    let facts = json!({
        "allowEmulation": true, "optionsPresent": true, "blockVolumes": ["block"],
        "interfaceDomainAttachment": {"a": "tap", "b": "tap"},
        "links": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500}, {"name": "net1", "mac": "02:00:00:00:00:02", "mtu": 1500}],
    });
    let facts = serde_json::from_value(facts).unwrap();
    problems(&vmi, &facts).iter().map(ConvertError::with_path).collect()
}

fn with_disks(disks: Value) -> Vec<String> {
    let names = ["a", "b", "c"].map(|name| json!({"name": name, "emptyDisk": {"capacity": "1Gi"}}));
    let mut volumes = names.to_vec();
    volumes.push(json!({"name": "block", "persistentVolumeClaim": {"claimName": "c"}}));
    said(json!({"domain": {"memory": {"guest": "64Mi"}, "devices": {"disks": disks}}, "volumes": volumes}), json!({}))
}

fn of_domain(domain: Value) -> Vec<String> {
    let mut all = json!({"memory": {"guest": "64Mi"}});
    for (key, value) in domain.as_object().unwrap() {
        all[key] = value.clone();
    }
    said(json!({"domain": all}), json!({}))
}

#[track_caller]
fn one(said: Vec<String>, path: &str, reason: &str) {
    assert!(said.len() == 1 && said[0].starts_with(&format!("{path}: ")) && said[0].contains(reason), "{said:?}");
}

const NONE: [String; 0] = [];

#[test]
fn everything_that_is_wrong_is_reported_at_once_with_the_conversions_error_in_front() {
    let disks = json!([
        {"name": "a", "cdrom": {"bus": "virtio"}}, {"name": "b", "disk": {"bus": "virtio"}, "bootOrder": 1},
        {"name": "c", "disk": {"bus": "virtio"}, "bootOrder": 1, "errorPolicy": "explode"}, {"name": "d"},
    ]);
    let said = with_disks(disks);
    let paths: Vec<&str> = said.iter().map(|line| line.split(": ").next().unwrap()).collect();
    let list = "spec.domain.devices.disks";
    let expected = ["[2].errorPolicy", "[0].cdrom.bus", "[3]", "[2].bootOrder"].map(|rest| format!("{list}{rest}"));
    assert_eq!(paths, expected, "{said:?}");
}

#[test]
fn one_problem_keeps_its_text_and_several_are_counted() {
    let one = ConvertError::at("spec.a", "known text");
    assert_eq!(told(&[]), None);
    assert_eq!(told(std::slice::from_ref(&one)).unwrap(), "known text");
    let other = ConvertError::field("spec.b", "why");
    assert_eq!(told(&[one, other]).unwrap(), "2 problems: spec.a: known text; spec.b: why");
}

#[test]
fn disk_is_one_thing_on_a_bus_that_has_it() {
    let disk = |disk: Value| with_disks(json!([disk]));
    let list = "spec.domain.devices.disks[0]";
    assert_eq!(disk(json!({"name": "a", "cdrom": {"bus": "usb"}})), NONE);
    assert_eq!(disk(json!({"name": "block", "lun": {"bus": "scsi"}})), NONE);
    one(disk(json!({"name": "a", "cdrom": {"bus": "virtio"}})), &format!("{list}.cdrom.bus"), "no CD-ROM on virtio");
    one(disk(json!({"name": "a", "disk": {"bus": "ide"}})), &format!("{list}.disk.bus"), "\"ide\" is none of");
    one(disk(json!({"name": "a", "disk": {}})), &format!("{list}.disk.bus"), "is missing");
    one(disk(json!({"name": "a"})), list, "none of disk, lun and cdrom");
    one(disk(json!({"name": "a", "disk": {"bus": "sata"}, "cdrom": {"bus": "sata"}})), list, "is disk and cdrom");
    one(disk(json!({"name": "a", "lun": {"bus": "scsi"}})), &format!("{list}.lun"), "is a file");
    one(disk(json!({"name": "block", "lun": {"bus": "sata"}})), &format!("{list}.lun.bus"), "no LUN on sata");
    one(disk(json!({"name": "x", "disk": {"bus": "sata"}})), &format!("{list}.name"), "no matching volume");
    let readonly = json!({"name": "a", "disk": {"bus": "sata", "readonly": true}});
    one(disk(readonly), &format!("{list}.disk.readonly"), "cannot be read-only");
}

#[test]
fn serial_numbers_and_blocks_are_those_of_the_bus() {
    let disk = |bus: &str, more: Value| {
        let mut disk = json!({"name": "a", "disk": {"bus": bus}});
        for (key, value) in more.as_object().unwrap() {
            disk[key] = value.clone();
        }
        with_disks(json!([disk]))
    };
    for (bus, longest) in [("usb", 20), ("scsi", 36), ("virtio", 256), ("sata", 256)] {
        assert_eq!(disk(bus, json!({"serial": "s".repeat(longest)})), NONE, "{bus}");
        let path = "spec.domain.devices.disks[0].serial";
        one(disk(bus, json!({"serial": "s".repeat(longest + 1)})), path, &format!("more than the {longest} on {bus}"));
        one(disk(bus, json!({"serial": "a'b"})), path, "other characters");
    }
    let blocks = |bus: &str, logical: u64, physical: u64| {
        disk(bus, json!({"blockSize": {"custom": {"logical": logical, "physical": physical}}}))
    };
    assert_eq!(blocks("scsi", 4096, 4096), NONE);
    let path = "spec.domain.devices.disks[0].blockSize.custom";
    one(blocks("sata", 4096, 4096), &format!("{path}.logical"), "512 bytes");
    one(blocks("scsi", 4096, 512), &format!("{path}.logical"), "more than the physical block");
    one(blocks("scsi", 512, 1536), &format!("{path}.physical"), "power of 2");
    one(blocks("scsi", 512, 4 << 20), &format!("{path}.physical"), "power of 2");
}

#[test]
fn names_are_given_once() {
    let devices = json!({
        "disks": [{"name": "a", "disk": {"bus": "sata"}}],
        "interfaces": [{"name": "a", "bridge": {}}, {"name": "b", "bridge": {}}],
    });
    let multus = |name: &str| json!({"name": name, "multus": {"networkName": "x"}});
    let networks = json!([{"name": "a", "pod": {}}, multus("b"), multus("c"), multus("c"), {"name": "d", "pod": {}}]);
    let volumes =
        json!([{"name": "a", "emptyDisk": {"capacity": "1Gi"}}, {"name": "a", "secret": {}, "configMap": {}}]);
    let spec =
        json!({"domain": {"memory": {"guest": "64Mi"}, "devices": devices}, "networks": networks, "volumes": volumes});
    let said = said(spec, json!({}));
    for path in [
        "spec.volumes[1].name: \"a\" is the name of spec.volumes[0] too",
        "spec.volumes[1]: has more than one source: configMap and secret",
        "spec.networks[3].name: \"c\" is the name of spec.networks[2] too",
        "spec.networks[4]: is the pod's own network, as spec.networks[0] is",
        "spec.domain.devices.interfaces[0].name: \"a\" is spec.domain.devices.disks[0].name too",
    ] {
        assert!(said.iter().any(|line| line.starts_with(path)), "{path}: {said:?}");
    }
}

#[test]
fn memory_is_more_than_nothing_and_less_than_can_be_addressed() {
    let memory = |memory: Value| said(json!({"domain": {"memory": memory}}), json!({}));
    one(memory(json!({})), "spec.domain.memory.guest", "is missing");
    one(memory(json!({"guest": "0"})), "spec.domain.memory.guest", "0 bytes are no memory");
    one(memory(json!({"guest": "1n"})), "spec.domain.memory.guest", "0 bytes are no memory");
    let of_resources = said(json!({"domain": {"resources": {"requests": {"memory": "8Ei"}}}}), json!({}));
    one(of_resources, "spec.domain.resources.requests.memory", "more than any guest can have");
    let beside = json!({"cpu": {"cores": 1}, "resources": {"limits": {"cpu": "-1"}}});
    one(of_domain(beside), "spec.domain.resources.limits.cpu", "-1 is less than nothing");
    one(memory(json!({"guest": "-5Gi"})), "spec.domain.memory.guest", "must be greater than or equal to 0");
    one(memory(json!({"guest": "8Ei"})), "spec.domain.memory.guest", "more than any guest can have");
    one(memory(json!({"guest": "9223372036854775808"})), "spec.domain.memory.guest", "more than any guest can have");
    one(
        memory(json!({"guest": "1Gi", "maxGuest": "512Mi"})),
        "spec.domain.memory.maxGuest",
        "less than the guest's 1Gi",
    );
    let pages = json!({"guest": "1Gi", "hugepages": {"pageSize": "2Gi"}});
    one(memory(pages), "spec.domain.memory.hugepages.pageSize", "more than the guest's");
}

#[test]
fn boot_orders_and_addresses_are_given_once_to_devices_of_all_kinds() {
    let devices = |disk: Value, card: Value| {
        let mut disks = json!([{"name": "c", "disk": {"bus": "virtio"}}]);
        let mut cards = json!([{"name": "a", "bridge": {}}]);
        for (list, more) in [(&mut disks, disk), (&mut cards, card)] {
            for (key, value) in more.as_object().unwrap() {
                list[0][key] = value.clone();
            }
        }
        let volumes = json!([{"name": "c", "emptyDisk": {"capacity": "1Gi"}}]);
        let devices = json!({"disks": disks, "interfaces": cards});
        let networks = json!([{"name": "a", "pod": {}}]);
        said(
            json!({"domain": {"memory": {"guest": "64Mi"}, "devices": devices}, "networks": networks, "volumes": volumes}),
            json!({}),
        )
    };
    let at = |address: &str| json!({"disk": {"bus": "virtio", "pciAddress": address}});
    let card = "spec.domain.devices.interfaces[0]";
    let disk = "spec.domain.devices.disks[0]";
    assert_eq!(devices(at("0000:00:0a.0"), json!({"pciAddress": "0000:00:0a.1"})), NONE);
    one(devices(at("0000:00:0a.0"), json!({"pciAddress": "0000:00:0A.0"})), &format!("{card}.pciAddress"), "too");
    one(devices(json!({"bootOrder": 2}), json!({"bootOrder": 2})), &format!("{card}.bootOrder"), "disks[0] too");
    for order in [0, 1_u64 << 31, u64::MAX] {
        one(devices(json!({"bootOrder": order}), json!({})), &format!("{disk}.bootOrder"), "is not between 1");
    }
    for (address, why) in [
        ("0000:81:01.0", "slot 00 alone"),
        ("0001:00:0a.0", "domain 0000"),
        ("0000:00:1f.0", "chipset"),
        ("0000:00:20.0", "00 to 1f"),
    ] {
        one(devices(at(address), json!({})), &format!("{disk}.disk.pciAddress"), why);
    }
    for (mac, why) in
        [("01:00:00:00:00:01", "group"), ("02:00:00:00:00:00:00:01", "six bytes"), ("x", "not a MAC address")]
    {
        one(devices(json!({}), json!({"macAddress": mac})), &format!("{card}.macAddress"), why);
    }
    one(devices(json!({}), json!({"model": "xyz"})), &format!("{card}.model"), "is none of");
    one(devices(json!({}), json!({"acpiIndex": 16_384})), &format!("{card}.acpiIndex"), "not between 0 and 16383");
}

#[test]
fn texts_and_words_are_those_that_libvirt_and_qemu_read() {
    one(of_domain(json!({"firmware": {"uuid": "x"}})), "spec.domain.firmware.uuid", "not a UUID");
    one(
        of_domain(json!({"firmware": {"kernelBoot": {"kernelArgs": "a"}}})),
        "spec.domain.firmware.kernelBoot.kernelArgs",
        "no kernel",
    );
    one(of_domain(json!({"chassis": {"asset": "x".repeat(1 << 20)}})), "spec.domain.chassis", "1048576 bytes are more");
    one(of_domain(json!({"machine": {"type": "virt"}})), "spec.domain.machine.type", "is none of q35");
    let hyperv = |hyperv: Value| of_domain(json!({"features": {"hyperv": hyperv}}));
    one(
        hyperv(json!({"vendorid": {"vendorid": "1234567890123"}})),
        "spec.domain.features.hyperv.vendorid.vendorid",
        "1 to 12",
    );
    one(
        hyperv(json!({"spinlocks": {"spinlocks": 1}})),
        "spec.domain.features.hyperv.spinlocks.spinlocks",
        "less than 4095",
    );
    let rtc = json!({"clock": {"timer": {"rtc": {"tickPolicy": "merge"}}}});
    one(of_domain(rtc), "spec.domain.clock.timer.rtc.tickPolicy", "is none of delay, catchup");
    let offset = json!({"clock": {"utc": {"offsetSeconds": i64::MAX}}});
    one(of_domain(offset), "spec.domain.clock.utc.offsetSeconds", "no date");
    let cpu = json!({"cpu": {"features": [{"name": "aes"}, {"name": "aes", "policy": "disable"}]}});
    one(of_domain(cpu), "spec.domain.cpu.features[1].name", "too");
    one(
        of_domain(json!({"devices": {"panicDevices": [{}, {"model": "isa"}]}})),
        "spec.domain.devices.panicDevices[1].model",
        "already",
    );
    one(
        of_domain(json!({"devices": {"watchdog": {"name": "w", "i6300esb": {}}}})),
        "spec.domain.devices.watchdog.i6300esb.action",
        "is none of",
    );
}

#[test]
fn values_that_only_a_define_or_a_start_refused_are_refused_first() {
    let empty_drive = with_disks(json!([{"name": "none", "cdrom": {"bus": "usb"}}]));
    one(empty_drive, "spec.domain.devices.disks[0].cdrom.bus", "no empty CD-ROM drive on usb");
    assert_eq!(with_disks(json!([{"name": "none", "cdrom": {"bus": "sata"}}])), NONE);
    let spinlocks = |retries: u32| of_domain(json!({"features": {"hyperv": {"spinlocks": {"spinlocks": retries}}}}));
    assert_eq!(spinlocks(i32::MAX as u32), NONE);
    let field = "spec.domain.features.hyperv.spinlocks.spinlocks";
    one(spinlocks(u32::MAX), field, "4294967295 is more than 2147483647");
    let of_machine = |machine: &str, cores: u32| {
        of_domain(json!({"machine": {"type": machine}, "cpu": {"sockets": 1, "cores": cores, "threads": 1}}))
    };
    assert_eq!([of_machine("pc-q35-8.0", 254), of_machine("pc-q35-8.1", 255)].concat(), NONE);
    assert_eq!([of_machine("pc-i440fx-8.0", 254), of_machine("pc-i440fx-9.0", 255)].concat(), NONE);
    for machine in ["pc-q35-8.0", "pc-i440fx-8.0"] {
        one(of_machine(machine, 255), "spec.domain.cpu", &format!("more than the 254 of a {machine} machine"));
    }
    let named = |length: usize| {
        let metadata = json!({"name": "n".repeat(length), "namespace": "ns"});
        said_of(json!({"metadata": metadata, "spec": {"domain": {"memory": {"guest": "64Mi"}}}}))
    };
    assert_eq!(named(244), NONE);
    one(named(245), "metadata.name", "248 bytes with the namespace are more than the 247");
    one(named(254), "metadata.name", "more than the 253 of a name");
}

#[test]
fn what_was_refused_in_vain_is_not() {
    // Each runs, odd as it may look.
    assert_eq!(of_domain(json!({"clock": {"timer": {"rtc": {"track": "realtime"}}}})), NONE);
    assert_eq!(of_domain(json!({"firmware": {"uuid": "5A9C1F0E7D0B4A539C5E0F4D9F6B2A11"}})), NONE);
    assert_eq!(of_domain(json!({"features": {"hyperv": {"spinlocks": {"enabled": false}}}})), NONE);
    assert_eq!(of_domain(json!({"clock": {"timer": {"hpet": {"tickPolicy": "merge"}}}})), NONE);
    assert_eq!(of_domain(json!({"cpu": {"sockets": 4096}})), NONE);
    let unknown =
        json!({"domain": {"memory": {"guest": "64Mi"}}, "volumes": [{"name": "v", "containerPath": {"path": "/x"}}]});
    assert_eq!(said(unknown, json!({})), NONE, "a volume of a newer kind without a disk");
}

#[test]
fn luns_volume_that_is_to_be_mounted_yet_is_not_judged() {
    let lun = |status: Value| {
        let spec = json!({
            "domain": {"memory": {"guest": "64Mi"}, "devices": {"disks": [{"name": "late", "lun": {"bus": "scsi"}}]}},
            "volumes": [{"name": "late", "persistentVolumeClaim": {"claimName": "c", "hotpluggable": true}}],
        });
        said(spec, json!({"volumeStatus": [status]}))
    };
    let path = "spec.domain.devices.disks[0].lun";
    assert_eq!(lun(json!({"name": "late", "phase": "Pending", "hotplugVolume": {}})), NONE);
    one(lun(json!({"name": "late", "phase": "Ready", "hotplugVolume": {}})), path, "is a file");
    one(lun(json!({"name": "late"})), path, "is a file");
}

#[test]
fn running_vm_is_judged_by_the_same_rules_without_what_only_a_define_knows() {
    let vmi = |disk: Value, options: bool| {
        let vmi = json!({
            "metadata": {"name": "vm", "namespace": "ns"},
            "spec": {
                "domain": {
                    "memory": {"guest": "64Mi"},
                    "devices": {"disks": [disk], "interfaces": [{"name": "late", "bridge": {}}]},
                },
                "networks": [{"name": "late", "multus": {"networkName": "x"}}],
                "volumes": [{"name": "a", "emptyDisk": {"capacity": "1Gi"}}],
            },
        });
        let attachment = json!({"late": "tap"});
        let facts = json!({"allowEmulation": true, "optionsPresent": options, "interfaceDomainAttachment": attachment});
        (crate::vmi::parse(vmi.to_string().as_bytes()).unwrap(), serde_json::from_value::<HostFacts>(facts).unwrap())
    };
    let while_running = |(vmi, facts): &(VirtualMachineInstance, HostFacts)| -> Vec<String> {
        problems_of_running(vmi, facts).iter().map(ConvertError::with_path).collect()
    };
    for options in [true, false] {
        // The pod's link comes later, and virt-handler sends some calls without its options.
        let good = vmi(json!({"name": "a", "disk": {"bus": "virtio"}}), options);
        assert_eq!(while_running(&good), NONE);
        assert!(!problems(&good.0, &good.1).is_empty());
        let bad = vmi(json!({"name": "a", "disk": {"bus": "virtio"}, "serial": "a'b"}), options);
        one(while_running(&bad), "spec.domain.devices.disks[0].serial", "other characters");
    }
}

#[test]
fn device_that_breaks_a_rule_is_refused_for_every_hypervisor() {
    let disks = json!([
        {"name": "a", "disk": {"bus": "virtio"}}, {"name": "b", "disk": {"bus": "virtio"}, "lun": {"bus": "virtio"}},
        {"name": "c"}, {"name": "a", "disk": {"bus": "virtio"}},
    ]);
    let volumes = ["a", "b", "c"].map(|name| json!({"name": name, "emptyDisk": {"capacity": "1Gi"}}));
    let vmi = json!({
        "metadata": {"name": "vm", "namespace": "ns"},
        "spec": {"domain": {"memory": {"guest": "64Mi"}, "devices": {"disks": disks}}, "volumes": volumes},
    });
    let vmi = crate::vmi::parse(vmi.to_string().as_bytes()).unwrap();
    for profile in ["qemu", "cloud-hypervisor"] {
        let facts = json!({"hypervisor": {"devicePresent": true, "profile": profile, "firmwareImage": "/f"}});
        let facts = serde_json::from_value(facts).unwrap();
        let said: Vec<String> = problems(&vmi, &facts).iter().map(ConvertError::with_path).collect();
        // That Cloud Hypervisor has no LUNs comes first there.
        let of_lun = if profile == "qemu" { "is disk and lun" } else { "virtio disks only" };
        for (path, why) in [("disks[1]", of_lun), ("disks[2]", "none of disk, lun and cdrom"), ("disks[3].name", "too")]
        {
            let start = format!("spec.domain.devices.{path}: ");
            let found = said.iter().any(|line| line.starts_with(&start) && line.contains(why));
            assert!(found, "{profile}: {path}: {said:?}");
        }
    }
}
