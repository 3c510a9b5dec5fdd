//! The statistics document against what the original wrote.

use serde_json::Value;
use virt_launcher::domain::stats::{LoadStats, MemoryStats};
use virt_launcher::launcher::statistics::document::{Aliases, document};
use virt_launcher::libvirt::{Params, StatsRecord, TypedValue};

use crate::stats::{ORIGINAL, keys};
use crate::support::wide_suite;

/// The statistics that the original sent.
fn recorded() -> Value {
    let lines = std::fs::read_to_string(wide_suite("cmd").join("agent.cmd.jsonl")).unwrap();
    let mut calls = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let stats = calls.rfind(|call| call["rpc"] == "GetDomainStats").unwrap();
    serde_json::from_str(stats["reply"]["domainStats"].as_str().unwrap()).unwrap()
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
#[ignore = "needs the wide suite, ../shared/conformance; make test"]
fn document_is_the_recorded_one_key_for_key() {
    let recorded = recorded();
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
#[ignore = "needs the wide suite, ../shared/conformance; make test"]
fn keys_of_the_document_are_those_that_a_real_guest_is_held_to() {
    assert_eq!(keys(&recorded()), ORIGINAL.lines().map(str::to_owned).collect());
}
