//! VMIs and contexts made of a row of numbers: when the numbers run out, everything else is left out, so that a failing
//! input shrinks to the fields that matter.

mod devices;

use serde_json::{Value, json};

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

    #[allow(clippy::too_many_lines, reason = "a table")]
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
