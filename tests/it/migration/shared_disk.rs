//! VMs whose disk both pods have: memory alone is sent.

use serde_json::json;

use super::Shell;
use super::pair::{Move, source, target};
use super::vm::Vm;
use crate::support::bridge::Line;

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_on_a_shared_disk_moves_with_its_memory_and_its_disk() {
    let vm = Vm::on_a_shared_disk("plain");
    let source = source(&vm);
    let mut shell = Shell::of(&source);
    let checksum = shell.fill_memory();
    shell.run("echo before-the-move | dd of=/dev/vda conv=fsync 2>/dev/null");
    let target = target(&vm);
    let moved = Move::prepare(&vm, &source, &target, "m1");
    moved.start(&json!({}));
    moved.wait_success("PreCopy");
    drop(shell);
    let mut shell = Shell::of(&target);
    assert_eq!(shell.checksum(), checksum);
    let disk = shell.run("echo 3 >/proc/sys/vm/drop_caches; head -n 1 /dev/vda");
    assert_eq!(disk, "before-the-move");
    shell.run("echo after-the-move | dd of=/dev/vda conv=fsync 2>/dev/null");
    moved.finish();
    assert_eq!(shell.checksum(), checksum);
    // One for libvirt, one for QEMU's main channel and eight for its threads.
    assert_eq!(moved.bridge.counted(Line::Control).connections, 1, "{}", moved.bridge.log());
    assert_eq!(moved.bridge.counted(Line::Memory).connections, 9, "{}", moved.bridge.log());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_with_a_cpu_limit_moves_over_one_connection() {
    let vm = Vm::on_a_shared_disk("one-thread");
    let (source, target) = (source(&vm), target(&vm));
    let moved = Move::prepare(&vm, &source, &target, "m1");
    moved.start(&json!({ "ParallelMigrationThreads": null }));
    moved.wait_success("PreCopy");
    assert_eq!(moved.bridge.counted(Line::Control).connections, 1, "{}", moved.bridge.log());
    assert_eq!(moved.bridge.counted(Line::Memory).connections, 1, "{}", moved.bridge.log());
    moved.finish();
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_moves_four_times_in_a_row() {
    let vm = Vm::on_a_shared_disk("nomad");
    let mut here = source(&vm);
    let checksum = Shell::of(&here).fill_memory();
    for number in 1..=4 {
        let there = target(&vm);
        let moved = Move::prepare(&vm, &here, &there, &format!("m{number}"));
        moved.start(&json!({}));
        moved.wait_success("PreCopy");
        moved.finish();
        drop(moved);
        here = there;
        assert_eq!(Shell::of(&here).checksum(), checksum, "after move {number}");
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn disk_that_is_not_known_to_be_shared_is_refused_unless_unsafe_is_allowed() {
    let vm = Vm::on_a_shared_disk("unsafe");
    let unnamed = |image: &str, name| {
        super::side::Side::start_with(image, &vm, name, |setup| setup.env("SHARED_FILESYSTEM_PATHS", "/nowhere"))
    };
    let source = unnamed(&super::pair::source_image(), "source");
    super::pair::boot(&source, &vm);
    let target = unnamed(&super::pair::target_image(), "target");
    let refused = Move::prepare(&vm, &source, &target, "m1");
    refused.start(&json!({}));
    let record = refused.wait_failure();
    assert!(record.reason.contains("virError(Code=81"), "{record:?}");
    drop(refused);
    let moved = Move::prepare(&vm, &source, &target, "m2");
    moved.start(&json!({ "UnsafeMigration": true }));
    moved.wait_success("PreCopy");
    moved.finish();
}
