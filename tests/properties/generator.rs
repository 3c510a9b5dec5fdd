//! VMIs and contexts made of a row of numbers: when the numbers run out, everything else is left out, so that a failing
//! input shrinks to the fields that matter.

use serde_json::{Map, Value, json};

/// Numbers that decide, one after the other.
pub struct Choices {
    left: std::vec::IntoIter<u16>,
    /// Also such values as no API server lets through: then a VMI may be refused for many more reasons.
    wild: bool,
}

/// A VMI and the facts it is converted with, as their JSON.
pub struct Input {
    pub vmi: Value,
    pub facts: Value,
}

impl Choices {
    pub fn new(numbers: Vec<u16>, wild: bool) -> Self {
        Choices { left: numbers.into_iter(), wild }
    }

    /// Less than `bound`; 0 when nothing is left.
    fn below(&mut self, bound: usize) -> usize {
        self.left.next().map_or(0, |number| usize::from(number) % bound)
    }

    /// Never when nothing is left.
    fn once_in(&mut self, many: usize) -> bool {
        self.below(many) == many - 1
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }

    /// One of the texts that the API knows, or, if wild, of those it does not.
    fn word(&mut self, known: &[&str], unknown: &[&str]) -> Value {
        if self.wild && self.once_in(12) { json!(self.pick(unknown)) } else { json!(self.pick(known)) }
    }

    /// Each field with even odds.
    fn some(&mut self, object: &mut Value, fields: &[(&str, &[Value])]) {
        for (name, values) in fields {
            if self.below(2) == 1 {
                object[*name] = self.pick(values);
            }
        }
    }

    fn switch(&mut self) -> Value {
        self.pick(&[json!({}), json!({"enabled": true}), json!({"enabled": false})])
    }

    pub fn input(mut self) -> Input {
        let mut vmi = json!({
            "metadata": {"name": "vm1", "namespace": "ns", "uid": "u-1", "annotations": {}},
            "spec": {"domain": {"devices": {}}},
            "status": {},
        });
        let mut facts = self.facts();
        vmi["spec"]["architecture"] =
            self.word(&["amd64", "amd64", "amd64", "arm64", "s390x", ""], &["ppc64le", "AMD64"]);
        if vmi["spec"]["architecture"] != facts["hostArch"] && self.below(3) != 2 {
            facts["hostArch"] = match &vmi["spec"]["architecture"] {
                arch if arch == "" => json!("amd64"),
                arch => arch.clone(),
            };
        }
        self.annotations(&mut vmi["metadata"]["annotations"]);
        self.machine(&mut vmi["spec"]);
        self.memory(&mut vmi["spec"]["domain"]);
        self.features(&mut vmi["spec"]["domain"]);
        self.disks(&mut vmi, &mut facts);
        self.interfaces(&mut vmi, &mut facts);
        self.host_devices(&mut vmi, &mut facts);
        self.small_devices(&mut vmi["spec"]["domain"]["devices"]);
        self.status(&mut vmi["status"]);
        Input { vmi, facts }
    }

    fn facts(&mut self) -> Value {
        let cpus: Vec<Value> = (0..16).map(|id| json!({"id": id, "siblings": [id, id ^ 1]})).collect();
        let cell = |id: usize, cpus: &[Value]| json!({"id": id, "cpus": cpus, "distances": [{"id": 0, "value": 10 + 11 * id}, {"id": 1, "value": 21 - 11 * id}]});
        let mut facts = json!({
            "hostArch": self.word(&["amd64", "arm64", "s390x"], &["", "riscv64"]),
            "hypervisor": {"name": self.word(&["", "kvm", "hyperv-direct"], &["xen"]), "devicePresent": self.below(4) != 3},
            "allowEmulation": self.below(2) == 1,
            "allowCrossArchEmulation": self.below(2) == 1,
            "emulatorBinaries": ["/usr/bin/qemu-system-aarch64", "/usr/bin/qemu-system-x86_64"],
            "cpuSet": (0..16).collect::<Vec<_>>(),
            "optionsPresent": self.below(5) != 4,
            "smbios": {"manufacturer": "KubeVirt", "product": "None", "version": "", "sku": "", "family": "KubeVirt"},
            "memBalloonStatsPeriod": self.pick(&[10, 0]),
            "topology": {"numaCells": [cell(0, &cpus[..8]), cell(1, &cpus[8..])]},
            "ovmf": {"path": "/usr/share/OVMF", "files": [
                "AAVMF_CODE.fd", "AAVMF_VARS.fd", "OVMF_CODE.fd", "OVMF_CODE.secboot.fd", "OVMF_VARS.fd",
                "OVMF_VARS.secboot.fd", "OVMF_CODE.cc.fd", "OVMF.amdsev.fd", "OVMF.inteltdx.fd"],
                "firmwareAutoSelection": self.once_in(4)},
            "directIO": {"default": self.below(3) != 2},
            "links": [
                {"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1450}, {"name": "tap0", "mtu": 1450},
                {"name": "net1", "mac": "02:00:00:00:00:02", "mtu": 1500}, {"name": "net2", "mac": "02:00:00:00:00:03", "mtu": 9000},
                {"name": "net3", "mac": "02:00:00:00:00:04", "mtu": 1500}, {"name": "net4", "mac": "02:00:00:00:00:05", "mtu": 1500}],
            "interfaceDomainAttachment": {},
            "containerDisks": {}, "blockVolumes": [], "hotplugBlockVolumes": [], "env": {},
            "iommufd": self.once_in(8),
        });
        if self.wild && self.once_in(8) {
            facts["cpuSet"] = json!([]);
        }
        if self.wild && self.once_in(8) {
            facts["topology"] = json!({"numaCells": [{"id": 4_294_967_295_u32, "cpus": [{"id": 0}, {"id": 0}]}]});
        }
        let (yes, no) = (json!(true), json!(false));
        let mut cluster = json!({});
        let switch: &[Value] = &[yes, no];
        self.some(
            &mut cluster,
            &[
                ("freePageReportingDisabled", switch),
                ("bochsDisplayForEFIGuests", switch),
                ("serialConsoleLogDisabled", switch),
                ("pciNUMAAwareTopology", switch),
                ("graceIOVirtualization", switch),
            ],
        );
        facts["clusterConfig"] = cluster;
        facts
    }

    fn annotations(&mut self, annotations: &mut Value) {
        for (name, values) in [
            ("kubevirt.io/placePCIDevicesOnRootComplex", ["true", "false", "TRUE"]),
            ("kubevirt.io/disablePCIHole64", ["true", "True", "no"]),
            ("kubevirt.io/pci-interface-slot-count", ["0", "6", "20"]),
            ("kubevirt.io/memfd", ["false", "true", ""]),
            ("kubevirt.io/free-page-reporting-disabled", ["true", "false", ""]),
            ("kubevirt.io/ignitiondata", ["{\"ignition\": {}}", "{}", "x"]),
            ("kubevirt.io/nonroot", ["", "true", "x"]),
            ("sidecar.istio.io/inject", ["true", "TRUE", "false"]),
            ("alpha.kubevirt.io/EmulatorThreadCompleteToEvenParity", ["", "x", "true"]),
        ] {
            if self.once_in(8) {
                annotations[name] = json!(self.pick(&values));
            }
        }
        if self.wild && self.once_in(8) {
            let odd = ["", "-1", "99999999999999999999", "1000000", "+3", " 4", "0x4", "9223372036854775807"];
            annotations["kubevirt.io/pci-interface-slot-count"] = json!(self.pick(&odd));
        }
    }

    fn machine(&mut self, spec: &mut Value) {
        let domain = &mut spec["domain"];
        if self.below(4) != 3 {
            let machine = self.word(&["q35", "virt", "s390-ccw-virtio", "pc-q35-9.0", "pc-i440fx-9.0", ""], &["\"<&>"]);
            domain["machine"] = json!({"type": machine});
        }
        if self.below(3) != 2 {
            let mut cpu = json!({});
            let counts: &[Value] = &[json!(1), json!(2), json!(3), json!(0)];
            self.some(&mut cpu, &[("sockets", counts), ("cores", counts), ("threads", counts)]);
            if self.once_in(3) {
                cpu["maxSockets"] = json!(self.pick(&[3, 8, 4]));
            }
            let models = [json!("host-model"), json!("host-passthrough"), json!("Haswell"), json!("")];
            self.some(&mut cpu, &[("model", &models)]);
            if self.once_in(3) {
                cpu["features"] = json!([
                    {"name": self.pick(&["mpx", "invtsc", "aes"]), "policy": self.pick(&["require", "disable", "force", ""])},
                ]);
            }
            if self.once_in(4) {
                cpu["dedicatedCpuPlacement"] = json!(true);
                cpu["isolateEmulatorThread"] = json!(self.below(2) == 1);
                if self.below(2) == 1 {
                    cpu["numa"] = json!({"guestMappingPassthrough": {}});
                }
                if self.once_in(3) {
                    cpu["realtime"] = json!({});
                }
            }
            if self.wild && self.once_in(8) {
                let odd = [u32::MAX, 1 << 31, 65_536, 100_000];
                cpu[self.pick(&["sockets", "cores", "threads", "maxSockets"])] = json!(self.pick(&odd));
            }
            domain["cpu"] = cpu;
        }
        if self.below(2) == 1 {
            domain["ioThreadsPolicy"] = self.word(&["shared", "auto", "supplementalPool"], &["other"]);
            domain["ioThreads"] = json!({"supplementalPoolThreadCount": self.pick(&[1, 2, 4])});
            if self.wild && self.once_in(6) {
                domain["ioThreads"] =
                    self.pick(&[json!({}), json!({"supplementalPoolThreadCount": u32::MAX}), Value::Null]);
            }
        }
        if self.once_in(3) {
            domain["rebootPolicy"] = self.word(&["Terminate", "Reboot"], &["Panic"]);
        }
        if self.once_in(3) {
            spec["startStrategy"] = json!("Paused");
        }
    }

    fn memory(&mut self, domain: &mut Value) {
        let sizes = ["1Gi", "64Mi", "4Gi", "1000000001", "1500m", "2048M"];
        let size = self.word(&sizes, &["-1Gi", "0", "99999999999Ei", "1n", "8388608Ti"]);
        if self.below(4) == 3 {
            domain["resources"] = match self.below(2) {
                0 => json!({"requests": {"memory": size, "cpu": self.pick(&["2", "100m", "0"])}}),
                _ => json!({"limits": {"memory": size, "cpu": self.pick(&["2", "1500m", "0"])}}),
            };
            return;
        }
        let mut memory = json!({"guest": size});
        if self.once_in(4) {
            memory["maxGuest"] = self.word(&["16Gi", "1Gi"], &["-1", "1n"]);
        }
        if self.once_in(4) {
            memory["hugepages"] =
                json!({"pageSize": self.word(&["2Mi", "1Gi"], &["0", "-2Mi", "big", "99999999999Ei"])});
        }
        if self.wild && self.once_in(8) {
            memory.as_object_mut().unwrap().remove("guest");
        }
        domain["memory"] = memory;
    }

    fn features(&mut self, domain: &mut Value) {
        if self.below(2) == 1 {
            let mut features = json!({});
            for name in ["acpi", "apic", "smm", "pvspinlock"] {
                if self.below(2) == 1 {
                    features[name] = self.switch();
                }
            }
            if self.once_in(3) {
                features["kvm"] = json!({"hidden": self.below(2) == 1});
            }
            if self.once_in(3) {
                let mut hyperv = json!({});
                for name in [
                    "relaxed",
                    "vapic",
                    "vpindex",
                    "runtime",
                    "synic",
                    "reset",
                    "frequencies",
                    "reenlightenment",
                    "ipi",
                    "evmcs",
                    "tlbflush",
                    "synictimer",
                    "spinlocks",
                    "vendorid",
                ] {
                    if self.below(2) == 1 {
                        hyperv[name] = self.switch();
                    }
                }
                if hyperv.get("vendorid").is_some() {
                    hyperv["vendorid"]["vendorid"] = self.word(&["KVMKVMKVM", ""], &["<>&\"'\t\n\u{1}"]);
                }
                features["hyperv"] = hyperv;
            }
            if self.once_in(8) {
                features["hypervPassthrough"] =
                    if self.wild { self.switch() } else { json!({"enabled": self.below(2) == 1}) };
            }
            domain["features"] = features;
        }
        if self.once_in(3) {
            let mut clock = self.pick(&[
                json!({}),
                json!({"utc": {}}),
                json!({"utc": {"offsetSeconds": -3600}}),
                json!({"timezone": "Europe/Berlin"}),
            ]);
            let mut timer = json!({});
            let states = [
                json!({}),
                json!({"present": false}),
                json!({"tickPolicy": "catchup", "track": "guest", "present": true}),
            ];
            self.some(
                &mut timer,
                &[("rtc", &states), ("pit", &states), ("kvm", &states), ("hpet", &states), ("hyperv", &states)],
            );
            clock["timer"] = timer;
            domain["clock"] = clock;
        }
        if self.once_in(3) {
            let mut firmware = json!({"uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223"});
            let loaders = [
                json!({"bios": {"useSerial": true}}),
                json!({"bios": {}}),
                json!({"efi": {}}),
                json!({"efi": {"secureBoot": false}}),
                json!({"efi": {"secureBoot": true, "persistent": true}}),
                json!({}),
            ];
            let kernels = [
                json!({"kernelArgs": "console=ttyS0", "container": {"image": "i", "kernelPath": "/boot/vmlinuz"}}),
                json!({"kernelArgs": "a"}),
                json!({"container": {"image": "i", "kernelPath": "/", "initrdPath": "initrd"}}),
            ];
            self.some(
                &mut firmware,
                &[("bootloader", &loaders), ("kernelBoot", &kernels), ("serial", &[json!("s-1")])],
            );
            if self.wild && self.once_in(6) {
                firmware["acpi"] =
                    self.pick(&[json!({}), json!({"slicNameRef": "d0"}), json!({"msdmNameRef": "none"})]);
            }
            domain["firmware"] = firmware;
        }
        if self.once_in(6) {
            domain["launchSecurity"] = self.pick(&[
                json!({"sev": {}}),
                json!({"sev": {"policy": {"encryptedState": true}, "session": "s", "dhCert": "c"}}),
                json!({"snp": {}}),
                json!({"tdx": {}}),
                json!({}),
                json!({"sev": {}, "snp": {}}),
            ]);
        }
        if self.once_in(4) {
            domain["chassis"] = json!({"manufacturer": "m", "sku": "<&>"});
        }
    }

    fn disks(&mut self, vmi: &mut Value, facts: &mut Value) {
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

    fn interfaces(&mut self, vmi: &mut Value, facts: &mut Value) {
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

    fn host_devices(&mut self, vmi: &mut Value, facts: &mut Value) {
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

    fn small_devices(&mut self, devices: &mut Value) {
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

    fn status(&mut self, status: &mut Value) {
        self.some(
            status,
            &[
                ("runtimeUser", &[json!(107), json!(0)]),
                ("VSOCKCID", &[json!(42), json!(u32::MAX)]),
                ("topologyHints", &[json!({"tscFrequency": 2_600_000_000_i64}), json!({"tscFrequency": -1})]),
            ],
        );
    }
}
