//! The cases: a VMI that runs, with one or two fields changed.

use serde_json::{Value, json};

use super::paths::set;

/// One VMI.
pub struct Case {
    /// What was changed.
    pub label: String,
    /// The fields that were changed.
    pub paths: Vec<String>,
    pub vmi: Value,
}

/// Facts of a pod in which everything is there.
pub fn facts() -> Value {
    json!({
        "hostArch": "amd64", "allowEmulation": true, "optionsPresent": true, "directIO": {"default": true},
        "ovmf": {"path": "/usr/share/OVMF", "files": ["OVMF_CODE.fd", "OVMF_CODE.secboot.fd", "OVMF_VARS.fd", "OVMF_VARS.secboot.fd"]},
        "links": [{"name": "eth0", "mac": "02:00:00:00:00:01", "mtu": 1500}, {"name": "tap0", "mtu": 1500},
            {"name": "net1", "mac": "02:00:00:00:00:02", "mtu": 1500}, {"name": "net2", "mac": "02:00:00:00:00:03", "mtu": 1500}],
        "interfaceDomainAttachment": {"n0": "tap", "n1": "tap", "n2": "tap"},
        "blockVolumes": ["block"],
        "smbios": {"manufacturer": "KubeVirt", "product": "None", "version": "", "sku": "", "family": "KubeVirt"},
    })
}

/// A VMI that libvirt takes and QEMU starts.
pub fn base() -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "vm", "namespace": "ns", "uid": "u-1", "annotations": {"kubevirt.io/pci-interface-slot-count": "0"}},
        "spec": {
            "architecture": "amd64",
            "domain": {
                "cpu": {"sockets": 1, "cores": 1, "threads": 1},
                "memory": {"guest": "128Mi"},
                "machine": {"type": "q35"},
                "firmware": {"uuid": "5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11"},
                "features": {"acpi": {}},
                "devices": {
                    "disks": [{"name": "d0", "disk": {"bus": "virtio"}}, {"name": "d1", "disk": {"bus": "sata"}}],
                    "interfaces": [{"name": "n0", "masquerade": {}}],
                },
            },
            "networks": [{"name": "n0", "pod": {}}],
            "volumes": [
                {"name": "d0", "emptyDisk": {"capacity": "16Mi"}}, {"name": "d1", "emptyDisk": {"capacity": "16Mi"}},
            ],
        },
        "status": {"runtimeUser": 107},
    })
}

#[derive(Default)]
struct List(Vec<Case>);

impl List {
    /// Each value in the field.
    fn each(&mut self, path: &str, values: impl IntoIterator<Item = Value>) {
        for value in values {
            self.all(&[(path, value)]);
        }
    }

    /// These fields together.
    fn all(&mut self, fields: &[(&str, Value)]) {
        let mut vmi = base();
        let mut label = Vec::new();
        for (path, value) in fields {
            set(&mut vmi, path, value.clone());
            let text = value.to_string();
            let shown: String = text.chars().take(80).collect();
            label.push(format!("{path}={shown}"));
        }
        self.0.push(Case {
            label: label.join(" "),
            paths: fields.iter().map(|(path, _)| (*path).to_owned()).collect(),
            vmi,
        });
    }
}

fn texts(values: &[&str]) -> Vec<Value> {
    values.iter().map(|value| json!(value)).collect()
}

const D: &str = "spec.domain.devices";

pub fn all() -> Vec<Case> {
    let mut list = List::default();
    list.all(&[]);
    disks(&mut list);
    interfaces(&mut list);
    small_devices(&mut list);
    clock(&mut list);
    features(&mut list);
    firmware(&mut list);
    processors(&mut list);
    memory(&mut list);
    if let Ok(only) = std::env::var("ONLY") {
        list.0.retain(|case| only.split('|').any(|only| case.label.contains(only)));
    }
    list.0
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn disks(list: &mut List) {
    let disk = format!("{D}.disks[1]");
    let disk = disk.as_str();
    let field = |name: &str| format!("{disk}.{name}");
    for kind in ["disk", "lun", "cdrom"] {
        for bus in ["virtio", "sata", "scsi", "usb", "ide", "fdc", "sd", "nvme", "", "VIRTIO", "xen"] {
            list.all(&[(disk, json!({"name": "d1", kind: {"bus": bus}}))]);
            if kind == "lun" {
                list.all(&[
                    (disk, json!({"name": "block", kind: {"bus": bus}})),
                    ("spec.volumes[1]", json!({"name": "block", "persistentVolumeClaim": {"claimName": "c"}})),
                ]);
            }
            list.all(&[(disk, json!({"name": "d1", kind: {"bus": bus, "readonly": true}}))]);
            list.all(&[(disk, json!({"name": "d1", kind: {"bus": bus, "readonly": false}}))]);
            list.all(&[(disk, json!({"name": "d1", kind: {"bus": bus}, "bootOrder": 1}))]);
        }
    }
    list.all(&[(disk, json!({"name": "d1"}))]);
    list.all(&[(disk, json!({"name": "d1", "disk": {"bus": "sata"}, "cdrom": {"bus": "sata"}}))]);
    list.all(&[(disk, json!({"name": "d0", "disk": {"bus": "sata"}}))]);
    for tray in ["open", "closed", "", "ajar"] {
        list.all(&[(disk, json!({"name": "d1", "cdrom": {"bus": "sata", "tray": tray}}))]);
    }
    list.all(&[(disk, json!({"name": "none", "cdrom": {"bus": "sata"}}))]);
    list.all(&[(disk, json!({"name": "none", "cdrom": {"bus": "usb"}}))]);
    let caches = ["", "none", "writethrough", "writeback", "directsync", "unsafe", "default", "None", "x"];
    list.each(&field("cache"), texts(&caches));
    for io in ["native", "threads", "io_uring", "default", "", "Native", "x"] {
        for cache in ["", "none", "writethrough", "writeback", "directsync", "unsafe"] {
            list.all(&[(&field("io"), json!(io)), (&field("cache"), json!(cache))]);
        }
    }
    for bus in ["virtio", "sata", "scsi", "usb"] {
        for length in [1, 19, 20, 21, 35, 36, 37, 255, 256, 257, 4096, 200_000] {
            list.all(&[(disk, json!({"name": "d1", "disk": {"bus": bus}, "serial": "s".repeat(length)}))]);
        }
        for serial in [
            "a b", "a,b", "a=b", "a.b", "a+b", "a_b", "a-b", "a'b", "a\"b", "a&b", "a/b", "a:b", "ä", "a\nb", "(a)",
            "a@b", " ", "a\\b", "a[b", "a{b", "#", "*", "!", "~", "%", "$",
        ] {
            list.all(&[(disk, json!({"name": "d1", "disk": {"bus": bus}, "serial": serial}))]);
        }
        for (logical, physical) in [
            (512, 512),
            (512, 4096),
            (4096, 4096),
            (4096, 512),
            (0, 0),
            (512, 0),
            (0, 512),
            (513, 513),
            (256, 256),
            (1024, 512),
            (512, 1536),
            (65536, 65536),
            (1 << 20, 1 << 20),
            (2 << 20, 2 << 20),
            (4 << 20, 4 << 20),
            (1_u64 << 32, 1_u64 << 32),
            (512, 1 << 21),
            (512, 1 << 22),
        ] {
            list.all(&[(disk, json!({"name": "d1", "disk": {"bus": bus}, "blockSize": {"custom": {"logical": logical, "physical": physical}}}))]);
        }
        for granularity in [0_u64, 1, 511, 512, 513, 1024, 4096, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 32, u64::MAX] {
            list.all(&[(disk, json!({"name": "d1", "disk": {"bus": bus}, "blockSize": {"custom": {"logical": 512, "physical": 512, "discardGranularity": granularity}}}))]);
        }
        list.all(&[(disk, json!({"name": "d1", "disk": {"bus": bus}, "shareable": true}))]);
        list.all(&[
            (disk, json!({"name": "block", "disk": {"bus": bus}, "shareable": true})),
            ("spec.volumes[1]", json!({"name": "block", "hostDisk": {"path": "/x/disk.img", "type": "Disk"}})),
        ]);
        list.all(&[(disk, json!({"name": "d1", "disk": {"bus": bus}, "dedicatedIOThread": true}))]);
        for policy in ["stop", "ignore", "report", "enospace", "x"] {
            list.all(&[(disk, json!({"name": "d1", "disk": {"bus": bus}, "errorPolicy": policy}))]);
        }
        list.all(&[(
            disk,
            json!({"name": "d1", "cdrom": {"bus": bus}, "blockSize": {"custom": {"logical": 4096, "physical": 4096}}}),
        )]);
        list.all(&[(disk, json!({"name": "d1", "cdrom": {"bus": bus}, "serial": "a'b"}))]);
        list.all(&[
            (disk, json!({"name": "d1", "disk": {"bus": bus}})),
            (&format!("{D}.blockMultiQueue"), json!(true)),
        ]);
    }
    for order in [0_u64, 1, 2, 255, 65536, (1 << 31) - 2, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, u64::MAX] {
        list.each(&field("bootOrder"), [json!(order)]);
    }
    list.all(&[(&field("bootOrder"), json!(1)), (&format!("{D}.disks[0].bootOrder"), json!(1))]);
    list.all(&[(&field("bootOrder"), json!(1)), (&format!("{D}.interfaces[0].bootOrder"), json!(1))]);
    for address in addresses() {
        list.all(&[(&format!("{D}.disks[0].disk.pciAddress"), json!(address))]);
    }
    list.all(&[
        (disk, json!({"name": "d1", "disk": {"bus": "virtio", "pciAddress": "0000:00:0a.0"}})),
        (&format!("{D}.disks[0].disk.pciAddress"), json!("0000:00:0a.0")),
    ]);
    for name in ["a.b", "a_b", "A", "a b", "a/b", "ä", "", "a,b", "a\"b", "d\t1"] {
        list.all(&[
            (disk, json!({"name": name, "disk": {"bus": "sata"}})),
            ("spec.volumes[1]", json!({"name": name, "emptyDisk": {"capacity": "16Mi"}})),
        ]);
    }
    list.all(&[
        (disk, json!({"name": "n".repeat(100), "disk": {"bus": "sata"}})),
        ("spec.volumes[1]", json!({"name": "n".repeat(100), "emptyDisk": {"capacity": "16Mi"}})),
    ]);
    list.all(&[
        (disk, json!({"name": "n0", "disk": {"bus": "sata"}})),
        ("spec.volumes[1]", json!({"name": "n0", "emptyDisk": {"capacity": "16Mi"}})),
    ]);
    for bus in ["virtio", "sata", "scsi", "usb"] {
        for count in [2, 7, 20, 26, 27, 40, 60, 100, 250, 300] {
            let disks: Vec<Value> =
                (0..count).map(|index| json!({"name": format!("x{index}"), "disk": {"bus": bus}})).collect();
            let volumes: Vec<Value> = (0..count)
                .map(|index| json!({"name": format!("x{index}"), "emptyDisk": {"capacity": "16Mi"}}))
                .collect();
            list.all(&[(&format!("{D}.disks"), json!(disks)), ("spec.volumes", json!(volumes))]);
            let last = list.0.last_mut().unwrap();
            last.label = format!("{count} {bus} disks");
        }
    }
}

fn addresses() -> [&'static str; 20] {
    [
        "0000:00:00.0",
        "0000:00:01.0",
        "0000:00:02.0",
        "0000:00:0a.0",
        "0000:00:0a.1",
        "0000:00:0a.7",
        "0000:00:1b.0",
        "0000:00:1d.0",
        "0000:00:1e.0",
        "0000:00:1f.0",
        "0000:00:1f.2",
        "0000:00:1f.5",
        "0000:00:20.0",
        "0000:01:00.0",
        "0000:01:01.0",
        "0000:01:00.1",
        "0000:81:01.0",
        "0000:81:00.0",
        "0001:00:0a.0",
        "0000:ff:00.0",
    ]
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn interfaces(list: &mut List) {
    let card = format!("{D}.interfaces[0]");
    let field = |name: &str| format!("{card}.{name}");
    list.each(
        &field("model"),
        texts(&[
            "virtio",
            "e1000",
            "e1000e",
            "igb",
            "ne2k_pci",
            "pcnet",
            "rtl8139",
            "",
            "vmxnet3",
            "usb-net",
            "virtio-net",
            "tulip",
            "i82559c",
            "xyz",
            "a b",
            "lan9118",
            "E1000",
            "virtio-transitional",
            "virtio-net-pci",
            "netfront",
            "spapr-vlan",
            "vmxnet2",
            "82540EM",
            "e1000-82545em",
            "rocker",
        ]),
    );
    list.each(
        &field("macAddress"),
        texts(&[
            "02:00:00:00:00:01",
            "02-00-00-00-00-01",
            "0200.0000.0001",
            "00:00:00:00:00:00",
            "01:00:00:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "02:00:00:00:00:00:00:01",
            "x",
            "2:0:0:0:0:1",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f",
            "02:0A:00:00:00:01",
            "fe:00:00:00:00:01",
            "03:00:00:00:00:01",
        ]),
    );
    list.each(&field("state"), texts(&["up", "down", "", "absent", "sideways"]));
    for index in [0_i64, 1, 101, 16_383, 16_384, (1 << 31) - 1, 1 << 31, 1 << 32, i64::MAX, -1] {
        list.each(&field("acpiIndex"), [json!(index)]);
    }
    for order in [0_u64, 1, 65536, (1 << 31) - 1, 1 << 31, 1 << 32, u64::MAX] {
        list.each(&field("bootOrder"), [json!(order)]);
    }
    for address in addresses() {
        list.each(&field("pciAddress"), [json!(address)]);
    }
    let second = |more: Value| {
        let mut card = json!({"name": "n1", "bridge": {}});
        for (key, value) in more.as_object().unwrap() {
            card[key] = value.clone();
        }
        card
    };
    let pairs = [
        (json!({"acpiIndex": 5}), json!({"acpiIndex": 5})),
        (json!({"bootOrder": 5}), json!({"bootOrder": 5})),
        (json!({"macAddress": "02:00:00:00:00:77"}), json!({"macAddress": "02:00:00:00:00:77"})),
        (json!({"pciAddress": "0000:00:0a.0"}), json!({"pciAddress": "0000:00:0a.0"})),
        (json!({"pciAddress": "0000:00:0a.0"}), json!({"pciAddress": "0000:00:0a.1"})),
        (json!({"pciAddress": "0000:01:00.0"}), json!({"pciAddress": "0000:01:00.0"})),
        (json!({"name": "n0"}), json!({"name": "n0"})),
    ];
    for (one, other) in pairs {
        let mut first = json!({"name": "n0", "masquerade": {}});
        for (key, value) in one.as_object().unwrap() {
            first[key] = value.clone();
        }
        list.all(&[
            (&card, first),
            (&format!("{D}.interfaces[1]"), second(other)),
            ("spec.networks[1]", json!({"name": "n1", "multus": {"networkName": "x"}})),
        ]);
    }
    list.all(&[
        (&field("pciAddress"), json!("0000:00:0a.0")),
        (&format!("{D}.disks[0].disk.pciAddress"), json!("0000:00:0a.0")),
    ]);
    list.all(&[(&format!("{D}.networkInterfaceMultiqueue"), json!(true)), ("spec.domain.cpu.cores", json!(4))]);
    list.all(&[(&card, json!({"name": "n0", "slirp": {}})), ("spec.networks[0]", json!({"name": "n0", "pod": {}}))]);
    for name in ["a.b", "a_b", "A", "a b", "", "ä"] {
        list.all(&[
            (&card, json!({"name": name, "masquerade": {}})),
            ("spec.networks[0]", json!({"name": name, "pod": {}})),
        ]);
    }
}

fn small_devices(list: &mut List) {
    let device = |name: &str| format!("{D}.{name}");
    for bus in ["usb", "virtio", "ps2", "", "xen"] {
        for kind in ["tablet", "mouse", "keyboard", ""] {
            list.each(&device("inputs"), [json!([{"name": "i", "type": kind, "bus": bus}])]);
        }
    }
    list.each(
        &device("inputs"),
        [
            json!([{"name": "i", "type": "tablet", "bus": "usb"}, {"name": "j", "type": "tablet", "bus": "usb"}]),
            json!([{"name": "i", "type": "tablet"}, {"name": "i", "type": "tablet"}]),
            json!([{"type": "tablet"}]),
            json!([{"name": "d0", "type": "tablet", "bus": "virtio"}]),
            json!([{"name": "a.b", "type": "tablet"}]),
        ],
    );
    for model in
        ["vga", "cirrus", "vmvga", "virtio", "bochs", "ramfb", "qxl", "none", "gop", "xen", "vbox", "", "VGA", "x"]
    {
        list.each(&device("video.type"), [json!(model)]);
    }
    for action in ["reset", "shutdown", "poweroff", "pause", "none", "dump", "inject-nmi", "", "Reset", "x"] {
        list.each(&device("watchdog"), [json!({"name": "w", "i6300esb": {"action": action}})]);
    }
    list.each(
        &device("watchdog"),
        [
            json!({"name": "d0", "i6300esb": {"action": "reset"}}),
            json!({"i6300esb": {}}),
            json!({"name": "w"}),
            json!({"name": "w", "diag288": {}}),
        ],
    );
    for model in ["ich9", "ac97", "", "sb16", "x"] {
        list.each(&device("sound"), [json!({"name": "s", "model": model})]);
    }
    list.each(&device("sound"), [json!({"name": "d0"}), json!({})]);
    for model in ["isa", "hyperv", "pvpanic", "s390", "pseries", "", "x"] {
        list.each(&device("panicDevices"), [json!([{"model": model}]), json!([{"model": model}, {"model": model}])]);
    }
    list.each(
        &device("panicDevices"),
        [json!([{}]), json!([{}, {}]), json!([{"model": "isa"}, {"model": "hyperv"}, {"model": "pvpanic"}])],
    );
    list.each(&device("tpm"), [json!({}), json!({"persistent": true})]);
    list.each(&device("rng"), [json!({})]);
    list.each(&device("clientPassthrough"), [json!({})]);
    list.each(&device("downwardMetrics"), [json!({})]);
    list.each(&device("autoattachVSOCK"), [json!(true)]);
    list.each(&device("autoattachSerialConsole"), [json!(false)]);
    list.each(&device("autoattachGraphicsDevice"), [json!(false)]);
    list.each(&device("autoattachMemBalloon"), [json!(false)]);
    list.each(&device("useVirtioTransitional"), [json!(true)]);
    list.each(&device("disableHotplug"), [json!(true)]);
    for cid in [0_u32, 1, 2, 3, 100, u32::MAX - 1, u32::MAX] {
        list.each("status.VSOCKCID", [json!(cid)]);
    }
    for name in ["f", "a b", "a,b", "a/b", ""] {
        list.each(&device("filesystems"), [json!([{"name": name, "virtiofs": {}}])]);
    }
    list.each(
        &device("filesystems"),
        [
            json!([{"name": "f".repeat(36), "virtiofs": {}}]),
            json!([{"name": "f".repeat(37), "virtiofs": {}}]),
            json!([{"name": "f", "virtiofs": {}}, {"name": "f", "virtiofs": {}}]),
        ],
    );
    list.each("metadata.name", texts(&["a.b", "a/b", "", "a b", "a\nb"]));
    list.each("metadata.name", [244, 245, 253, 254, 5000].map(|length| json!("n".repeat(length))));
    list.each(
        "metadata.uid",
        [json!(""), json!("x".repeat(70)), json!("x".repeat(80)), json!("x".repeat(200)), json!("a/b")],
    );
}

fn clock(list: &mut List) {
    let clock = "spec.domain.clock";
    for (timer, fields) in [
        ("rtc", &["tickPolicy", "track"][..]),
        ("pit", &["tickPolicy"]),
        ("hpet", &["tickPolicy"]),
        ("kvm", &[]),
        ("hyperv", &[]),
    ] {
        let path = format!("{clock}.timer.{timer}");
        list.each(&path, [json!({}), json!({"present": true}), json!({"present": false})]);
        for field in fields {
            let values: &[&str] = if *field == "track" {
                &["guest", "wall", "boot", "realtime", "x", ""]
            } else {
                &["delay", "catchup", "merge", "discard", "x", "", "Delay"]
            };
            for value in values {
                list.each(&path, [json!({*field: value})]);
                list.each(&path, [json!({*field: value, "present": false})]);
            }
        }
    }
    list.each(
        &format!("{clock}.timezone"),
        texts(&["Europe/Berlin", "UTC", "", "Nowhere/City", "a b", "America/New_York"]),
    );
    for seconds in [
        0_i64,
        1,
        -1,
        3600,
        86_400 * 365 * 100,
        1 << 31,
        1 << 40,
        1 << 53,
        1_i64 << 60,
        i64::MAX,
        i64::MIN,
        -(1_i64 << 40),
    ] {
        list.each(&format!("{clock}.utc.offsetSeconds"), [json!(seconds)]);
    }
    list.each(&format!("{clock}.utc"), [json!({})]);
    list.each(clock, [json!({}), json!({"timer": {}}), json!({"utc": {}, "timezone": "Europe/Berlin"})]);
}

fn features(list: &mut List) {
    let features = "spec.domain.features";
    let hyperv = format!("{features}.hyperv");
    for name in [
        "relaxed",
        "vapic",
        "vpindex",
        "runtime",
        "synic",
        "synictimer",
        "reset",
        "frequencies",
        "reenlightenment",
        "tlbflush",
        "ipi",
        "evmcs",
        "spinlocks",
    ] {
        list.each(&hyperv, [json!({name: {}}), json!({name: {"enabled": false}})]);
        list.each(&hyperv, [json!({name: {}, "vpindex": {}, "synic": {}, "vapic": {}})]);
    }
    for count in [0_u32, 1, 4094, 4095, 4096, 8191, i32::MAX as u32, (i32::MAX as u32) + 1, u32::MAX - 1, u32::MAX] {
        list.each(&hyperv, [json!({"spinlocks": {"spinlocks": count}})]);
        list.each(&hyperv, [json!({"spinlocks": {"enabled": false, "spinlocks": count}})]);
    }
    for id in ["KVMKVMKVM", "123456789012", "1234567890123", "", "a,b", "a b", "ä", "äöüäöü", "äöüäöüä", "a\"b", "a=b"]
    {
        list.each(
            &hyperv,
            [json!({"vendorid": {"vendorid": id}}), json!({"vendorid": {"enabled": false, "vendorid": id}})],
        );
    }
    list.each(
        &hyperv,
        [
            json!({}),
            json!({"synictimer": {"direct": {}}, "vpindex": {}, "synic": {}}),
            json!({"tlbflush": {"direct": {}, "extended": {}}, "vpindex": {}}),
        ],
    );
    list.each(&format!("{features}.hypervPassthrough"), [json!({"enabled": true}), json!({"enabled": false})]);
    list.each(
        features,
        [
            json!({}),
            json!({"acpi": {"enabled": false}}),
            json!({"acpi": {"enabled": false}, "apic": {}}),
            json!({"acpi": {}, "apic": {"enabled": false}}),
            json!({"smm": {}}),
            json!({"smm": {"enabled": false}}),
            json!({"kvm": {"hidden": true}}),
            json!({"kvm": {}}),
            json!({"pvspinlock": {}}),
            json!({"pvspinlock": {"enabled": false}}),
        ],
    );
    for machine in ["pc", "pc-i440fx-9.0"] {
        list.all(&[("spec.domain.machine.type", json!(machine)), (features, json!({"smm": {}, "acpi": {}}))]);
    }
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn firmware(list: &mut List) {
    let firmware = "spec.domain.firmware";
    list.each(
        &format!("{firmware}.uuid"),
        texts(&[
            "",
            "x",
            "5a9c1f0e7d0b4a539c5e0f4d9f6b2a11",
            "5A9C1F0E-7D0B-4A53-9C5E-0F4D9F6B2A11",
            "00000000-0000-0000-0000-000000000000",
            "5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a1",
            "5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a111",
            "5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a1g",
            "{5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11}",
            " 5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11",
            "11111111-1111-1111-1111-111111111111",
            "5a9c-1f0e-7d0b-4a53-9c5e-0f4d-9f6b-2a11",
        ]),
    );
    for text in ["a", "a,b", "a=b", "a b", "ä", "a\nb", "a\tb", "\"", "'", "<&>", " ", ",", ",,"] {
        list.each(&format!("{firmware}.serial"), [json!(text)]);
        for field in ["manufacturer", "version", "serial", "asset", "sku"] {
            list.each(&format!("spec.domain.chassis.{field}"), [json!(text)]);
        }
    }
    for length in [255, 256, 1024, 65_000, 100_000, 131_000, 131_072, 1 << 20] {
        list.each(&format!("{firmware}.serial"), [json!("x".repeat(length))]);
        list.each("spec.domain.chassis.asset", [json!("x".repeat(length))]);
        list.each("spec.domain.chassis.asset", [json!(",".repeat(length))]);
        list.each(
            &format!("{firmware}.kernelBoot"),
            [json!({"kernelArgs": "x".repeat(length), "container": {"image": "i", "kernelPath": "/boot/vmlinuz"}})],
        );
    }
    list.each(
        &format!("{firmware}.bootloader"),
        [
            json!({"bios": {}}),
            json!({"bios": {"useSerial": true}}),
            json!({"efi": {"secureBoot": false}}),
            json!({"efi": {"secureBoot": true}}),
            json!({"efi": {}}),
            json!({"efi": {"secureBoot": false}, "bios": {"useSerial": true}}),
            json!({"efi": {"secureBoot": false, "persistent": true}}),
            json!({}),
        ],
    );
    list.all(&[
        (&format!("{firmware}.bootloader"), json!({"bios": {"useSerial": true}})),
        (&format!("{D}.autoattachSerialConsole"), json!(false)),
    ]);
    for features in [
        json!({}),
        json!({"acpi": {"enabled": false}}),
        json!({"acpi": {}, "smm": {}}),
        json!({"acpi": {}, "smm": {"enabled": false}}),
        json!({"smm": {}}),
    ] {
        for secure in [true, false] {
            list.all(&[
                (&format!("{firmware}.bootloader"), json!({"efi": {"secureBoot": secure}})),
                ("spec.domain.features", features.clone()),
            ]);
            list.all(&[
                (&format!("{firmware}.bootloader"), json!({"efi": {"secureBoot": secure}})),
                ("spec.domain.features", features.clone()),
                ("spec.domain.machine.type", json!("pc")),
            ]);
        }
    }
    list.each(
        &format!("{firmware}.kernelBoot"),
        [
            json!({"kernelArgs": "a"}),
            json!({}),
            json!({"container": {"image": "i", "initrdPath": "/initrd"}}),
            json!({"container": {"image": "i"}}),
            json!({"kernelArgs": "a", "container": {"image": "i", "initrdPath": "/initrd"}}),
            json!({"kernelArgs": "a,b=\"c\" 'd' é", "container": {"image": "i", "kernelPath": "/boot/vmlinuz"}}),
        ],
    );
    list.each(
        "spec.domain.machine.type",
        texts(&[
            "q35",
            "pc",
            "pc-q35-10.0",
            "pc-q35-9.0",
            "pc-q35-8.0",
            "pc-q35-2.4",
            "pc-i440fx-9.0",
            "pc-i440fx-2.4",
            "pc-q35-99.0",
            "virt",
            "s390-ccw-virtio",
            "microvm",
            "isapc",
            "none",
            "x-remote",
            "",
            "Q35",
            "x",
            "pc-q35-rhel9.2.0",
            "virt-9.0",
            "pseries",
        ]),
    );
    for kind in ["sev", "snp", "tdx"] {
        list.each("spec.domain.launchSecurity", [json!({kind: {}})]);
        list.all(&[
            ("spec.domain.launchSecurity", json!({kind: {}})),
            (&format!("{firmware}.bootloader"), json!({"efi": {"secureBoot": false}})),
        ]);
    }
    list.each("spec.domain.launchSecurity", [json!({}), json!({"sev": {}, "tdx": {}})]);
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn processors(list: &mut List) {
    let cpu = "spec.domain.cpu";
    list.each(
        &format!("{cpu}.model"),
        texts(&[
            "host-model",
            "host-passthrough",
            "Haswell",
            "Skylake-Server",
            "EPYC",
            "qemu64",
            "max",
            "",
            "x",
            "haswell",
            "a b",
            "a,b",
            "cortex-a57",
            "kvm64",
            "Nehalem-IBRS",
            "EPYC-Turin",
            "maximum",
        ]),
    );
    for model in ["", "host-model", "host-passthrough", "Haswell"] {
        for policy in ["force", "require", "optional", "disable", "forbid", "", "Require", "x"] {
            list.all(&[
                (&format!("{cpu}.model"), json!(model)),
                (&format!("{cpu}.features"), json!([{"name": "aes", "policy": policy}])),
            ]);
        }
        for name in ["aes", "nonsense", "", "a b", "a,b", "mpx", "vmx", "invtsc"] {
            list.all(&[(&format!("{cpu}.model"), json!(model)), (&format!("{cpu}.features"), json!([{"name": name}]))]);
        }
        list.all(&[
            (&format!("{cpu}.model"), json!(model)),
            (&format!("{cpu}.features"), json!([{"name": "aes"}, {"name": "aes"}])),
        ]);
        list.all(&[
            (&format!("{cpu}.model"), json!(model)),
            (&format!("{cpu}.features"), json!([{"name": "aes"}, {"name": "aes", "policy": "disable"}])),
        ]);
    }
    for (sockets, cores, threads) in [
        (0, 0, 0),
        (1, 1, 2),
        (2, 2, 2),
        (3, 1, 1),
        (255, 1, 1),
        (256, 1, 1),
        (288, 1, 1),
        (289, 1, 1),
        (1, 1024, 1),
        (1025, 1, 1),
        (4096, 1, 1),
        (4097, 1, 1),
        (1, 256, 1),
        (1, 1, 255),
        (1, 1, 256),
    ] {
        list.each(cpu, [json!({"sockets": sockets, "cores": cores, "threads": threads})]);
        list.all(&[
            (cpu, json!({"sockets": sockets, "cores": cores, "threads": threads})),
            ("spec.domain.machine.type", json!("pc")),
        ]);
        list.all(&[
            (cpu, json!({"sockets": sockets, "cores": cores, "threads": threads})),
            ("spec.domain.machine.type", json!("pc-q35-8.0")),
        ]);
    }
    for machine in ["pc-q35-8.0", "pc-q35-8.1", "pc-i440fx-8.0", "pc-i440fx-9.0"] {
        for cores in [254, 255] {
            list.all(&[
                (cpu, json!({"sockets": 1, "cores": cores, "threads": 1})),
                ("spec.domain.machine.type", json!(machine)),
            ]);
        }
    }
    for (sockets, most) in [(1, 1), (1, 2), (2, 1), (2, 0), (1, 255), (1, 256), (1, 4096), (1, 4097), (5, 4)] {
        list.each(cpu, [json!({"sockets": sockets, "cores": 1, "threads": 1, "maxSockets": most})]);
        list.each(cpu, [json!({"sockets": sockets, "cores": 2, "threads": 1, "maxSockets": most})]);
    }
    for cpus in ["0", "1", "1500m", "-1", "100m", "1000", "5000"] {
        list.all(&[(cpu, Value::Null), ("spec.domain.resources.requests.cpu", json!(cpus))]);
    }
    for policy in ["shared", "auto", "supplementalPool", "x", ""] {
        list.all(&[
            ("spec.domain.ioThreadsPolicy", json!(policy)),
            ("spec.domain.ioThreads.supplementalPoolThreadCount", json!(2)),
        ]);
    }
    for count in [0_u32, 1, 64, 512, 1024, 4096, 4097] {
        list.all(&[
            ("spec.domain.ioThreadsPolicy", json!("supplementalPool")),
            ("spec.domain.ioThreads.supplementalPoolThreadCount", json!(count)),
        ]);
    }
    for policy in ["Terminate", "Reboot", "x", ""] {
        list.each("spec.domain.rebootPolicy", [json!(policy)]);
    }
    list.each("spec.startStrategy", texts(&["Paused", "x"]));
}

fn memory(list: &mut List) {
    let memory = "spec.domain.memory";
    for size in [
        "1",
        "1023",
        "1Ki",
        "64Ki",
        "512Ki",
        "1Mi",
        "1500Ki",
        "2Mi",
        "64Mi",
        "100M",
        "1Gi",
        "8Gi",
        "1Ti",
        "2Ti",
        "4Ti",
        "64Ti",
        "127Ti",
        "128Ti",
        "129Ti",
        "4Pi",
        "5Pi",
        "1Ei",
        "8Ei",
        "9Ei",
        "-1Gi",
        "0",
        "9223372036854775807",
        "1500m",
    ] {
        list.each(&format!("{memory}.guest"), [json!(size)]);
    }
    for (guest, most) in [
        ("1Gi", "1Gi"),
        ("1Gi", "4Gi"),
        ("1Gi", "512Mi"),
        ("1Gi", "1500M"),
        ("1Gi", "64Ti"),
        ("1Gi", "128Ti"),
        ("1Gi", "4Pi"),
        ("1Gi", "8Ei"),
        ("1000M", "4Gi"),
        ("128Mi", "4Gi"),
        ("1Gi", "-1"),
        ("1Gi", "0"),
        ("1Gi", "1Ti"),
        ("1Gi", "2Ti"),
        ("100000001", "1Gi"),
    ] {
        list.each(memory, [json!({"guest": guest, "maxGuest": most})]);
    }
    for page in ["2Mi", "1Gi", "4Ki", "3Mi", "0", "-2Mi", "x", "", "1"] {
        list.each(memory, [json!({"guest": "128Mi", "hugepages": {"pageSize": page}})]);
    }
    list.each(memory, [json!({}), json!({"maxGuest": "1Gi"}), Value::Null]);
}
