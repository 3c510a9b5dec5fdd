//! What stays attached is what the VMI still wants, whatever names a conversion would give it by now.

use sha2::{Digest, Sha256};

use virt_launcher::domain::{Disk, DomainSpec, Interface};

use super::*;

/// A disk that is plugged while the VM runs.
fn volume(name: &str, bus: &str) -> (Value, Value) {
    let disk = json!({"name": name, "serial": format!("serial-{name}"), "disk": {"bus": bus}});
    (disk, json!({"name": name, "persistentVolumeClaim": {"claimName": name, "hotpluggable": true}}))
}

/// The VMI with these volumes, by name, bus and the target that its status has for it (empty before virt-handler knows it).
fn with_volumes(base: &Value, volumes: &[(&str, &str, &str)]) -> Value {
    let mut vmi = base.clone();
    for (name, bus, target) in volumes {
        let (disk, claim) = volume(name, bus);
        list(&mut vmi, "/spec/domain/devices/disks").push(disk);
        list(&mut vmi, "/spec/volumes").push(claim);
        list(&mut vmi, "/status/volumeStatus")
            .push(json!({"name": name, "target": target, "phase": "Ready", "hotplugVolume": {}}));
    }
    vmi
}

/// The domain's disks and interfaces. The guest opens trays when it likes.
fn devices(pod: &Pod) -> (Vec<Disk>, Vec<Interface>) {
    let mut devices = DomainSpec::from_xml(&pod.virsh(&["dumpxml", "default_demo"])).unwrap().devices;
    devices.disks.iter_mut().for_each(|disk| disk.target.tray.clear());
    (devices.disks, devices.interfaces)
}

/// Alias and target of the domain's disks, in libvirt's order.
fn disks(pod: &Pod) -> Vec<(String, String)> {
    let alias = |disk: &Disk| disk.alias.as_ref().unwrap().name.clone();
    devices(pod).0.iter().map(|disk| (alias(disk), disk.target.device.clone())).collect()
}

fn target(pod: &Pod, volume: &str) -> Option<String> {
    disks(pod).into_iter().find(|(alias, _)| alias == volume).map(|(_, target)| target)
}

/// The hot-plugged volumes are these, and no two disks have one name.
fn wait_volumes(pod: &Pod, wanted: &[&str]) {
    wait_for("the volumes", SEEN, || {
        let disks = disks(pod);
        let mut there: Vec<&str> =
            disks.iter().map(|(alias, _)| alias.as_str()).filter(|alias| alias.starts_with("v-")).collect();
        there.sort_unstable();
        let mut targets: Vec<&str> = disks.iter().map(|(_, target)| target.as_str()).collect();
        targets.sort_unstable();
        targets.dedup();
        expect(there == wanted && targets.len() == disks.len(), format!("{disks:?}, not {wanted:?}"))
    });
}

/// Another sync of the same VMI changes nothing.
fn settled(pod: &Pod, vmi: &Value) {
    let before = devices(pod);
    sync(pod, vmi);
    assert_eq!(devices(pod), before);
}

/// Where the guest has the disk.
fn in_guest(guest: &mut Console, volume: &str) -> String {
    let file = guest.wait(&format!("grep -lx serial-{volume} /sys/block/vd*/serial"));
    file.split('/').nth(3).unwrap().to_owned()
}

fn wait_gone_from_guest(guest: &mut Console, volume: &str) {
    guest.wait(&format!("! grep -qx serial-{volume} /sys/block/vd*/serial"));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn disks_stay_whatever_comes_and_goes_before_them() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    let mut guest = boot(&pod, &vmi());
    let base = running(vmi());
    for name in ["v-a", "v-b", "v-c", "v-d", "v-e"] {
        provide(&pod, name, &format!("words of {name}\n"), MIB);
    }

    // The first of two goes. virt-handler has not heard their names yet.
    sync(&pod, &with_volumes(&base, &[("v-a", "virtio", ""), ("v-b", "virtio", "")]));
    let b = in_guest(&mut guest, "v-b");
    in_guest(&mut guest, "v-a");
    // The guest is writing to the other.
    guest.run(&format!("(exec 3<>/dev/{b}; while sleep 0.2; do echo x >&3 || echo lost >/tmp/lost; done) & sleep 1"));
    let name = target(&pod, "v-b");
    let only_b = with_volumes(&base, &[("v-b", "virtio", "")]);
    sync(&pod, &only_b);
    wait_volumes(&pod, &["v-b"]);
    wait_gone_from_guest(&mut guest, "v-a");
    assert_eq!(target(&pod, "v-b"), name);
    assert_eq!(in_guest(&mut guest, "v-b"), b);
    settled(&pod, &only_b);

    // Two come before it, and its status is another's.
    let more = [("v-d", "virtio", name.as_deref().unwrap()), ("v-c", "virtio", "vda"), ("v-b", "virtio", "vdd")];
    sync(&pod, &with_volumes(&base, &more));
    wait_volumes(&pod, &["v-b", "v-c", "v-d"]);
    assert_eq!(target(&pod, "v-b"), name);
    settled(&pod, &with_volumes(&base, &more));

    // Both are replaced at once, in another order, by a SCSI and a virtio disk; another launcher has taken over.
    pod.replace_launcher();
    let replaced = with_volumes(&base, &[("v-b", "virtio", ""), ("v-e", "scsi", ""), ("v-a", "virtio", "vdd")]);
    sync(&pod, &replaced);
    wait_volumes(&pod, &["v-a", "v-b", "v-e"]);
    in_guest(&mut guest, "v-a");
    wait_gone_from_guest(&mut guest, "v-c");
    wait_gone_from_guest(&mut guest, "v-d");
    assert_eq!(target(&pod, "v-b"), name);
    settled(&pod, &replaced);

    // All disks of the VMI the other way round, and a status that has lost a volume.
    let mut shuffled = replaced.clone();
    for pointer in ["/spec/domain/devices/disks", "/spec/volumes"] {
        // The container disk's image is mounted under the number 0, which it now has no more.
        list(&mut shuffled, pointer).reverse();
    }
    settled(&pod, &shuffled);
    list(&mut shuffled, "/status/volumeStatus").retain(|status| status["name"] != "v-a");
    list(&mut shuffled, "/status/volumeStatus").push(json!({"name": "scratch", "target": "vdz"}));
    settled(&pod, &shuffled);
    // The next launcher does not find the image under its new number.
    pod.replace_launcher();
    settled(&pod, &shuffled);

    // The same volume on another bus.
    let moved = with_volumes(&base, &[("v-b", "virtio", ""), ("v-e", "virtio", ""), ("v-a", "virtio", "")]);
    wait_for("the disk on its new bus", SEEN, || {
        sync(&pod, &moved);
        expect(target(&pod, "v-e").is_some_and(|target| target.starts_with("vd")), format!("{:?}", disks(&pod)))
    });
    in_guest(&mut guest, "v-e");

    // A name that only the definition still has, because a daemon died between the two halves of an unplug.
    let freed = target(&pod, "v-e").unwrap();
    pod.virsh(&["detach-disk", "default_demo", &freed, "--live"]);
    wait_volumes(&pod, &["v-a", "v-b"]);
    wait_gone_from_guest(&mut guest, "v-e");
    let c = [("v-c", "virtio", freed.as_str()), ("v-b", "virtio", ""), ("v-a", "virtio", "")];
    sync(&pod, &with_volumes(&base, &c));
    wait_volumes(&pod, &["v-a", "v-b", "v-c"]);
    assert_eq!(in_guest(&mut guest, "v-b"), b);
    guest.run("sync; [ ! -e /tmp/lost ]");
    assert!(fs::read_to_string(hotplugged(&pod, "v-b")).unwrap().starts_with('x'), "the guest wrote to the disk");
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn medium_is_the_drives_and_a_container_disk_keeps_its_image() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    // The tray's volume stands before the container disk, and its drive before a disk on its bus.
    let mut base = vmi();
    let drive = |name: &str| json!({"name": name, "cdrom": {"bus": "scsi"}});
    list(&mut base, "/spec/domain/devices/disks").splice(0..0, [drive("tray"), drive("other")]);
    list(&mut base, "/spec/domain/devices/disks").push(json!({"name": "boot", "disk": {"bus": "scsi"}}));
    list(&mut base, "/spec/volumes").push(json!({"name": "boot", "emptyDisk": {"capacity": "1Mi"}}));
    // The names that the status has are of other buses, and two disks have one.
    let kept = [("containerdisk", "sda"), ("cloudinit", "sda"), ("scratch", "vda"), ("boot", "vdb")];
    let permanent = kept.map(|(name, target)| json!({"name": name, "target": target}));
    list(&mut base, "/status/volumeStatus").extend(permanent);
    let with_medium = |base: &Value, tray: &str| {
        let mut vmi = base.clone();
        let claim = json!({"name": tray, "persistentVolumeClaim": {"claimName": tray, "hotpluggable": true}});
        list(&mut vmi, "/spec/volumes").insert(0, claim);
        let status = json!({"name": tray, "target": "", "phase": "Ready", "hotplugVolume": {}});
        list(&mut vmi, "/status/volumeStatus").insert(0, status);
        vmi
    };
    for name in ["tray", "other", "v-s"] {
        provide(&pod, name, &format!("words of {name}\n"), MIB);
    }
    pod.wait_ready();
    pod.provide_disks();
    let images = pod.volume("container-disks");
    fs::rename(images.join("disk_0.img"), images.join("disk_1.img")).unwrap();
    sync(&pod, &with_medium(&base, "tray"));
    let mut guest = pod.console();
    let base = running(base);
    let at_boot = disks(&pod);
    for (volume, name) in [("containerdisk", "sda"), ("cloudinit", "vdc"), ("scratch", "vda"), ("boot", "vdb")] {
        assert_eq!(target(&pod, volume).as_deref(), Some(name), "{at_boot:?}");
    }
    let reads = |guest: &mut Console, words: &str| {
        guest.wait(&format!("head -qn 1 /dev/sr0 /dev/sr1 2>/dev/null | grep -x '{words}'"));
    };
    reads(&mut guest, "words of tray");

    // It is ejected; the container disk's volume is now the first, and its image is where it was.
    sync(&pod, &base);
    guest.wait("! head -c 1 /dev/sr0 2>/dev/null && ! head -c 1 /dev/sr1 2>/dev/null");
    settled(&pod, &base);
    let xml = pod.virsh(&["dumpxml", "default_demo"]);
    assert!(xml.contains("disk_1.img") && !xml.contains("disk_0.img"), "{xml}");
    pod.replace_launcher();
    settled(&pod, &base);

    // A medium for the other drive, a disk behind both, and the first drive listed last.
    let mut shuffled = with_volumes(&with_medium(&base, "other"), &[("v-s", "scsi", "sda")]);
    list(&mut shuffled, "/spec/domain/devices/disks").rotate_left(1);
    sync(&pod, &shuffled);
    reads(&mut guest, "words of other");
    wait_volumes(&pod, &["v-s"]);
    let disk = target(&pod, "v-s");
    settled(&pod, &shuffled);

    // The media change places, and a drive is no longer listed before the disk: the disk stays, the drive is emptied.
    let mut swapped = with_volumes(&with_medium(&base, "tray"), &[("v-s", "scsi", "")]);
    list(&mut swapped, "/spec/domain/devices/disks").retain(|disk| disk["name"] != "other");
    sync(&pod, &swapped);
    reads(&mut guest, "words of tray");
    assert_eq!(target(&pod, "v-s"), disk);
    let media = pod.virsh(&["domblklist", "default_demo"]);
    assert!(media.contains("tray.img") && !media.contains("other.img"), "{media}");
    settled(&pod, &swapped);
    sync(&pod, &base);
    wait_volumes(&pod, &[]);
    assert_eq!(disks(&pod), at_boot, "what was there at boot is there, under its names");

    // A drive more is not to be had while the VM runs, and nothing else waits for it.
    let mut more = with_volumes(&base, &[("v-s", "scsi", "")]);
    list(&mut more, "/spec/domain/devices/disks").push(drive("late"));
    list(&mut more, "/spec/volumes")
        .push(json!({"name": "late", "persistentVolumeClaim": {"claimName": "late", "hotpluggable": true}}));
    list(&mut more, "/status/volumeStatus").push(json!({"name": "late", "phase": "Ready", "hotplugVolume": {}}));
    let said = text(&pod.sync(&more.to_string()));
    assert!(said.contains("] (late): a CD-ROM drive cannot be added to a running VM"), "{said}");
    assert!(said.contains("spec.domain.devices.disks["), "{said}");
    wait_volumes(&pod, &["v-s"]);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn device_that_breaks_a_rule_is_refused_by_its_field_before_anything_changes() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    let _guest = boot(&pod, &vmi());
    let base = running(vmi());
    let disk = |name: &str, more: Value| {
        let mut disk = json!({"name": name, "disk": {"bus": "virtio"}});
        for (key, value) in more.as_object().unwrap() {
            disk[key] = value.clone();
        }
        provide(&pod, name, "words\n", MIB);
        disk
    };
    let place = base.pointer("/spec/domain/devices/disks").unwrap().as_array().unwrap().len() + 1;
    let good = with_volume(base.clone(), "good", "1Mi", Some(disk("good", json!({}))));
    for (bad, field, why) in [
        (json!({"serial": "a'b"}), "serial", "other characters"),
        (json!({"disk": {"bus": "virtio"}, "cdrom": {"bus": "sata"}}), "", "is disk and cdrom"),
        (json!({"disk": {"bus": "ide"}}), "disk.bus", "is none of virtio"),
        (json!({"blockSize": {"custom": {"logical": 513, "physical": 513}}}), "blockSize.custom.logical", "power of 2"),
        (json!({"bootOrder": 1_u64 << 40}), "bootOrder", "is not between 1"),
        (json!({"disk": {"bus": "sata"}}), "disk.bus", "no disk on sata can be added to a running VM"),
    ] {
        let vmi = with_volume(good.clone(), "bad", "1Mi", Some(disk("bad", bad)));
        let synced = pod.sync(&vmi.to_string());
        let said = text(&synced);
        let path = format!("spec.domain.devices.disks[{place}]{}{field}", if field.is_empty() { "" } else { "." });
        assert!(!synced.status.success() && said.contains(&path) && said.contains(why), "{path}: {said}");
        let there = pod.virsh(&["domblklist", "default_demo"]);
        // A bus that cannot be plugged is this disk's own trouble.
        assert_eq!(there.contains("good.img"), why.contains("added to a running VM"), "{there}");
        assert!(!there.contains("bad.img"), "{there}");
    }
    let mut vmi = good;
    list(&mut vmi, "/spec/domain/devices/interfaces")
        .push(json!({"name": "blue", "sriov": {}, "macAddress": "01:00:00:00:00:01"}));
    list(&mut vmi, "/spec/networks").push(json!({"name": "blue", "multus": {"networkName": "blue"}}));
    let said = text(&pod.sync(&vmi.to_string()));
    assert!(
        said.contains("spec.domain.devices.interfaces[0].macAddress: \"01:00:00:00:00:01\" is the address of a group"),
        "{said}"
    );
    sync(&pod, &base);
    wait_gone(&pod, "domblklist", "good.img");
}

/// The VMI with these interfaces, by name, MAC address and state.
fn with_interfaces(base: &Value, interfaces: &[(&str, &str, &str)]) -> Value {
    let mut vmi = base.clone();
    for (name, mac, state) in interfaces {
        list(&mut vmi, "/spec/domain/devices/interfaces")
            .push(json!({"name": name, "bridge": {}, "macAddress": mac, "state": state}));
        list(&mut vmi, "/spec/networks").push(json!({"name": name, "multus": {"networkName": name}}));
        list(&mut vmi, "/status/interfaces").push(json!({"name": name, "infoSource": "multus-status"}));
    }
    vmi
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn interfaces_are_replaced_by_others_of_their_mac_addresses_and_the_rest_stays() {
    let image = image();
    let pod = Setup::new(&image, "demo").podman(&["--device", "/dev/net/tun"]).start();
    let mut guest = boot(&pod, &vmi());
    let base = running(vmi());
    pod.give_device("/dev/net/tun");
    let mut attachments = serde_json::Map::new();
    for network in ["blue", "red", "green", "grey"] {
        let hash: String = Sha256::digest(network.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        for link in [format!("pod{}", &hash[..11]), format!("tap{}", &hash[..11])] {
            pod.in_network(&["ip", "tuntap", "add", "mode", "tap", "user", "107", "name", &link]);
            pod.in_network(&["ip", "link", "set", &link, "up"]);
        }
        attachments.insert(network.to_owned(), json!("tap"));
    }
    let options = pod.volume("public").join("options.json");
    fs::write(&options, json!({"interfaceDomainAttachment": attachments}).to_string()).unwrap();
    let sync = |interfaces: &[(&str, &str, &str)]| {
        let vmi = with_interfaces(&base, interfaces).to_string();
        pod.ctl_with(&["--timeout", "120", "sync", "--options", options.to_str().unwrap()], &vmi)
    };
    let nics = || {
        let nics = devices(&pod).1.into_iter();
        let mut nics: Vec<_> =
            nics.map(|nic| (nic.alias.unwrap().name, nic.mac.unwrap().mac, nic.address.unwrap().bus)).collect();
        nics.sort();
        nics
    };
    let (first, second) = ("02:00:00:00:00:0a", "02:00:00:00:00:0b");
    succeeded(&sync(&[("blue", first, ""), ("red", second, "")]), &pod);
    for mac in [first, second] {
        guest.wait(&format!("grep -l {mac} /sys/class/net/*/address"));
    }
    let red = nics().into_iter().find(|nic| nic.0 == "red").unwrap();

    // Another one with the first one's address, which is listed before it.
    let replaced = [("green", first, ""), ("red", second, ""), ("blue", first, "absent")];
    wait_for("the other interface", SEEN, || {
        let synced = sync(&replaced);
        let names: Vec<String> = nics().into_iter().map(|nic| nic.0).collect();
        expect(synced.status.success() && names == ["green", "red"], format!("{names:?}: {}", text(&synced)))
    });
    guest.wait(&format!("grep -l {first} /sys/class/net/*/address"));
    assert!(nics().contains(&red), "{red:?} is where it was");
    let before = devices(&pod);
    succeeded(&sync(&[("red", second, ""), ("green", first, "")]), &pod);
    assert_eq!(devices(&pod), before);

    // Both at once, by others with each other's addresses.
    let both = [("grey", second, ""), ("blue", first, ""), ("red", second, "absent"), ("green", first, "absent")];
    wait_for("the other interfaces", SEEN, || {
        let synced = sync(&both);
        let nics: Vec<_> = nics().into_iter().map(|nic| (nic.0, nic.1)).collect();
        let wanted = [("blue".to_owned(), first.to_owned()), ("grey".to_owned(), second.to_owned())];
        expect(synced.status.success() && nics == wanted, format!("{nics:?}: {}", text(&synced)))
    });
}
