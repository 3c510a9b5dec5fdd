//! Statistics: the document against what the original wrote, and measured from a real guest in the real image.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test ends by panicking

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use virt_launcher::domain::stats::{LoadStats, MemoryStats};
use virt_launcher::launcher::statistics::document::{Aliases, document};
use virt_launcher::libvirt::{Params, StatsRecord, TypedValue};

/// The statistics that the original sent, or `None` (said loudly) where the recordings are not at hand.
fn recorded() -> Option<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/cmd/agent.cmd.jsonl");
    let Ok(lines) = std::fs::read_to_string(&path) else {
        eprintln!("NOT TESTED: {} does not exist", path.display());
        return None;
    };
    let calls = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let stats = calls.filter(|call| call["rpc"] == "GetDomainStats").last().unwrap();
    Some(serde_json::from_str(stats["reply"]["domainStats"].as_str().unwrap()).unwrap())
}

/// libvirt's parameters from which the recorded document was made.
fn params(recorded: &Value) -> Params {
    let mut params: Vec<(String, TypedValue)> = Vec::new();
    let mut add = |name: String, object: &Value, key: &str| {
        if object[format!("{key}Set")] == true {
            let value = match &object[key] {
                Value::String(text) => TypedValue::Text(text.clone()),
                number => TypedValue::Unsigned(number.as_u64().unwrap()),
            };
            params.push((name, value));
        }
    };
    for (name, key) in [("time", "Time"), ("user", "User"), ("system", "System")] {
        add(format!("cpu.{name}"), &recorded["Cpu"], key);
    }
    for (name, key) in [
        ("unused", "Unused"),
        ("disk_caches", "Cached"),
        ("available", "Available"),
        ("current", "ActualBalloon"),
        ("rss", "RSS"),
        ("swap_in", "SwapIn"),
        ("swap_out", "SwapOut"),
        ("major_fault", "MajorFault"),
        ("minor_fault", "MinorFault"),
        ("usable", "Usable"),
    ] {
        add(format!("balloon.{name}"), &recorded["Memory"], key);
    }
    for (name, key) in [
        ("calc_status", "CalcStatus"),
        ("calc_start_time", "CalcStartTime"),
        ("calc_period", "CalcPeriod"),
        ("megabytes_per_second", "MegabytesPerSecond"),
    ] {
        add(format!("dirtyrate.{name}"), &recorded["DirtyRate"], key);
    }
    for (name, key) in [("state", "State"), ("time", "Time"), ("wait", "Wait"), ("delay", "Delay")] {
        // The second of three possible CPUs: ids leave gaps.
        add(format!("vcpu.1.{name}"), &recorded["Vcpu"][0], key);
    }
    for (index, disk) in recorded["Block"].as_array().unwrap().iter().enumerate() {
        for (name, key) in [
            ("name", "Name"),
            ("backingIndex", "BackingIndex"),
            ("path", "Path"),
            ("rd.reqs", "RdReqs"),
            ("rd.bytes", "RdBytes"),
            ("rd.times", "RdTimes"),
            ("wr.reqs", "WrReqs"),
            ("wr.bytes", "WrBytes"),
            ("wr.times", "WrTimes"),
            ("fl.reqs", "FlReqs"),
            ("fl.times", "FlTimes"),
            ("errors", "Errors"),
            ("allocation", "Allocation"),
            ("capacity", "Capacity"),
            ("physical", "Physical"),
        ] {
            add(format!("block.{index}.{name}"), disk, key);
        }
    }
    let disks = u64::try_from(recorded["Block"].as_array().unwrap().len()).unwrap();
    for (name, count) in [("vcpu.maximum", 3), ("net.count", 0), ("block.count", disks)] {
        params.push((name.to_owned(), TypedValue::Unsigned(count)));
    }
    params.into_iter().collect()
}

#[test]
fn the_document_is_the_recorded_one_key_for_key() {
    let Some(recorded) = recorded() else { return };
    let record = StatsRecord {
        name: recorded["Name"].as_str().unwrap().to_owned(),
        uuid: recorded["UUID"].as_str().unwrap().to_owned(),
        params: params(&recorded),
    };
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let disks = recorded["Block"].as_array().unwrap().iter();
    let aliases: Aliases = disks.map(|disk| (text(&disk["Name"]), text(&disk["Alias"]))).collect();
    let ours = document(&record, vec![vec![true, true]], &aliases, LoadStats::default());
    assert_eq!(serde_json::to_value(&ours).unwrap(), recorded);
    assert_ne!(ours.memory, MemoryStats::default(), "the recording has memory statistics");
}

#[test]
fn an_interface_has_the_documented_keys_and_the_name_that_the_vmi_gives_it() {
    let named = |(name, value): (&str, TypedValue)| (name.to_owned(), value);
    let params = [
        ("net.count", TypedValue::Unsigned(1)),
        ("net.0.name", TypedValue::Text("tap0".into())),
        ("net.0.rx.bytes", TypedValue::Unsigned(7)),
    ];
    let record = StatsRecord { params: params.map(named).into_iter().collect(), ..StatsRecord::default() };
    let aliases = Aliases::from([("tap0".to_owned(), "default".to_owned())]);
    let ours = serde_json::to_value(document(&record, Vec::new(), &aliases, LoadStats::default())).unwrap();
    let net = ours["Net"][0].as_object().unwrap();
    assert_eq!((&net["Name"], &net["Alias"], &net["RxBytes"]), (&"tap0".into(), &"default".into(), &7.into()));
    let documented = "Name Alias RxBytes RxPkts RxErrs RxDrop TxBytes TxPkts TxErrs TxDrop".split(' ');
    let documented: BTreeSet<String> = documented.flat_map(|key| [key.to_owned(), format!("{key}Set")]).collect();
    assert_eq!(net.keys().cloned().collect::<BTreeSet<_>>(), documented);
}
