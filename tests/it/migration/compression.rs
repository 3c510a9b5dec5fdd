//! Memory that QEMU compresses on its way, and a limit of the downtime that is raised while memory goes round.

use serde_json::json;

use super::Shell;
use super::pair::{Move, source, target};
use super::side::Side;
use super::vm::Vm;
use crate::support::bridge::Line;
use crate::support::pod::text;

/// Bytes of the pages that QEMU has sent as pages, before it compressed them: libvirt's count at the target.
fn bytes_of_pages(target: &Side, vm: &Vm) -> f64 {
    let job = target.pod.virsh(&["domjobinfo", "--completed", &vm.domain()]);
    let line = job.lines().find_map(|line| line.strip_prefix("Normal data:")).unwrap_or_else(|| panic!("{job}"));
    let (number, unit) = line.trim().split_once(' ').unwrap();
    let unit = ["B", "KiB", "MiB", "GiB"].iter().position(|name| *name == unit).unwrap();
    number.parse::<f64>().unwrap() * f64::from(1 << (10 * unit))
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn compression_by_zstd_sends_less_than_the_pages_have() {
    let vm = Vm::on_a_shared_disk("zstd");
    let source = source(&vm);
    let checksum = Shell::of(&source).fill_memory();
    let target = target(&vm);
    let moved = Move::prepare(&vm, &source, &target, "m1");
    moved.start(&json!({ "Compression": "zstd" }));
    moved.wait_success("PreCopy");
    let sent = moved.bridge.counted(Line::Memory);
    let pages = bytes_of_pages(&target, &vm);
    println!("{pages} bytes of pages, {sent:?}");
    assert_eq!(sent.connections, 9, "{}", moved.bridge.log());
    assert!(f64::from(u32::try_from(sent.to_target).unwrap()) < pages / 2.0, "{pages}: {}", moved.bridge.log());
    moved.finish();
    assert_eq!(Shell::of(&target).checksum(), checksum);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn downtime_tuning_begins_low_and_qemu_takes_each_step() {
    let vm = Vm::on_a_shared_disk("downtime");
    let source = source(&vm);
    Shell::of(&source).fill_memory();
    Shell::of(&source).dirty_memory(4);
    let target = target(&vm);
    let moved = Move::prepare(&vm, &source, &target, "m1");
    let tuning = json!({ "initialMs": 10, "steps": 3, "startAfterIteration": 1, "cooldownSeconds": 1 });
    moved.start(&json!({ "Bandwidth": "33554432", "ParallelMigrationThreads": null, "DowntimeTuning": tuning }));
    moved.wait_success("PreCopy");
    let log = text(&source.pod.output());
    let tuned: Vec<&str> = log.lines().filter(|line| line.contains("downtime tuning")).collect();
    println!("{tuned:#?}");
    assert!(tuned.iter().any(|line| line.contains("downtime tuning enabled: initial=10ms")), "{tuned:#?}");
    assert!(tuned.iter().any(|line| line.contains("max_downtime ")), "{tuned:#?}");
    assert!(!log.contains("failed to set max_downtime"), "{tuned:#?}");
    moved.finish();
}
