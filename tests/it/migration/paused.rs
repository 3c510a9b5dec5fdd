//! VMs that a user has paused.

use serde_json::json;

use super::Shell;
use super::pair::{Move, SOON, source, target};
use super::side::Side;
use super::vm::Vm;
use crate::support::{expect, wait_for};

fn pause(vm: &Vm, source: &Side) {
    source.pause(&vm.document());
    source.wait("the VM is paused", SOON, |seen| seen.is("Paused", "User"));
}

/// Moves it with these options; it is paused until a user resumes it.
fn moves_paused(name: &str, options: &serde_json::Value) {
    let vm = Vm::on_a_shared_disk(name);
    let source = source(&vm);
    let checksum = Shell::of(&source).fill_memory();
    pause(&vm, &source);
    let target = target(&vm);
    let moved = Move::prepare_paused(&vm, &source, &target, "m1");
    moved.start(options);
    moved.wait_success("PreCopy");
    moved.finish();
    assert_eq!(target.beats(), Vec::<f64>::new(), "the guest did not run meanwhile");
    target.unpause(&vm.document());
    target.wait("the VM runs", SOON, |seen| seen.status == "Running");
    moved.check_beats();
    assert_eq!(Shell::of(&target).checksum(), checksum);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_that_a_user_has_paused_stays_paused_until_it_is_resumed_at_the_target() {
    moves_paused("paused", &json!({}));
}

/// The original's libvirt refuses it: error 74 (M4).
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn paused_vm_moves_although_post_copy_is_allowed() {
    moves_paused("paused-post-copy", &json!({ "AllowPostCopy": true, "ParallelMigrationThreads": null }));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn paused_vm_whose_migration_fails_stays_paused_at_the_source() {
    let vm = Vm::on_a_shared_disk("paused-cut");
    let source = source(&vm);
    pause(&vm, &source);
    let target = target(&vm);
    let failed = Move::prepare_paused(&vm, &source, &target, "m1");
    // With several connections QEMU itself may end when all break (contract/migration.md 16, M41).
    failed.start(&json!({ "Bandwidth": "4194304", "ParallelMigrationThreads": null }));
    failed.wait_transfer(2 << 20);
    failed.bridge.cut();
    failed.wait_failure();
    failed.end_target();
    assert!(source.seen().is("Paused", "User"), "{}", failed.story());
    let beats = source.beats().len();
    source.unpause(&vm.document());
    wait_for("the guest goes on", SOON, || expect(source.beats().len() > beats, beats));
}
