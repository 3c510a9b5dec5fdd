//! What the launchers may weigh while a VM moves. The number does not depend on how fast the machine is.

use serde_json::json;

use super::pair::{Move, source, target};
use super::vm::Vm;
use crate::support::bridge::{Faults, Line};
use crate::support::processes::owner;
use crate::support::weight::rollup;

/// Resident memory of a launcher in KiB, as in `image::budgets`.
const LAUNCHER: u64 = 12 * 1024;

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn launchers_of_both_sides_stay_within_their_memory_during_a_migration() {
    let vm = Vm::on_a_shared_disk("weight");
    let (source, target) = (source(&vm), target(&vm));
    let launchers = [owner(&source.pod), owner(&target.pod)];
    let rss = || launchers.map(|launcher| rollup(launcher, "Rss:").unwrap());
    let moved = Move::prepare(&vm, &source, &target, "m1");
    // Slow enough that the launchers are weighed in the middle.
    moved.bridge.faults(Line::Memory, Faults { bytes_per_second: Some(8 << 20), ..Faults::default() });
    moved.start(&json!({}));
    moved.wait_transfer(16 << 20);
    let during = rss();
    moved.bridge.faults(Line::Memory, Faults::default());
    moved.wait_success("PreCopy");
    let after = rss();
    println!("RSS of source and target in KiB: {during:?} during the move, {after:?} after it");
    assert!(during.iter().chain(&after).all(|rss| *rss <= LAUNCHER), "{during:?} during the move, {after:?} after it");
    moved.finish();
}
