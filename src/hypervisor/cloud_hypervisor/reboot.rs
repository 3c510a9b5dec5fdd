//! What a reboot changes. It builds the VM anew inside the same process: disks lose a restriction, and vCPUs lose their
//! places (contract/cloud-hypervisor.md 5.2, 6.2).

use std::collections::BTreeMap;

use nix::sched::CpuSet;
use nix::unistd::Pid;
use serde_json::Value;

use super::CloudHypervisor;
use crate::domain::{DomainSpec, cpu_list};
use crate::process::vcpu_threads;

impl CloudHypervisor {
    /// From 50.1 on the VMM refuses to write the first sector of a raw disk whose type it had to guess, and libvirt does
    /// not tell it: no partition table, no bare file system could be made on such a disk. It keeps what it guessed, and
    /// after a reboot that counts as told. So a guest with such a disk is rebooted before it has got anywhere. What the VMM
    /// means to prevent, a guest that makes its disk look like an image of another format, the checks before a start refuse.
    pub(super) async fn unlock_first_sectors(&self) {
        let info = match self.0.rest.get("vm.info").await {
            Ok(info) => info,
            Err(error) => {
                return tracing::warn!("whether first sectors of disks are write-protected is not known: {error}");
            }
        };
        let guessed = guessed_raw(&info);
        if guessed.is_empty() {
            return;
        }
        match self.ask(self.0.connection.reboot(self.domain(), 0), "vm.reboot").await {
            Ok(()) => tracing::info!(
                "rebooted the guest at its start, so that it may write the first sector of {}",
                guessed.join(", ")
            ),
            Err(error) => tracing::warn!("the first sector of {} stays write-protected: {error}", guessed.join(", ")),
        }
    }

    /// Where each vCPU may run, of the live XML.
    pub(super) fn places(&self) -> BTreeMap<u32, CpuSet> {
        let xml = self.vmm_state().xml.clone();
        let domain = xml.and_then(|xml| DomainSpec::from_xml(&xml).ok());
        domain.map(|domain| places_of(&domain)).unwrap_or_default()
    }

    /// Puts vCPUs where they belong that are not those of the last look, which becomes this one. libvirt does so only when
    /// it starts the VM; the threads of a reboot have the place of the thread that made them, which is the emulator's.
    pub(super) fn pin_anew(&self, pid: i32, places: &BTreeMap<u32, CpuSet>, last: &mut BTreeMap<u32, i32>) {
        if places.is_empty() {
            return;
        }
        // A VMM that is gone has no threads; it is noticed elsewhere.
        let Ok(threads) = vcpu_threads(pid, &self.0.place.vcpu_regex) else { return };
        if threads == *last {
            return;
        }
        for (vcpu, tid) in &threads {
            if let Some(place) = places.get(vcpu)
                && let Err(error) = nix::sched::sched_setaffinity(Pid::from_raw(*tid), place)
            {
                tracing::warn!("cannot pin vCPU {vcpu} (thread {tid}): {error}");
            }
        }
        *last = threads;
    }
}

/// Writable disks that the VMM takes for raw ones, by path, in the answer to `vm.info`.
fn guessed_raw(info: &Value) -> Vec<String> {
    let disks = info.pointer("/config/disks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |disk: &Value, name: &str| disk.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let writable = |disk: &&Value| !disk.get("readonly").and_then(Value::as_bool).unwrap_or(false);
    disks
        .iter()
        .filter(writable)
        .filter(|disk| text(disk, "image_type").eq_ignore_ascii_case("raw"))
        .map(|disk| text(disk, "path"))
        .collect()
}

fn places_of(domain: &DomainSpec) -> BTreeMap<u32, CpuSet> {
    let pins = domain.cpu_tune.iter().flat_map(|tune| &tune.vcpu_pin);
    pins.filter_map(|pin| {
        let mut place = CpuSet::new();
        for cpu in cpu_list::parse(&pin.cpu_set)? {
            place.set(usize::try_from(cpu).ok()?).ok()?;
        }
        Some((pin.vcpu, place))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn writable_disks_of_a_guessed_type_are_those_to_be_unlocked() {
        let info = json!({"config": {"disks": [
            {"path": "/seed", "readonly": true, "image_type": "Raw"},
            {"path": "/claim", "readonly": false, "image_type": "Raw"},
            {"path": "/root", "image_type": "Qcow2"},
            {"path": "/other", "image_type": "Raw"},
        ]}});
        assert_eq!(guessed_raw(&info), ["/claim", "/other"]);
        // Up to 50.0 there is neither a type nor a restriction.
        assert!(guessed_raw(&json!({"config": {"disks": [{"path": "/claim"}]}})).is_empty());
        assert!(guessed_raw(&Value::Null).is_empty());
    }

    #[test]
    fn places_are_those_of_the_xml() {
        let xml = "<domain type='kvm'><name>d</name><cputune><vcpupin vcpu='0' cpuset='2'/><vcpupin vcpu='1' cpuset='0-1,3'/>\
                   <vcpupin vcpu='2' cpuset='none'/><emulatorpin cpuset='0'/></cputune></domain>";
        let places = places_of(&DomainSpec::from_xml(xml).unwrap());
        let cpus = |vcpu| (0..8).filter(|cpu| places[&vcpu].is_set(*cpu).unwrap()).collect::<Vec<_>>();
        assert_eq!((cpus(0), cpus(1), places.contains_key(&2)), (vec![2], vec![0, 1, 3], false));
    }
}
