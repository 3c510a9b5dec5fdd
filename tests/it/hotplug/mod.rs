//! Later syncs on the real image: disks, CD-ROMs, interfaces, vCPUs and memory of a guest that runs, seen from inside it.

mod identity;

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use crate::support::console::Console;
use crate::support::pod::{Pod, Setup, demo_vmi, image, text};
use crate::support::processes::{owner, send};
use crate::support::virt_handler::{NotifyPipe, Received};
use crate::support::{expect, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Between a request to the guest and what it makes of it.
const SEEN: Duration = Duration::from_secs(60);
/// Until the guest has taken memory or given it back: Linux tries a block of virtio-mem that was in use again after 5 s, doubled
/// up to 5 minutes.
const BY_THE_GUEST: Duration = Duration::from_secs(330);
/// For what the launcher does itself: an order from its arrival to its answer, and word of what libvirt has. A busy machine
/// takes some hundred milliseconds of it.
const BY_THE_LAUNCHER: Duration = Duration::from_secs(5);
const MIB: u64 = 1 << 20;

/// The demo's VMI, whose console is quiet. Emulated on a busy machine, the timer is late for the kernel's check of it, and it
/// panics. Memory that is plugged holds only what can be moved away again; one page of the kernel's own would keep a block
/// for ever.
fn vmi() -> Value {
    let mut vmi: Value = serde_norway::from_str(&demo_vmi()).unwrap();
    let boot = vmi.pointer_mut("/spec/domain/firmware/kernelBoot/kernelArgs").unwrap();
    *boot = json!("console=ttyS0 quiet no_timer_check memhp_default_state=online_movable");
    vmi
}

fn list<'a>(vmi: &'a mut Value, pointer: &str) -> &'a mut Vec<Value> {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = vmi.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    parent.entry(key).or_insert_with(|| json!([])).as_array_mut().unwrap()
}

/// As virt-handler sends it once the guest runs.
fn running(mut vmi: Value) -> Value {
    vmi["status"]["phase"] = json!("Running");
    vmi
}

/// The VMI with one more volume that was added while it runs, on a disk that is there or not.
fn with_volume(mut vmi: Value, name: &str, capacity: &str, disk: Option<Value>) -> Value {
    if let Some(disk) = disk {
        list(&mut vmi, "/spec/domain/devices/disks").push(disk);
    }
    let claim = json!({"name": name, "persistentVolumeClaim": {"claimName": name, "hotpluggable": true}});
    list(&mut vmi, "/spec/volumes").push(claim);
    list(&mut vmi, "/status/volumeStatus").push(json!({
        "name": name, "target": "", "phase": "Ready", "hotplugVolume": {"attachPodName": "hp-volume"},
        "persistentVolumeClaimInfo": {
            "capacity": {"storage": capacity}, "requests": {"storage": capacity}, "filesystemOverhead": "0",
        },
    }));
    vmi
}

fn succeeded(output: &Output, pod: &Pod) {
    assert!(output.status.success(), "{}\n{}", text(output), pod.log());
}

fn sync(pod: &Pod, vmi: &Value) {
    succeeded(&pod.sync(&vmi.to_string()), pod);
}

/// A VM that runs, and its guest's shell.
fn boot(pod: &Pod, vmi: &Value) -> Console {
    pod.wait_ready();
    pod.provide_disks();
    sync(pod, vmi);
    pod.console()
}

/// Where virt-handler mounts a volume that is hot-plugged.
fn hotplugged(pod: &Pod, volume: &str) -> PathBuf {
    let folder = pod.volume("public").join("hotplug-disks");
    fs::create_dir_all(&folder).unwrap();
    folder.join(format!("{volume}.img"))
}

/// A file system that virt-handler has mounted for a volume.
fn provide(pod: &Pod, volume: &str, content: &str, bytes: u64) {
    let path = hotplugged(pod, volume);
    fs::write(&path, content).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(bytes).unwrap();
    chown(&path, Some(107), Some(107)).unwrap();
}

fn domain(pod: &Pod) -> Value {
    serde_json::from_slice(&pod.ctl(&["-o", "json", "get-domain"]).stdout).unwrap_or_default()
}

fn wait_gone(pod: &Pod, command: &str, what: &str) {
    wait_for("end of a device", SEEN, || {
        let devices = pod.virsh(&[command, "default_demo"]);
        expect(!devices.contains(what), devices)
    });
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn volumes_come_grow_and_go() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    let mut base = vmi();
    list(&mut base, "/spec/domain/devices/disks").push(json!({"name": "tray", "cdrom": {"bus": "sata"}}));
    let mut guest = boot(&pod, &base);
    let base = running(base);

    // A volume that virt-handler has not mounted yet waits for a later sync.
    let disk = json!({"name": "late", "serial": "Late-1", "disk": {"bus": "virtio"}});
    let with_disk = |capacity: &str| with_volume(base.clone(), "late", capacity, Some(disk.clone()));
    sync(&pod, &with_disk("64Mi"));
    assert!(!pod.virsh(&["domblklist", "default_demo"]).contains("late.img"));
    provide(&pod, "late", "words of the volume\n", 64 * MIB);
    sync(&pod, &with_disk("64Mi"));
    let name = guest.wait("grep -lx Late-1 /sys/block/vd*/serial");
    let name = name.split('/').nth(3).unwrap();
    assert_eq!(guest.run(&format!("head -n 1 /dev/{name}")), "words of the volume");
    guest.run(&format!("echo words of the guest >/dev/{name} && sync"));
    assert!(fs::read_to_string(hotplugged(&pod, "late")).unwrap().starts_with("words of the guest"));
    sync(&pod, &with_disk("64Mi"));

    // The claim grows, and so does the guest's disk, though another launcher knew its size.
    assert_eq!(guest.run(&format!("cat /sys/block/{name}/size")), (64 * MIB / 512).to_string());
    pod.replace_launcher();
    sync(&pod, &with_disk("96Mi"));
    guest.wait(&format!("[ $(cat /sys/block/{name}/size) = {} ]", 96 * MIB / 512));

    // A CD-ROM is put into a drive that was there, and taken out.
    provide(&pod, "tray", "words of the CD-ROM\n", MIB);
    let full = with_volume(base.clone(), "tray", "1Mi", None);
    let both = with_volume(full.clone(), "late", "96Mi", Some(disk.clone()));
    sync(&pod, &both);
    assert_eq!(guest.wait("head -n 1 /dev/sr0 2>/dev/null").lines().last(), Some("words of the CD-ROM"));
    sync(&pod, &with_disk("96Mi"));
    guest.wait("! head -c 1 /dev/sr0 2>/dev/null");
    assert!(!pod.virsh(&["domblklist", "default_demo"]).contains("tray.img"));

    // A guest that does not let go is asked again by every sync, until it does.
    succeeded(&pod.ctl(&["pause"]), &pod);
    for _ in 0..2 {
        sync(&pod, &base);
        assert!(pod.virsh(&["domblklist", "default_demo"]).contains("late.img"), "a paused guest lets go of nothing");
    }
    succeeded(&pod.ctl(&["unpause"]), &pod);
    wait_gone(&pod, "domblklist", "late.img");
    guest.wait(&format!("[ ! -e /sys/block/{name} ]"));
    sync(&pod, &base);
}

/// As virt-handler does: again until it works.
fn sync_until_it_works(pod: &Pod, vmi: &Value) {
    wait_for("sync", SEEN * 2, || {
        let synced = pod.sync(&vmi.to_string());
        expect(synced.status.success(), text(&synced))
    });
}

/// Kills the launcher at some moment of a sync, and repeats the sync under its successor.
fn killed_while_syncing(pod: &Pod, vmi: &Value, after: Duration) {
    std::thread::scope(|scope| {
        // Fails with its launcher, unless it was quicker.
        scope.spawn(|| pod.sync(&vmi.to_string()));
        std::thread::sleep(after);
        send(owner(pod), Signal::SIGKILL);
    });
    sync_until_it_works(pod, vmi);
}

/// A running guest, its VMI, and the same with a disk more, which has been provided.
fn boot_with_late_disk(pod: &Pod) -> (Console, Value, Value) {
    let base = vmi();
    let guest = boot(pod, &base);
    let base = running(base);
    let disk = json!({"name": "late", "serial": "Late-1", "disk": {"bus": "virtio"}});
    provide(pod, "late", "words of the volume\n", MIB);
    let with_disk = with_volume(base.clone(), "late", "1Mi", Some(disk));
    (guest, base, with_disk)
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn hot_plug_whose_launcher_is_killed_is_completed_by_the_next() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    let (mut guest, base, with_disk) = boot_with_late_disk(&pod);
    for after in [5, 50, 150].map(Duration::from_millis) {
        killed_while_syncing(&pod, &with_disk, after);
        let disks = pod.virsh(&["domblklist", "default_demo"]);
        assert_eq!(disks.matches("late.img").count(), 1, "{disks}");
        guest.wait("grep -lx Late-1 /sys/block/vd*/serial");
        assert_eq!(guest.run("grep -lx Late-1 /sys/block/vd*/serial | wc -l"), "1");
        killed_while_syncing(&pod, &base, after);
        wait_gone(&pod, "domblklist", "late.img");
        guest.wait("! grep -qx Late-1 /sys/block/vd*/serial");
    }
}

/// A libvirt daemon that is killed after QEMU has taken a disk and before it has written that down knows nothing of it.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn disk_that_libvirt_has_forgotten_is_plugged_anew() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    let (mut guest, base, with_disk) = boot_with_late_disk(&pod);
    // Where libvirt puts it, so that QEMU can have it at the same place.
    sync(&pod, &with_disk);
    let xml = pod.virsh(&["dumpxml", "default_demo"]);
    let (_, after) = xml.split_once("<alias name='ua-late'/>").unwrap();
    let (_, after) = after.split_once("bus='0x").unwrap();
    let bus = u32::from_str_radix(after.split_once('\'').unwrap().0, 16).unwrap();
    sync(&pod, &base);
    wait_gone(&pod, "domblklist", "late.img");
    guest.wait("! grep -qx Late-1 /sys/block/vd*/serial");

    let qemu = |command: Value| {
        let answer = pod.virsh(&["qemu-monitor-command", "default_demo", &command.to_string()]);
        assert!(answer.contains("\"return\""), "{command}: {answer}");
        answer
    };
    let file = "/var/run/kubevirt/hotplug-disks/late.img";
    qemu(
        json!({"execute": "blockdev-add", "arguments": {"driver": "file", "filename": file, "node-name": "forgotten"}}),
    );
    let device = json!({"driver": "virtio-blk-pci", "id": "ua-late", "drive": "forgotten", "serial": "Old-1",
                        "bus": format!("pci.{bus}")});
    qemu(json!({"execute": "device_add", "arguments": device}));
    guest.wait("grep -lx Old-1 /sys/block/vd*/serial");

    sync_until_it_works(&pod, &with_disk);
    guest.wait("grep -lx Late-1 /sys/block/vd*/serial");
    assert_eq!(guest.run("grep -lx Old-1 /sys/block/vd*/serial | wc -l"), "0");
    let nodes = qemu(json!({"execute": "query-named-block-nodes", "arguments": {"flat": true}}));
    assert!(!nodes.contains("forgotten"), "{nodes}");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
#[allow(clippy::too_many_lines, reason = "one VM, one story")]
fn interfaces_cpus_and_memory_come_and_go() {
    /// Of the network `blue`: the first digits of its name's SHA-256.
    const HASH: &str = "16477688c0e";
    const MAC: &str = "02:00:00:00:be:ef";
    let image = image();
    let podinfo = tempfile::tempdir().unwrap();
    fs::write(podinfo.path().join("network-info"), NETWORK_INFO).unwrap();
    let setup = Setup::new(&image, "demo").podman(&["--device", "/dev/net/tun"]);
    let pod = setup.mount(podinfo.path(), "/etc/podinfo").start();
    let mut base = vmi();
    base["spec"]["domain"]["cpu"] = json!({"cores": 1, "sockets": 1, "threads": 1, "maxSockets": 2});
    base["spec"]["domain"]["memory"] = json!({"guest": "256Mi", "maxGuest": "1Gi"});
    base["status"]["memory"] = json!({"guestAtBoot": "256Mi", "guestCurrent": "256Mi", "guestRequested": "256Mi"});
    let mut guest = boot(&pod, &base);
    let base = running(base);
    let without = guest.run("echo /sys/class/net/*");

    // What virt-handler and the CNI plugin make in the pod; a tap can stand for any link.
    for link in [format!("pod{HASH}"), format!("tap{HASH}")] {
        pod.in_network(&["ip", "tuntap", "add", "mode", "tap", "user", "107", "name", &link]);
        pod.in_network(&["ip", "link", "set", &link, "mtu", "1400", "up"]);
    }
    pod.give_device("/dev/net/tun");
    let options = pod.volume("public").join("options.json");
    fs::write(&options, r#"{"interfaceDomainAttachment":{"blue":"tap"}}"#).unwrap();
    let sync = |vmi: &Value| {
        let words = ["sync", "--options", options.to_str().unwrap()];
        succeeded(&pod.ctl_with(&words, &vmi.to_string()), &pod);
    };
    let with_state = |state: &str| {
        let mut vmi = base.clone();
        list(&mut vmi, "/spec/domain/devices/interfaces")
            .push(json!({"name": "blue", "bridge": {}, "macAddress": MAC, "state": state}));
        list(&mut vmi, "/spec/networks").push(json!({"name": "blue", "multus": {"networkName": "blue"}}));
        list(&mut vmi, "/status/interfaces").push(json!({"name": "blue", "infoSource": "multus-status"}));
        vmi
    };
    // What a libvirt daemon leaves that is killed while it plugs the NIC: the back end of one that it knows nothing of.
    let back_end = json!({"execute": "netdev_add", "arguments": {"type": "hubport", "id": "hostua-blue", "hubid": 0}});
    pod.virsh(&["qemu-monitor-command", "default_demo", &back_end.to_string()]);
    sync(&with_state(""));
    assert!(pod.log().contains("has a device ua-blue that libvirt has forgotten"), "it was not in the way");
    let name = guest.wait(&format!("grep -l {MAC} /sys/class/net/*/address"));
    let name = name.split('/').nth(4).unwrap();
    guest.run(&format!("ip link set {name} up"));
    assert_eq!(guest.run(&format!("cat /sys/class/net/{name}/mtu")), "1400");
    for (state, carrier) in [("down", 0), ("up", 1)] {
        sync(&with_state(state));
        guest.wait(&format!("[ $(cat /sys/class/net/{name}/carrier) = {carrier} ]"));
    }
    sync(&with_state("absent"));
    guest.wait(&format!("[ ! -e /sys/class/net/{name} ]"));
    wait_gone(&pod, "domiflist", MAC);
    assert_eq!(guest.run("echo /sys/class/net/*"), without);
    host_devices(&pod, &base);

    // A vCPU. In emulation the guest's Linux 6.12 leaves no room for one at boot ("Allowing 1 present CPUs plus 0 hotplug
    // CPUs"), whether it comes in a socket of its own or as a core, with AMD's and Intel's models, on q35 and pc. So it can
    // only tell that it was offered one; with KVM it takes it.
    succeeded(&pod.ctl_with(&["sync-cpus"], &with_sockets(&base, 2).to_string()), &pod);
    guest.wait("[ -e /sys/devices/system/cpu/cpu1 ] || dmesg | grep 'Unable to map lapic to logical cpu'");
    assert_eq!(domain(&pod).pointer("/Spec/VCPU/CPUs"), Some(&json!(2)));
    let refused = pod.ctl_with(&["sync-cpus"], &with_sockets(&base, 3).to_string());
    assert!(!refused.status.success());
    let said = text(&refused);
    let why = "3 vCPUs are more than the 2 that the VM was started with";
    assert!(said.contains(&format!("failed to update vCPUs: spec.domain.cpu: {why}")), "{said}");
    for (guest, why) in [
        ("257Mi", "1048576 bytes more than at boot are not a multiple of 2097152"),
        ("2Gi", "more than the 805306368 that can be plugged"),
        ("8Ei", "more than any guest can have"),
    ] {
        let mut vmi = base.clone();
        vmi["spec"]["domain"]["memory"]["guest"] = json!(guest);
        let said = text(&pod.ctl_with(&["sync-memory"], &vmi.to_string()));
        assert!(said.contains("failed to update Guest Memory: spec.domain.memory.guest: "), "{said}");
        assert!(said.contains(why), "{said}");
    }

    memory(&pod, &base, &mut guest);
}

/// A virtual function that no machine has.
const NETWORK_INFO: &str = r#"{"interfaces": [{"network": "red",
    "deviceInfo": {"type": "pci", "version": "1.0.0", "pci": {"pci-address": "00ff:ff:1f.7"}}}]}"#;

/// Virtual functions: none to plug, and one that libvirt refuses, on most machines because they have no VFIO.
fn host_devices(pod: &Pod, base: &Value) {
    let plug = |vmi: &Value| pod.ctl_with(&["hotplug-host-devices"], &vmi.to_string());
    succeeded(&plug(base), pod);
    let mut vmi = base.clone();
    list(&mut vmi, "/spec/domain/devices/interfaces").push(json!({"name": "red", "sriov": {}}));
    list(&mut vmi, "/spec/networks").push(json!({"name": "red", "multus": {"networkName": "red"}}));
    list(&mut vmi, "/status/interfaces").push(json!({"name": "red", "infoSource": "multus-status"}));
    let refused = plug(&vmi);
    let said = text(&refused);
    let field = "spec.domain.devices.interfaces[";
    assert!(!refused.status.success() && said.contains(field) && said.contains("virError(Code="), "{said}");
}

/// Memory, which the guest takes in its own time, and gives back. Whatever the guest does, the launcher has libvirt ask it and
/// says so at once, and says as soon what libvirt has heard of it.
fn memory(pod: &Pod, base: &Value, guest: &mut Console) {
    let pipe = NotifyPipe::present(&pod.volume("public"));
    let total = |guest: &mut Console| -> u64 {
        guest.run("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").parse().unwrap()
    };
    let before = total(guest);
    let ask = |mib: u64| {
        let mut vmi = base.clone();
        vmi["spec"]["domain"]["memory"]["guest"] = json!(format!("{mib}Mi"));
        let begun = Instant::now();
        succeeded(&pod.ctl_with(&["sync-memory"], &vmi.to_string()), pod);
        assert!(begun.elapsed() < BY_THE_LAUNCHER, "the order took {:?}", begun.elapsed());
        // What libvirt has of it is shown with the answer.
        let requested = json!((mib - 256) << 10);
        assert_eq!(domain(pod).pointer("/Spec/Devices/Memory/Target/Requested/Value"), Some(&requested));
        told(&pipe, "what the guest is asked for", "/Spec/Devices/Memory/Target/Requested/Value", &requested);
    };
    let taken = |mib: u64| {
        let current = format!("<currentMemory unit='KiB'>{}</currentMemory>", mib << 10);
        wait_for("the guest", BY_THE_GUEST, || {
            let xml = pod.virsh(&["dumpxml", "default_demo"]);
            expect(xml.contains(&current), xml)
        });
        let value = json!(mib << 10);
        wait_for("GetDomain", BY_THE_LAUNCHER, || {
            let shown = domain(pod).pointer("/Spec/CurrentMemory/Value").cloned();
            expect(shown.as_ref() == Some(&value), shown)
        });
        told(&pipe, "what the guest has", "/Spec/CurrentMemory/Value", &value);
    };
    ask(512);
    taken(512);
    assert!(total(guest) > before + (200 << 10), "{before} kB before");
    ask(512);
    ask(256);
    taken(256);
    assert!(total(guest) < before + (8 << 10), "{before} kB before");
}

/// Waits until the last that virt-handler was told has the value.
fn told(pipe: &NotifyPipe, what: &str, pointer: &str, value: &Value) {
    wait_for(&format!("word of {what}"), BY_THE_LAUNCHER, || {
        let last = pipe.received().into_iter().rev().find_map(|event| match event {
            Received::Domain { domain, .. } => Some(domain),
            Received::K8s(_) => None,
        });
        let told = last.and_then(|domain| domain.pointer(pointer).cloned());
        expect(told.as_ref() == Some(value), told)
    });
}

fn with_sockets(vmi: &Value, sockets: u32) -> Value {
    let mut vmi = vmi.clone();
    vmi["spec"]["domain"]["cpu"]["sockets"] = json!(sockets);
    vmi
}
