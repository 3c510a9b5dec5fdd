//! From libvirt's statistics to the document of contract/cmd-server.md 9.2.

use std::collections::BTreeMap;

use crate::domain::DomainSpec;
use crate::domain::stats::{
    BlockStats, CpuStats, DirtyRate, DomainStats, LoadStats, MemoryStats, MigrationStats, NetStats, Transfers,
    VcpuStats,
};
use crate::libvirt::{Params, StatsRecord};

/// Names that the VMI gives its devices, by the names libvirt knows them under: disks by target, interfaces by the host's
/// device.
pub type Aliases = BTreeMap<String, String>;

/// The aliases in a live domain.
pub fn aliases(spec: &DomainSpec) -> Aliases {
    let devices = &spec.devices;
    let disks = devices.disks.iter().map(|disk| (disk.target.device.as_str(), disk.alias.as_ref()));
    let interfaces = devices.interfaces.iter().map(|interface| {
        (interface.target.as_ref().map(|target| target.device.as_str()).unwrap_or_default(), interface.alias.as_ref())
    });
    disks
        .chain(interfaces)
        .filter_map(|(device, alias)| Some((device, alias?)))
        .filter(|(device, _)| !device.is_empty())
        .map(|(device, alias)| (device.to_owned(), alias.name.clone()))
        .collect()
}

/// The document of a running domain.
pub fn document(record: &StatsRecord, cpu_map: Vec<Vec<bool>>, aliases: &Aliases, load: LoadStats) -> DomainStats {
    let params = &record.params;
    let counted = |count: &str| params.unsigned(count).unwrap_or(0);
    DomainStats {
        name: record.name.clone(),
        uuid: record.uuid.clone(),
        cpu: CpuStats {
            time: params.unsigned("cpu.time"),
            user: params.unsigned("cpu.user"),
            system: params.unsigned("cpu.system"),
        },
        memory: memory(params),
        migration: MigrationStats::default(),
        // Ids of CPUs that are unplugged leave gaps.
        vcpus: (0..counted("vcpu.maximum"))
            .map(|id| format!("vcpu.{id}."))
            .filter(|prefix| params.has_prefix(prefix))
            .map(|prefix| vcpu(params, &prefix))
            .collect(),
        nets: (0..counted("net.count")).map(|id| net(params, &format!("net.{id}."), aliases)).collect(),
        blocks: (0..counted("block.count")).map(|id| block(params, &format!("block.{id}."), aliases)).collect(),
        cpu_map: Some(cpu_map),
        dirty_rate: dirty_rate(params),
        load,
    }
}

fn memory(params: &Params) -> MemoryStats {
    // What virDomainMemoryStats would say, without waiting for its lock.
    let balloon = |name: &str| params.unsigned(&format!("balloon.{name}"));
    MemoryStats {
        unused: balloon("unused"),
        cached: balloon("disk_caches"),
        available: balloon("available"),
        actual_balloon: balloon("current"),
        rss: balloon("rss"),
        swap_in: balloon("swap_in"),
        swap_out: balloon("swap_out"),
        major_fault: balloon("major_fault"),
        minor_fault: balloon("minor_fault"),
        usable: balloon("usable"),
        total: balloon("current"),
    }
}

fn vcpu(params: &Params, prefix: &str) -> VcpuStats {
    let number = |name: &str| params.unsigned(&format!("{prefix}{name}"));
    VcpuStats {
        state: number("state").and_then(|state| i32::try_from(state).ok()),
        time: number("time"),
        wait: number("wait"),
        delay: number("delay"),
    }
}

fn net(params: &Params, prefix: &str, aliases: &Aliases) -> NetStats {
    let number = |name: &str| params.unsigned(&format!("{prefix}{name}"));
    let name = params.text(&format!("{prefix}name")).map(str::to_owned);
    NetStats {
        alias: name.as_ref().and_then(|name| aliases.get(name)).cloned(),
        name,
        rx_bytes: number("rx.bytes"),
        rx_pkts: number("rx.pkts"),
        rx_errs: number("rx.errs"),
        rx_drop: number("rx.drop"),
        tx_bytes: number("tx.bytes"),
        tx_pkts: number("tx.pkts"),
        tx_errs: number("tx.errs"),
        tx_drop: number("tx.drop"),
    }
}

fn block(params: &Params, prefix: &str, aliases: &Aliases) -> BlockStats {
    let number = |name: &str| params.unsigned(&format!("{prefix}{name}"));
    let text = |name: &str| params.text(&format!("{prefix}{name}")).map(str::to_owned);
    let transfers = |direction: &str| Transfers {
        requests: number(&format!("{direction}.reqs")),
        bytes: number(&format!("{direction}.bytes")),
        times: number(&format!("{direction}.times")),
    };
    let name = text("name");
    BlockStats {
        alias: name.as_ref().and_then(|name| aliases.get(name)).cloned().unwrap_or_default(),
        name,
        backing_index: number("backingIndex"),
        path: text("path"),
        read: transfers("rd"),
        write: transfers("wr"),
        flush_requests: number("fl.reqs"),
        flush_times: number("fl.times"),
        errors: number("errors"),
        allocation: number("allocation"),
        capacity: number("capacity"),
        physical: number("physical"),
    }
}

/// The dirty-rate part.
pub fn dirty_rate(params: &Params) -> DirtyRate {
    let small = |name: &str| params.int(name).and_then(|value| i32::try_from(value).ok());
    DirtyRate {
        calc_status: small("dirtyrate.calc_status"),
        calc_start_time: params.int("dirtyrate.calc_start_time"),
        calc_period: small("dirtyrate.calc_period"),
        megabytes_per_second: params.int("dirtyrate.megabytes_per_second"),
    }
}
