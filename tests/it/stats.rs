//! Statistics: the document's keys, and what is measured from a real guest in the real image.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::pod::{Pod, demo_vmi, image, text};
use crate::support::{expect, wait_for};
use serde_json::Value;
use virt_launcher::domain::stats::LoadStats;
use virt_launcher::launcher::statistics::document::{Aliases, document};
use virt_launcher::libvirt::{StatsRecord, TypedValue};

#[test]
fn interface_has_the_documented_keys_and_the_name_that_the_vmi_gives_it() {
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

/// The keys of the original's document, in the form of [`keys`].
pub const ORIGINAL: &str = include_str!("../golden/domain-stats.keys");

/// All keys of a document with their places; list entries count as one.
pub fn keys(document: &Value) -> BTreeSet<String> {
    fn collect(value: &Value, at: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    found.insert(format!("{at}/{key}"));
                    collect(value, &format!("{at}/{key}"), found);
                }
            }
            Value::Array(entries) => entries.iter().for_each(|entry| collect(entry, &format!("{at}/*"), found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    let mut found = BTreeSet::new();
    collect(document, "", &mut found);
    found
}

fn json(pod: &Pod, words: &[&str]) -> Value {
    let output = pod.ctl(&[&["-o", "json"], words].concat());
    assert!(output.status.success(), "{words:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(pod: &Pod, words: &[&str]) -> String {
    let output = pod.ctl(words);
    assert_eq!(output.status.code(), Some(1), "{words:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

fn metadata(pod: &Pod) -> Value {
    json(pod, &["get-domain"])["Spec"]["Metadata"]["KubeVirt"].clone()
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn real_guest_is_measured_pictured_and_dumped() {
    let image = image();
    let pod = Pod::start(&image, "demo", &["--vm-stats-collector"]);
    pod.wait_ready();
    assert_eq!(refused(&pod, &["stats"]), "empty DomainStats");
    pod.provide_disks();
    let with_a_screen = demo_vmi().replace("GraphicsDevice: false", "GraphicsDevice: true");
    let synced = pod.sync(&with_a_screen);
    assert!(synced.status.success(), "{}", text(&synced));
    pod.wait_status("Running");
    // Up to here the guest may have used next to nothing.
    let console = pod.volume("private").join("5a9c1f0e-7d0b-4a53-9c5e-0f4d9f6b2a11/virt-serial0");
    let up = pod.ctl(&["--timeout", "180", "console", "--path", console.to_str().unwrap(), "--until", "heartbeat"]);
    assert!(up.status.success(), "{}", text(&up));

    let stats = json(&pod, &["stats"]);
    let mut ours = keys(&stats);
    // The original's guest had no interface.
    ours.retain(|key| !key.starts_with("/Net/"));
    assert_eq!(ours, ORIGINAL.lines().map(str::to_owned).collect());
    let number = |pointer: &str| stats.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer}"));
    assert_eq!(stats["Name"], "default_demo");
    assert!((1_000_000_000..600_000_000_000).contains(&number("/Cpu/Time")), "{stats}");
    assert!(number("/Cpu/Time") >= number("/Cpu/User").max(number("/Cpu/System")), "{stats}");
    assert_eq!(number("/Memory/Total"), 256 * 1024);
    assert!((10 * 1024..2048 * 1024).contains(&number("/Memory/RSS")), "{stats}");
    assert_eq!(stats["Vcpu"].as_array().unwrap().len(), 1);
    assert!(number("/Vcpu/0/Time") > 0 && number("/Vcpu/0/State") <= 2, "{stats}");
    let disks: Vec<_> = stats["Block"].as_array().unwrap().iter().map(|disk| disk["Alias"].as_str().unwrap()).collect();
    assert_eq!(disks, ["containerdisk", "cloudinit", "scratch"]);
    assert!(number("/Block/0/RdBytes") > 0 && number("/Block/0/Capacity") >= number("/Block/0/RdBytes"), "{stats}");
    let map = stats["CPUMap"].as_array().unwrap();
    assert!(map.len() == 1 && map[0].as_array().unwrap().contains(&Value::Bool(true)), "{stats}");

    let rate = json(&pod, &["dirty-rate"])["dirtyRateMbs"].as_i64().unwrap();
    assert!((0..10_000).contains(&rate), "{rate} MiB/s");
    let measured = json(&pod, &["stats"]);
    assert_eq!(measured["DirtyRate"]["CalcStatus"], 2, "{measured}");

    let picture = pod.volume("public").join("screen");
    let taken = json(&pod, &["screenshot", picture.to_str().unwrap()]);
    assert_eq!(taken["mime"], "image/png");
    let size = picture_size(&std::fs::read(&picture).unwrap());
    assert!((100..4000).contains(&size.0) && (100..4000).contains(&size.1), "{size:?}");

    let both = json(&pod, &["vm-stats", "domain-stats", "dirty-rate"]);
    assert!(both["domain-stats"]["Name"] == "default_demo" && both["dirty-rate"].is_i64(), "{both}");
    agent_answers(&pod);
    memory_dump(&pod);
    sev(&pod);
    let killed = pod.ctl(&["kill"]);
    assert!(killed.status.success(), "{}", text(&killed));
    pod.wait_exit();
}

/// Width and height from a PNG's header; the whole file's chunks are walked to its end.
fn picture_size(png: &[u8]) -> (u32, u32) {
    let mut rest = png.strip_prefix(b"\x89PNG\r\n\x1a\n").expect("a PNG signature");
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap());
    let mut size = None;
    loop {
        let (length, kind) = (number(rest) as usize, &rest[4..8]);
        if kind == b"IHDR" {
            size = Some((number(&rest[8..]), number(&rest[12..])));
        }
        if kind == b"IEND" {
            assert_eq!(rest.len(), 12 + length, "nothing behind the end");
            return size.expect("a header");
        }
        rest = &rest[12 + length..];
    }
}

fn memory_dump(pod: &Pod) {
    const INSIDE: &str = "/var/run/kubevirt/demo.memory.dump";
    let file = pod.volume("public").join("demo.memory.dump");
    let old = pod.volume("public").join("older-memory.dump");
    std::fs::write(&old, "old").unwrap();
    std::fs::set_permissions(&old, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let dumped = pod.ctl(&["memory-dump", INSIDE]);
    assert!(dumped.status.success(), "{}", text(&dumped));
    wait_for("end of the memory dump", Duration::from_secs(120), || {
        let dump = metadata(pod)["MemoryDump"].clone();
        expect(dump["Completed"] == true, &dump).map(|()| {
            assert_eq!((&dump["FileName"], &dump["Failed"]), (&"demo.memory.dump".into(), &false.into()), "{dump}");
            assert!(dump["StartTimestamp"].is_string() && dump["EndTimestamp"].is_string(), "{dump}");
        })
    });
    let written = std::fs::metadata(&file).unwrap();
    assert!(written.len() > 100 * 1024 * 1024, "{} bytes", written.len());
    assert!(!old.exists(), "an older dump stays");
    pod.wait_status("Running");

    // The same again is done already; a path that cannot be written fails with libvirt's words.
    let again = pod.ctl(&["memory-dump", INSIDE]);
    assert!(again.status.success(), "{}", text(&again));
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written.modified().unwrap());
    let elsewhere = pod.ctl(&["memory-dump", "/proc/nowhere/other.memory.dump"]);
    assert!(elsewhere.status.success(), "{}", text(&elsewhere));
    wait_for("failure of the memory dump", Duration::from_secs(60), || {
        let dump = metadata(pod)["MemoryDump"].clone();
        expect(dump["FileName"] == "other.memory.dump" && dump["Completed"] == true, &dump).map(|()| {
            assert_eq!(dump["Failed"], true);
            let reason = dump["FailureReason"].as_str().unwrap();
            assert!(reason.starts_with("Domain memory dump failed: virError(Code="), "{reason}");
        })
    });
}

/// This machine has no SEV.
fn sev(pod: &Pod) {
    let said = refused(pod, &["sev-info"]);
    assert_eq!(
        said,
        "LibvirtError(Code=84, Domain=10, Message='Operation not supported: QEMU does not support SEV guest')"
    );
    assert_eq!(refused(pod, &["launch-measurement"]), "open : no such file or directory");
    let part = pod.volume("public").join("part");
    std::fs::write(&part, "AAAA").unwrap();
    let part = part.to_str().unwrap();
    let said = refused(pod, &["inject-launch-secret", "--header", part, "--secret", part]);
    assert!(said.starts_with("LibvirtError(Code="), "{said}");
}

fn agent_answers(pod: &Pod) {
    wait_for("guest agent", Duration::from_secs(120), || {
        let domain = json(pod, &["get-domain"]);
        let channels = domain["Spec"]["Devices"]["Channels"].as_array().cloned().unwrap_or_default();
        expect(channels.iter().any(|channel| channel["Target"]["State"] == "connected"), channels)
    });
    let answers = json(pod, &["vm-stats", "guest-get-time", "guest-get-osinfo"]);
    assert!(answers["guest-get-time"]["return"].as_u64().unwrap() > 1_700_000_000_000_000_000, "{answers}");
    assert!(answers["guest-get-osinfo"]["return"]["machine"].is_string(), "{answers}");
    let again = json(pod, &["vm-stats", "guest-get-time"]);
    assert_eq!(again["guest-get-time"], answers["guest-get-time"], "the answer is kept for a minute");
}
