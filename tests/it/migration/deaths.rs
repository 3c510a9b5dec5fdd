//! Launchers that die while their VM is on its way, and after it has gone.

use serde_json::json;

use super::pair::{Move, source, target};
use super::vm::{SLOW, Vm};
use crate::support::processes::{owner, send};
use nix::sys::signal::Signal;

/// The original takes its VM along.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn source_launcher_that_dies_during_the_transfer_is_followed_by_one_that_reports_the_end() {
    let vm = Vm::on_a_shared_disk("source-dies");
    let (source, target) = (source(&vm), target(&vm));
    let broken = Move::prepare(&vm, &source, &target, "m1");
    broken.start(&json!({ "Bandwidth": SLOW }));
    broken.wait_transfer(1 << 20);
    source.pod.replace_launcher();
    println!("{:?}", broken.wait_failure());
    println!("the target ended with {}", broken.end_target());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn target_launcher_that_dies_during_the_transfer_leaves_the_vm_at_the_source() {
    let vm = Vm::on_a_shared_disk("target-dies");
    let (source, target) = (source(&vm), target(&vm));
    let broken = Move::prepare(&vm, &source, &target, "m1");
    broken.start(&json!({ "Bandwidth": SLOW }));
    broken.wait_transfer(1 << 20);
    send(owner(&target.pod), Signal::SIGKILL);
    println!("{:?}", broken.wait_failure());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn source_launcher_that_dies_after_the_move_is_followed_by_one_that_tells_the_same() {
    let vm = Vm::on_a_shared_disk("dies-late");
    let (source, target) = (source(&vm), target(&vm));
    let moved = Move::prepare(&vm, &source, &target, "m1");
    moved.start(&json!({}));
    let (record, _) = moved.wait_success("PreCopy");
    source.pod.replace_launcher();
    let seen = source.seen();
    assert!(seen.is("Shutoff", "Migrated"), "{seen:?}\n{}", moved.story());
    assert_eq!(seen.record, Some(record), "{}", moved.story());
    moved.finish();
}
