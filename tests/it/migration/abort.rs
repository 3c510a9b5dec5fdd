//! Migrations that are ended: by a user, or by the launcher for the time they take.

use serde_json::json;

use super::Shell;
use super::pair::{Move, source, target};
use super::vm::{SLOW, Vm};
use crate::support::bridge::{Faults, Line};

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn cancel_during_the_transfer_leaves_the_vm_and_the_next_migration_succeeds() {
    let vm = Vm::on_a_shared_disk("cancel");
    let source = source(&vm);
    let checksum = Shell::of(&source).fill_memory();
    let first = target(&vm);
    let cancelled = Move::prepare(&vm, &source, &first, "m1");
    cancelled.start(&json!({ "Bandwidth": SLOW }));
    cancelled.wait_transfer(1 << 20);
    cancelled.cancel();
    cancelled.wait_aborted();
    println!("the target ended with {}", cancelled.end_target());
    drop(cancelled);
    drop(first);
    let second = target(&vm);
    let moved = Move::prepare(&vm, &source, &second, "m2");
    moved.start(&json!({}));
    moved.wait_success("PreCopy");
    moved.finish();
    assert_eq!(Shell::of(&second).checksum(), checksum);
}

/// The original answers a cancel that comes before libvirt's job with AbortStatus `Failed`, and virt-handler asks again
/// (M12).
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn cancel_right_after_the_order_leaves_the_vm() {
    let vm = Vm::on_a_shared_disk("cancel-at-once");
    let (source, target) = (source(&vm), target(&vm));
    let cancelled = Move::prepare(&vm, &source, &target, "m1");
    cancelled.start(&json!({ "Bandwidth": SLOW }));
    cancelled.cancel();
    cancelled.wait_aborted();
    let asked = source.told().iter().filter_map(|seen| Some(seen.record.as_ref()?.abort.clone())).collect::<Vec<_>>();
    println!("AbortStatus: {asked:?}; the target ended with {}", cancelled.end_target());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn migration_that_takes_longer_than_its_data_may_is_aborted() {
    let vm = Vm::on_a_shared_disk("too-long");
    let (source, target) = (source(&vm), target(&vm));
    let aborted = Move::prepare(&vm, &source, &target, "m1");
    aborted.bridge.faults(Line::Memory, Faults { bytes_per_second: Some(256 << 10), ..Faults::default() });
    // A guest of less than 1 GB has so many seconds.
    aborted.start(&json!({ "CompletionTimeoutPerGiB": 5, "Bandwidth": SLOW }));
    let record = aborted.wait_given_up();
    let took = record.seconds();
    assert!((5..30).contains(&took), "{took} s: {record:?}");
    println!("the target ended with {}", aborted.end_target());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn migration_over_a_link_that_stalls_is_aborted() {
    let vm = Vm::on_a_shared_disk("stalled");
    let (source, target) = (source(&vm), target(&vm));
    let aborted = Move::prepare(&vm, &source, &target, "m1");
    aborted.start(&json!({ "ProgressTimeout": 4, "Bandwidth": SLOW }));
    aborted.wait_transfer(1 << 20);
    aborted.bridge.faults(Line::Memory, Faults { bytes_per_second: Some(1), ..Faults::default() });
    aborted.wait_given_up();
    println!("the target ended with {}", aborted.end_target());
}
