//! Statistics of a VM whose libvirt driver has none: from the VMM's counters, `/proc` and the taps, under the names that
//! libvirt gives them (contract/cloud-hypervisor.md 2.3, 9).
#![allow(unsafe_code, reason = "sysconf")]

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use regex::Regex;
use serde_json::Value;

use crate::domain::DomainSpec;
use crate::libvirt::{Params, StatsRecord, TypedValue};
use crate::process::vcpu_threads;

/// Beginning of a qcow2 file; its virtual size stands in bytes 24 to 31.
const QCOW2: &[u8] = b"QFI\xfb";

/// What the VMM says of itself: `vm.info` and `vm.counters`. Either may be missing.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) info: Value,
    pub(super) counters: Value,
}

#[derive(Default)]
struct Names(Vec<(String, TypedValue)>);

impl Names {
    fn number(&mut self, name: String, value: Option<u64>) {
        if let Some(value) = value {
            self.0.push((name, TypedValue::Unsigned(value)));
        }
    }

    fn text(&mut self, name: String, value: &str) {
        self.0.push((name, TypedValue::Text(value.to_owned())));
    }
}

/// The record of the VM whose VMM is `pid` and whose live XML is `domain`. Blocking: reads small files.
pub(super) fn record(pid: i32, domain: &DomainSpec, told: &Told, vcpu_regex: &Regex) -> StatsRecord {
    let mut names = Names::default();
    processor(pid, domain, vcpu_regex, &mut names);
    memory(pid, domain, &mut names);
    for (index, interface) in domain.devices.interfaces.iter().enumerate() {
        let tap = interface.target.as_ref().map(|target| target.device.as_str()).unwrap_or_default();
        network(index, tap, Path::new("/sys/class/net"), &mut names);
    }
    names.number("net.count".into(), u64::try_from(domain.devices.interfaces.len()).ok());
    for (index, disk) in domain.devices.disks.iter().enumerate() {
        block(index, &disk.target.device, &disk.source.file, told, &mut names);
    }
    names.number("block.count".into(), u64::try_from(domain.devices.disks.len()).ok());
    StatsRecord {
        name: domain.name.clone(),
        uuid: domain.uuid.clone(),
        params: names.0.into_iter().collect::<Params>(),
    }
}

fn processor(pid: i32, domain: &DomainSpec, regex: &Regex, names: &mut Names) {
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat());
    if let Ok(stat) = stat {
        let nanoseconds = |ticks: u64| ticks.checked_mul(1_000_000_000)?.checked_div(procfs::ticks_per_second());
        let (user, system) = (nanoseconds(stat.utime), nanoseconds(stat.stime));
        names.number("cpu.time".into(), user.zip(system).map(|(user, system)| user.saturating_add(system)));
        names.number("cpu.user".into(), user);
        names.number("cpu.system".into(), system);
    }
    let threads = vcpu_threads(pid, regex).unwrap_or_default();
    let count = u64::try_from(threads.len()).unwrap_or_default();
    names.number("vcpu.current".into(), Some(count));
    let most = domain.vcpu.as_ref().map_or(count, |vcpu| u64::from(vcpu.cpus));
    names.number("vcpu.maximum".into(), Some(most.max(count)));
    for (vcpu, tid) in threads {
        // Nanoseconds on a CPU, nanoseconds waiting for one, and how often.
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).unwrap_or_default();
        let mut words = text.split_whitespace().map(|word| word.parse().ok());
        names.number(format!("vcpu.{vcpu}.state"), Some(StatsRecord::VCPU_RUNNING));
        names.number(format!("vcpu.{vcpu}.time"), words.next().flatten());
        names.number(format!("vcpu.{vcpu}.delay"), words.next().flatten());
    }
}

/// In KiB, as libvirt has it. There is no balloon: the guest has all it was given.
fn memory(pid: i32, domain: &DomainSpec, names: &mut Names) {
    let kib = match domain.memory.unit.as_str() {
        "b" | "bytes" => domain.memory.value / 1024,
        "MiB" | "M" => domain.memory.value.saturating_mul(1024),
        "GiB" | "G" => domain.memory.value.saturating_mul(1024 * 1024),
        _ => domain.memory.value,
    };
    names.number("balloon.current".into(), Some(kib));
    names.number("balloon.maximum".into(), Some(kib));
    let pages = procfs::process::Process::new(pid).and_then(|process| process.statm()).ok().map(|statm| statm.resident);
    names.number("balloon.rss".into(), pages.map(|pages| pages.saturating_mul(procfs::page_size()) / 1024));
}

/// The guest receives what the tap sends.
fn network(index: usize, tap: &str, folder: &Path, names: &mut Names) {
    names.text(format!("net.{index}.name"), tap);
    for (ours, theirs) in [("rx", "tx"), ("tx", "rx")] {
        for (name, file) in [("bytes", "bytes"), ("pkts", "packets"), ("errs", "errors"), ("drop", "dropped")] {
            let text = std::fs::read_to_string(folder.join(tap).join(format!("statistics/{theirs}_{file}")));
            names.number(format!("net.{index}.{ours}.{name}"), text.ok().and_then(|text| text.trim().parse().ok()));
        }
    }
}

fn block(index: usize, target: &str, path: &str, told: &Told, names: &mut Names) {
    names.text(format!("block.{index}.name"), target);
    names.text(format!("block.{index}.path"), path);
    if let Some(counters) = counters_of(index, path, told) {
        for (name, counter) in
            [("rd.reqs", "read_ops"), ("rd.bytes", "read_bytes"), ("wr.reqs", "write_ops"), ("wr.bytes", "write_bytes")]
        {
            names.number(format!("block.{index}.{name}"), counters.get(counter).and_then(Value::as_u64));
        }
    }
    if let Ok(found) = std::fs::metadata(path) {
        names.number(format!("block.{index}.physical"), Some(found.len()));
        names.number(format!("block.{index}.allocation"), Some(found.blocks().saturating_mul(512)));
        names.number(format!("block.{index}.capacity"), Some(virtual_size(path).unwrap_or(found.len())));
    }
}

/// A disk's counters: by the name that the configuration gives it, else by its place among the disks.
fn counters_of<'a>(index: usize, path: &str, told: &'a Told) -> Option<&'a Value> {
    let disks = told.info.pointer("/config/disks").and_then(Value::as_array);
    let named = disks.into_iter().flatten().find(|disk| disk.get("path").and_then(Value::as_str) == Some(path));
    if let Some(id) = named.and_then(|disk| disk.get("id")).and_then(Value::as_str) {
        return told.counters.get(id);
    }
    let number = |id: &str| id.strip_prefix("_disk")?.parse::<u32>().ok();
    let mut ids: Vec<(u32, &Value)> =
        told.counters.as_object()?.iter().filter_map(|(id, counters)| Some((number(id)?, counters))).collect();
    ids.sort_by_key(|(number, _)| *number);
    ids.get(index).map(|(_, counters)| *counters)
}

fn virtual_size(path: &str) -> Option<u64> {
    let mut header = [0; 32];
    std::fs::File::open(path).ok()?.read_exact(&mut header).ok()?;
    let size = header.get(24..32)?.try_into().ok()?;
    header.starts_with(QCOW2).then(|| u64::from_be_bytes(size))
}

/// For each vCPU whether it may run on each of the machine's CPUs.
pub(super) fn pins(pid: i32, vcpus: usize, vcpu_regex: &Regex) -> Vec<Vec<bool>> {
    // SAFETY: sysconf takes a number and returns one.
    let cpus = usize::try_from(unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) }).unwrap_or_default();
    let threads = vcpu_threads(pid, vcpu_regex).unwrap_or_default();
    let map = |tid: &i32| {
        let set = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(*tid)).ok();
        (0..cpus).map(|cpu| set.as_ref().is_some_and(|set| set.is_set(cpu).unwrap_or(false))).collect()
    };
    threads.values().take(vcpus).map(map).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn disks_are_found_by_path_else_by_order() {
        let counters =
            json!({"_disk0": {"read_ops": 1}, "_disk10": {"read_ops": 10}, "_disk2": {"read_ops": 2}, "__rng": {}});
        let unnamed = Told { info: Value::Null, counters: counters.clone() };
        let ops =
            |told: &Told, index, path| counters_of(index, path, told).and_then(|found| found["read_ops"].as_u64());
        assert_eq!(
            (0..4).map(|index| ops(&unnamed, index, "/x")).collect::<Vec<_>>(),
            [Some(1), Some(2), Some(10), None]
        );
        let info = json!({"config": {"disks": [{"path": "/a", "id": "_disk2"}, {"path": "/b"}]}});
        let named = Told { info, counters };
        assert_eq!((ops(&named, 0, "/a"), ops(&named, 0, "/b")), (Some(2), Some(1)));
    }

    #[test]
    fn record_has_libvirts_names_and_the_guests_view() {
        let folder = tempfile::tempdir().unwrap();
        let statistics = folder.path().join("tap0/statistics");
        std::fs::create_dir_all(&statistics).unwrap();
        std::fs::write(statistics.join("tx_bytes"), "77\n").unwrap();
        let mut names = Names::default();
        network(0, "tap0", folder.path(), &mut names);
        let params: Params = names.0.into_iter().collect();
        assert_eq!((params.unsigned("net.0.rx.bytes"), params.unsigned("net.0.tx.bytes")), (Some(77), None));

        let disk = folder.path().join("d.qcow2");
        let mut header = vec![0; 64];
        header[..4].copy_from_slice(QCOW2);
        header[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
        std::fs::write(&disk, header).unwrap();
        let xml = format!(
            "<domain type='kvm'><name>d</name><uuid>u</uuid><memory unit='KiB'>65536</memory><vcpu>1</vcpu><devices>\
             <disk type='file' device='disk'><source file='{}'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
            disk.display()
        );
        let domain = DomainSpec::from_xml(&xml).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        // Any thread counts as the one vCPU here.
        let regex = Regex::new("()").unwrap();
        let record = record(own, &domain, &Told::default(), &regex);
        let number = |name: &str| record.params.unsigned(name);
        assert_eq!(
            (number("balloon.current"), number("block.count"), number("net.count")),
            (Some(65536), Some(1), Some(0))
        );
        assert_eq!((number("block.0.capacity"), number("block.0.physical")), (Some(1 << 30), Some(64)));
        assert!(number("balloon.rss").unwrap() > 0 && number("cpu.time").is_some());
    }
}
