//! What holds for the disks of a running domain, whatever is taken out and put in, in whatever order the VMI lists it and
//! whatever its status says: the domain comes to have what is wanted, what stays is not touched, no two disks have one
//! name or place, and then there is nothing more to do.
//!
//! libvirt is a double here, since a domain's disks alone are looked at: a list that refuses what libvirt was seen to
//! refuse (two targets, aliases or drive addresses alike) and whose guest lets go of a disk at once or after some syncs.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use serde_json::{Value, json};
use virt_launcher::convert::{self, HostFacts};
use virt_launcher::domain::{Disk, DomainSpec};
use virt_launcher::launcher::sync::live::disks::{DiskChange, changes};
use virt_launcher::vmi::{self, VirtualMachineInstance};

/// Names that a status may hold: of any bus, of nobody, and none.
const TARGETS: [&str; 12] = ["", "", "", "", "vda", "vdb", "vdc", "sda", "sdb", "vdz", "sdh", "nonsense"];
const BUSES: [&str; 4] = ["virtio", "sata", "scsi", "usb"];
const VOLUMES: usize = 7;
const PERMANENT: usize = 4;
/// How often the guest is asked for a disk before it certainly lets go; a sync with something to take out asks at least once.
const ASKED: usize = 16;
/// Syncs after which everything has to be in its place: the last disk is out, what takes its place is in, nothing changes.
const SYNCS: usize = ASKED + 3;

/// A hot-plugged volume in a VMI: how it is attached, and what its status says.
#[derive(Debug, Clone)]
struct Volume {
    number: usize,
    kind: Kind,
    target: Index,
    has_status: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Virtio,
    VirtioBlock,
    Scsi,
    Lun,
}

#[derive(Debug, Clone)]
struct Round {
    volumes: Vec<Volume>,
    /// Media of the CD-ROM drives.
    media: [bool; 2],
    /// Where in the list the permanent disks are.
    permanent_first: bool,
    targets: Vec<Index>,
    /// For each sync and disk whether the guest lets go of it at once.
    lets_go: Vec<bool>,
}

fn round() -> impl Strategy<Value = Round> {
    let kind = prop_oneof![
        4 => Just(Kind::Virtio),
        1 => Just(Kind::VirtioBlock),
        3 => Just(Kind::Scsi),
        1 => Just(Kind::Lun)
    ];
    let volumes = subsequence((0..VOLUMES).collect::<Vec<_>>(), 0..=VOLUMES).prop_shuffle();
    let details = proptest::collection::vec((kind, any::<Index>(), prop::bool::weighted(0.9)), VOLUMES);
    let volumes = (volumes, details).prop_map(|(numbers, details)| {
        numbers
            .into_iter()
            .zip(details)
            .map(|(number, (kind, target, has_status))| Volume { number, kind, target, has_status })
            .collect()
    });
    let targets = proptest::collection::vec(any::<Index>(), PERMANENT + 2);
    let lets_go = proptest::collection::vec(any::<bool>(), ASKED);
    (volumes, any::<[bool; 2]>(), any::<bool>(), targets, lets_go).prop_map(
        |(volumes, media, permanent_first, targets, lets_go)| Round {
            volumes,
            media,
            permanent_first,
            targets,
            lets_go,
        },
    )
}

/// The VMI of a round and its facts. A volume without a status is only listed so if the domain has it: for one that it
/// lacks, no status means that it is not there yet.
fn input(permanent: &[Index], round: &Round, live: &[Disk]) -> (VirtualMachineInstance, HostFacts) {
    let mut own = Vec::new();
    let mut volumes = Vec::new();
    let mut statuses = Vec::new();
    let mut blocks = Vec::new();
    for (number, bus) in permanent.iter().enumerate() {
        let name = format!("p{number}");
        own.push(json!({"name": name, "disk": {"bus": BUSES[bus.index(BUSES.len())]}}));
        volumes.push(json!({"name": name, "emptyDisk": {"capacity": "1Mi"}}));
        statuses.push(json!({"name": name, "target": round.targets[number].get(&TARGETS)}));
    }
    let hot_plugged =
        |name: &str| json!({"name": name, "persistentVolumeClaim": {"claimName": name, "hotpluggable": true}});
    for (number, (bus, has_medium)) in ["sata", "scsi"].into_iter().zip(round.media).enumerate() {
        let name = format!("cd{number}");
        own.push(json!({"name": name, "cdrom": {"bus": bus}}));
        if has_medium {
            volumes.insert(0, hot_plugged(&name));
            let target = round.targets[PERMANENT + number].get(&TARGETS);
            statuses.push(json!({"name": name, "target": target, "phase": "Ready", "hotplugVolume": {}}));
        }
    }
    let mut plugged = Vec::new();
    for volume in &round.volumes {
        let name = format!("v{}", volume.number);
        plugged.push(match volume.kind {
            Kind::Virtio | Kind::VirtioBlock => json!({"name": name, "disk": {"bus": "virtio"}}),
            Kind::Scsi => json!({"name": name, "disk": {"bus": "scsi"}}),
            Kind::Lun => json!({"name": name, "lun": {"bus": "scsi"}}),
        });
        volumes.push(hot_plugged(&name));
        if volume.has_status || !live.iter().any(|disk| alias(disk) == name) {
            let target = volume.target.get(&TARGETS);
            statuses.push(json!({"name": name, "target": target, "phase": "Ready", "hotplugVolume": {}}));
        }
        if volume.kind == Kind::VirtioBlock {
            blocks.push(name);
        }
    }
    let disks: Vec<Value> = match round.permanent_first {
        true => own.into_iter().chain(plugged).collect(),
        false => plugged.into_iter().chain(own.into_iter().rev()).collect(),
    };
    let vmi = json!({
        "metadata": {"name": "vm", "namespace": "ns"},
        "spec": {"domain": {"memory": {"guest": "64Mi"}, "devices": {"disks": disks}}, "volumes": volumes},
        "status": {"volumeStatus": statuses},
    });
    let facts = json!({"hypervisor": {"devicePresent": true}, "hotplugBlockVolumes": blocks});
    (vmi::parse(vmi.to_string().as_bytes()).unwrap(), serde_json::from_value(facts).unwrap())
}

fn alias(disk: &Disk) -> String {
    disk.alias.as_ref().unwrap().name.clone()
}

/// What libvirt reads from a name: the index of its letters.
fn index(name: &str) -> u64 {
    name.bytes().skip(2).fold(0, |value, byte| value * 26 + u64::from(byte - b'a') + 1) - 1
}

/// Where libvirt puts a disk on its bus, by its address, or by its name if it has none.
fn place(disk: &Disk) -> Option<(String, u64, u64)> {
    let bus = disk.target.bus.clone();
    let by_name = index(&disk.target.device);
    match (bus.as_str(), &disk.address) {
        ("scsi", Some(address)) => Some((bus, address.controller.parse().unwrap(), address.unit.parse().unwrap())),
        ("scsi", None) => Some((bus, by_name / 7, by_name % 7)),
        ("sata", _) => Some((bus, by_name / 6, by_name % 6)),
        _ => None,
    }
}

/// What two disks share that libvirt wants unique.
fn refusal(disks: &[Disk]) -> Option<String> {
    let mut seen = BTreeSet::new();
    let all = disks.iter().flat_map(|disk| {
        [
            Some(format!("target {}", disk.target.device)),
            Some(format!("alias {}", alias(disk))),
            place(disk).map(|place| format!("{place:?}")),
        ]
    });
    all.flatten().find(|what| !seen.insert(what.clone())).map(|what| format!("{what} twice: {disks:#?}"))
}

/// What makes a hot-plugged disk what it is.
fn identity(disk: &Disk) -> (String, String, String, String) {
    (alias(disk), disk.target.bus.clone(), disk.device.clone(), disk.backend().path().to_owned())
}

fn is_volume(disk: &Disk) -> bool {
    alias(disk).starts_with('v')
}

/// The double of a domain.
struct Domain {
    live: Vec<Disk>,
    lets_go: std::vec::IntoIter<bool>,
}

impl Domain {
    fn spec(&self) -> DomainSpec {
        let mut spec = DomainSpec::default();
        spec.devices.disks.clone_from(&self.live);
        spec
    }

    fn detach(&mut self, disk: &Disk) {
        assert!(self.live.contains(disk), "not a disk of the domain as it is: {disk:?}");
        if self.lets_go.next().unwrap_or(true) {
            self.live.retain(|live| live != disk);
        }
    }

    fn attach(&mut self, disk: Disk) {
        self.live.push(disk);
        assert_eq!(refusal(&self.live), None);
    }

    fn change_medium(&mut self, disk: &Disk) {
        let drive = self.live.iter_mut().find(|live| alias(live) == alias(disk)).unwrap();
        assert_eq!((&drive.target, &drive.address), (&disk.target, &disk.address), "another drive");
        *drive = disk.clone();
    }

    /// One sync in the order of `launcher::sync::live`: how many changes there were.
    fn sync(&mut self, vmi: &VirtualMachineInstance, facts: &HostFacts, stays: &dyn Fn(&Disk) -> bool) -> usize {
        let wanted = |domain: &Domain| {
            let wanted = convert::convert_for_running(vmi, facts, &domain.spec()).unwrap().devices.disks;
            assert_eq!(refusal(&wanted.iter().filter(|disk| is_volume(disk)).cloned().collect::<Vec<_>>()), None);
            wanted
        };
        let mut count = 0;
        for change in changes(&self.live, &wanted(self)) {
            if let DiskChange::Detach(disk) | DiskChange::Replace { old: disk, .. } = change {
                assert!(!stays(&disk), "taken out: {disk:?}");
                self.detach(&disk);
                count += 1;
            }
        }
        for change in changes(&self.live, &wanted(self)) {
            match change {
                DiskChange::Detach(_) | DiskChange::Replace { .. } => {}
                DiskChange::Attach(disk) => {
                    self.attach(disk);
                    count += 1;
                }
                DiskChange::ChangeMedium(disk) => {
                    self.change_medium(&disk);
                    count += 1;
                }
            }
        }
        count
    }
}

fn check(permanent: &[Index], boot: &Round, rounds: &[Round]) {
    let (vmi, facts) = input(permanent, boot, &[]);
    let live = convert::convert(&vmi, &facts).unwrap().devices.disks;
    assert_eq!(refusal(&live), None);
    let mut domain = Domain { live, lets_go: Vec::new().into_iter() };
    for round in rounds {
        let before = domain.live.clone();
        let (vmi, facts) = input(permanent, round, &before);
        domain.lets_go = round.lets_go.clone().into_iter();
        // Without a status it is not known what the volume is: the domain's disk stays whatever the VMI says of it.
        let unknown: BTreeSet<String> = round
            .volumes
            .iter()
            .map(|volume| format!("v{}", volume.number))
            .filter(|name| !vmi.status.volume_status.iter().any(|status| status.name == *name))
            .collect();
        let expected: BTreeSet<_> = round
            .volumes
            .iter()
            .map(|volume| {
                let name = format!("v{}", volume.number);
                let there = before.iter().find(|disk| alias(disk) == name);
                if unknown.contains(&name) {
                    return identity(there.unwrap());
                }
                let (bus, device) = match volume.kind {
                    Kind::Virtio | Kind::VirtioBlock => ("virtio", "disk"),
                    Kind::Scsi => ("scsi", "disk"),
                    Kind::Lun => ("scsi", "lun"),
                };
                let suffix = if volume.kind == Kind::VirtioBlock { "" } else { ".img" };
                let path = format!("/var/run/kubevirt/hotplug-disks/{name}{suffix}");
                (name, bus.to_owned(), device.to_owned(), path)
            })
            .collect();
        let stays = |disk: &Disk| !is_volume(disk) || expected.contains(&identity(disk));
        let settled = (0..SYNCS).any(|_| domain.sync(&vmi, &facts, &stays) == 0);
        assert!(settled, "still changing: {:#?}", domain.live);
        assert_eq!(domain.sync(&vmi, &facts, &stays), 0, "not settled after all");
        let there: BTreeSet<_> = domain.live.iter().filter(|disk| is_volume(disk)).map(identity).collect();
        assert_eq!(there, expected);
        for disk in before.iter().filter(|disk| stays(disk) && disk.device != "cdrom") {
            assert!(domain.live.contains(disk), "touched: {disk:?}");
        }
        for (number, has_medium) in round.media.into_iter().enumerate() {
            let drive = domain.live.iter().find(|disk| alias(disk) == format!("cd{number}")).unwrap();
            let was = before.iter().find(|disk| alias(disk) == alias(drive)).unwrap();
            assert_eq!((&drive.target, &drive.address), (&was.target, &was.address));
            assert_eq!(!drive.source.path().is_empty(), has_medium, "{drive:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn disks_of_a_running_domain_come_to_be_those_of_its_vmi(
        permanent in proptest::collection::vec(any::<Index>(), PERMANENT),
        boot in round(),
        rounds in proptest::collection::vec(round(), 1..4),
    ) {
        check(&permanent, &boot, &rounds);
    }
}
