//! A VMI's devices, with the volumes, networks and facts that go with them.

use serde_json::{Map, Value, json};

use super::Choices;

impl Choices {
    pub(super) fn disks(&mut self, vmi: &mut Value, facts: &mut Value) {
        let (mut disks, mut volumes, mut states) = (Vec::new(), Vec::new(), Vec::new());
        let count = match self.below(10) {
            9 => self.below(60),
            few => few,
        };
        for index in 0..count {
            let name = if self.wild && self.once_in(12) { "d0".to_owned() } else { format!("d{index}") };
            let bus = self.word(&["virtio", "sata", "scsi", "usb", ""], &["ide", "<"]);
            let mut disk = json!({"name": name});
            match self.below(6) {
                4 => {
                    let tray = self.pick(&["closed", "open", ""]);
                    disk["cdrom"] =
                        json!({"bus": if bus == "virtio" { json!("sata") } else { bus.clone() }, "tray": tray});
                }
                5 => disk["lun"] = json!({"bus": bus, "reservation": self.below(2) == 1}),
                _ => {
                    disk["disk"] = json!({"bus": bus, "readonly": self.once_in(4)});
                    if bus == "virtio" && self.once_in(6) {
                        disk["disk"]["pciAddress"] = self.address(0x80 + index);
                    }
                }
            }
            let sizes = [
                json!({"custom": {"logical": 512, "physical": 4096, "discardGranularity": 0}}),
                json!({"custom": {"logical": 4096, "physical": 4096}}),
            ];
            let yes = [json!(true)];
            self.some(&mut disk, &[("dedicatedIOThread", &yes), ("serial", &[json!("serial-1")])]);
            if self.once_in(4) {
                disk["cache"] = self.word(&["none", "writethrough", "writeback"], &["x"]);
                disk["io"] = self.word(&["native", "threads", "io_uring"], &["x"]);
            }
            if self.once_in(6) {
                disk["blockSize"] = self.pick(&sizes);
            }
            if self.wild && self.once_in(8) {
                disk["blockSize"] =
                    self.pick(&[json!({"matchVolume": {}}), json!({"custom": {"logical": u64::MAX}}), json!({})]);
            }
            if self.once_in(8) {
                disk["errorPolicy"] = self.word(&["stop", "ignore", "report", "enospace"], &["maybe"]);
            }
            if self.once_in(8) && !disk["cache"].as_str().is_some_and(|cache| cache.starts_with('w')) {
                disk["shareable"] = json!(true);
            }
            if self.once_in(4) {
                disk["bootOrder"] = json!(index + 1);
            }
            self.volume(&name, &mut volumes, &mut states, facts);
            // A hot-plugged disk keeps the name that it got.
            if self.once_in(3) {
                let prefix = if bus == "virtio" { "vd" } else { "sd" };
                let letter = char::from(b'a' + u8::try_from(index % 26).unwrap());
                let index = if index < 26 { String::new() } else { "a".repeat(index / 26) };
                if let Some(state) = states.last_mut().filter(|_| bus != "") {
                    state["target"] = json!(format!("{prefix}{index}{letter}"));
                }
            }
            disks.push(disk);
        }
        if self.once_in(8) {
            disks.push(json!({"name": "empty", "cdrom": {"bus": "sata"}}));
        }
        if self.wild && self.once_in(8) {
            volumes.pop();
        }
        vmi["spec"]["domain"]["devices"]["disks"] = json!(disks);
        vmi["spec"]["volumes"] = json!(volumes);
        if self.below(4) != 3 {
            vmi["status"]["volumeStatus"] = json!(states);
        }
        if self.once_in(6) {
            vmi["status"]["changedBlockTracking"] =
                json!({"state": self.pick(&["Initializing", "Enabled", "Disabled"])});
        }
    }

    fn volume(&mut self, name: &str, volumes: &mut Vec<Value>, states: &mut Vec<Value>, facts: &mut Value) {
        let claim = json!({"claimName": "c"});
        let cloud_init = json!({"userData": "#!/bin/sh\n", "networkData": "version: 2"});
        let kinds: [(&str, Value); 15] = [
            ("emptyDisk", json!({"capacity": "1Gi"})),
            ("persistentVolumeClaim", claim.clone()),
            ("hostDisk", json!({"path": format!("/x/{name}.img"), "type": "Disk"})),
            ("dataVolume", json!({"name": "dv"})),
            ("containerDisk", json!({"image": "i"})),
            ("ephemeral", json!({"persistentVolumeClaim": claim})),
            ("configMap", json!({"name": "c"})),
            ("secret", json!({"secretName": "s"})),
            ("downwardAPI", json!({})),
            ("serviceAccount", json!({"serviceAccountName": "s"})),
            ("sysprep", json!({"secret": {"name": "s"}})),
            ("downwardMetrics", json!({})),
            ("cloudInitNoCloud", cloud_init.clone()),
            ("cloudInitConfigDrive", cloud_init),
            ("memoryDump", json!({"claimName": "c"})),
        ];
        let last = kinds.len() - usize::from(!self.wild);
        let (kind, source) = self.pick(&kinds[..last]);
        let mut volume = json!({"name": name});
        volume[kind] = source;
        let mut state = json!({"name": name});
        let list = |facts: &mut Value, key: &str| facts[key].as_array_mut().unwrap().push(json!(name));
        match kind {
            "containerDisk" if !(self.wild && self.once_in(8)) => {
                facts["containerDisks"][name] = json!({"format": self.pick(&["qcow2", "raw"]), "virtualSize": 1 << 20});
            }
            "persistentVolumeClaim" | "dataVolume" | "hostDisk" => {
                if self.below(2) == 1 {
                    list(facts, "blockVolumes");
                }
                if self.below(2) == 1 {
                    let capacity = self.word(&["10Gi", "1.5Gi"], &["1n", "-1"]);
                    state["persistentVolumeClaimInfo"] = json!({
                        "capacity": {"storage": capacity}, "requests": {"storage": "5Gi"}, "filesystemOverhead": "0.055",
                    });
                }
                if self.once_in(4) {
                    state["hotplugVolume"] = json!({});
                    state["phase"] = json!(self.pick(&["Ready", "MountedToPod", "Pending"]));
                    if self.below(2) == 1 {
                        list(facts, "hotplugBlockVolumes");
                    }
                }
            }
            _ => {}
        }
        volumes.push(volume);
        states.push(state);
    }

    /// A PCI address that no other device is given.
    fn address(&mut self, bus: usize) -> Value {
        let good = format!("0000:{:02x}:01.0", bus % 256);
        self.word(&[good.as_str()], &["", "0000:00:00", "zz", "0000:81:01.9", "1:2:3.4", "0000:01:02.0\n"])
    }

    pub(super) fn interfaces(&mut self, vmi: &mut Value, facts: &mut Value) {
        let (mut interfaces, mut networks, mut states) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..self.below(5) {
            let name = if self.wild && self.once_in(12) { "n0".to_owned() } else { format!("n{index}") };
            let mut interface = json!({"name": name});
            let kind = self.pick(&["masquerade", "bridge", "passtBinding", "sriov", "binding"]);
            interface[kind] = if kind == "binding" { json!({"name": "plugin"}) } else { json!({}) };
            if matches!(kind, "masquerade" | "bridge") || self.once_in(4) {
                facts["interfaceDomainAttachment"][&name] = json!("tap");
            }
            let models = [json!("virtio"), json!("e1000"), json!("e1000e")];
            let states_of_link = [json!("up"), json!("down"), json!("absent")];
            self.some(
                &mut interface,
                &[("model", &models), ("bootOrder", &[json!(100 + index)]), ("acpiIndex", &[json!(index)])],
            );
            if self.once_in(4) {
                interface["state"] = self.pick(&states_of_link);
            }
            if self.once_in(3) {
                let own = format!("02:00:00:00:01:{index:02X}");
                interface["macAddress"] =
                    self.word(&[own.as_str()], &["x", "02:00", "02-00-00-00-00-01", "0200.0000.0001"]);
            }
            if self.once_in(6) {
                interface["pciAddress"] = self.address(0xe0 + index);
            }
            if self.once_in(3) {
                interface["ports"] = json!([
                    {"port": 80, "protocol": self.pick(&["TCP", "udp", "", "sctp"])},
                    {"port": self.pick(&[22, -1, 65_536, i64::MAX])},
                ]);
            }
            let mut network = json!({"name": name});
            match self.below(4) {
                3 => network["multus"] = json!({"networkName": "n", "default": self.once_in(4)}),
                _ if index == 0 => network["pod"] = json!({}),
                _ => network["multus"] = json!({"networkName": format!("ns/net{index}")}),
            }
            if self.below(4) != 3 || kind == "passtBinding" {
                states.push(json!({"name": name, "infoSource": "domain, multus-status", "podInterfaceName": "eth0"}));
            }
            interfaces.push(interface);
            networks.push(network);
        }
        if self.wild && self.once_in(8) {
            networks.pop();
        }
        if self.once_in(3) {
            vmi["spec"]["domain"]["devices"]["networkInterfaceMultiqueue"] = json!(true);
        }
        if self.below(4) != 3 {
            let by_network: Map<String, Value> = networks
                .iter()
                .enumerate()
                .map(|(index, network)| {
                    (network["name"].as_str().unwrap().to_owned(), json!(format!("0000:{:02x}:00.1", 0x40 + index)))
                })
                .collect();
            facts["networkInfo"] = json!(
                json!({"interfaces": by_network.iter().map(|(name, address)| {
                    json!({"network": name, "deviceInfo": {"type": "pci", "version": "1.0.0", "pci": {"pci-address": address}}})
                }).collect::<Vec<_>>()})
                .to_string()
            );
        }
        if self.wild && self.once_in(8) {
            facts["networkInfo"] = json!(self.pick(&["", "{", "{}", "[]", "{\"interfaces\":[{}]}", "null"]));
        }
        vmi["spec"]["domain"]["devices"]["interfaces"] = json!(interfaces);
        vmi["spec"]["networks"] = json!(networks);
        vmi["status"]["interfaces"] = json!(states);
    }

    pub(super) fn host_devices(&mut self, vmi: &mut Value, facts: &mut Value) {
        let devices = &mut vmi["spec"]["domain"]["devices"];
        for (list, stem) in [("hostDevices", "hd"), ("gpus", "gpu")] {
            let count = if self.once_in(4) { 1 + self.below(3) } else { 0 };
            let resource = format!("vendor.com/{stem}");
            let mut all = Vec::new();
            for index in 0..count {
                let mut device = json!({"name": format!("{stem}{index}"), "deviceName": resource});
                let displays = [
                    json!({}),
                    json!({"display": {}}),
                    json!({"display": {"enabled": true, "ramFB": {"enabled": false}}}),
                ];
                if list == "gpus" {
                    self.some(&mut device, &[("virtualGPUOptions", &displays)]);
                }
                all.push(device);
            }
            let variable = resource.to_uppercase().replace(['/', '.'], "_");
            let usb = if list == "gpus" { "MDEV_PCI_RESOURCE" } else { "USB_RESOURCE" };
            let base = if list == "gpus" { 0x10 } else { 0x20 };
            let (prefix, form) = self.pick(&[("PCI_RESOURCE", 0), ("MDEV_PCI_RESOURCE", 1), (usb, 2)]);
            let form = if usb == "MDEV_PCI_RESOURCE" && form == 2 { 1 } else { form };
            let addresses: Vec<String> = (0..count)
                .map(|index| match form {
                    0 => format!("0000:{:02x}:00.0", base + index),
                    1 => format!("aa618089-8b16-4d01-a136-25a0f3c73{base:x}{index}"),
                    _ => format!("1:{index}"),
                })
                .collect();
            let mut text = addresses.join(",") + self.pick(&["", ","]);
            if self.wild && self.once_in(6) {
                text = self.pick(&["", ",", "x", ",,", ":", "1:", "0000:00:00.0,"]).to_owned();
            }
            facts["env"][format!("{prefix}_{variable}")] = json!(text);
            devices[list] = json!(all);
        }
        if self.once_in(3) {
            let node = self.pick(&[json!(0), json!(1), json!(-1), Value::Null]);
            let devices: Map<String, Value> =
                (0x10..0x24).map(|bus| (format!("0000:{bus:02x}:00.0"), json!({"numaNode": node}))).collect();
            let numa = |list: &str| json!({"cpulist": list, "distance": "10 21"});
            facts["sysfs"] =
                json!({"pciDevices": devices, "numaNodes": {"0": numa("0-7"), "1": numa("8-15")}, "online": "0-1"});
        }
        if self.once_in(12) {
            facts["graceHostDeviceAliases"] = json!(["gpu-gpu0"]);
        }
    }

    pub(super) fn small_devices(&mut self, devices: &mut Value) {
        let switch = [json!(true), json!(false)];
        self.some(
            devices,
            &[
                ("autoattachGraphicsDevice", &switch),
                ("autoattachMemBalloon", &switch),
                ("autoattachSerialConsole", &switch),
                ("blockMultiQueue", &switch),
                ("disableHotplug", &switch),
                ("logSerialConsole", &switch),
                ("useVirtioTransitional", &switch),
                ("rng", &[json!({})]),
                ("tpm", &[json!({}), json!({"persistent": true}), json!({"enabled": false})]),
                ("panicDevices", &[json!([{}]), json!([{"model": "pvpanic"}, {"model": "isa"}])]),
                ("filesystems", &[json!([{"name": "fs0", "virtiofs": {}}]), json!([{"name": "fs1"}])]),
            ],
        );
        if self.once_in(6) {
            devices["clientPassthrough"] = json!({});
            devices["downwardMetrics"] = json!({});
        }
        if self.once_in(3) {
            let bus = self.word(&["usb", "virtio", ""], &["ps2"]);
            devices["inputs"] = json!([{"name": "in0", "bus": bus, "type": self.word(&["tablet"], &["keyboard", ""])}]);
        }
        if self.once_in(6) {
            devices["sound"] = json!({"name": "snd0", "model": self.word(&["ich9", "ac97", ""], &["sb16"])});
        }
        if self.once_in(6) {
            devices["video"] = json!({"type": self.pick(&["virtio", "vga", ""])});
        }
        if self.once_in(6) {
            devices["watchdog"] = self.pick(&[
                json!({"name": "wd0", "i6300esb": {"action": "reset"}}),
                json!({"name": "wd0", "diag288": {}}),
            ]);
        }
    }
}
