//! VMs with disks of the pod's own, which are copied: containerDisk, cloud-init and emptyDisk.

use serde_json::json;

use super::Shell;
use super::pair::{Move, source, target};
use super::vm::Vm;
use crate::support::bridge::{Faults, Line};

/// The checksum of the guest's disks, as they are and not as its memory has them.
const DISKS: &str = "echo 3 >/proc/sys/vm/drop_caches; cat /dev/vda /dev/vdb /dev/vdc | md5sum";

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn local_disks_are_copied_with_what_the_guest_has_written() {
    let vm = Vm::on_local_disks("block");
    let source = source(&vm);
    let mut shell = Shell::of(&source);
    let checksum = shell.fill_memory();
    for disk in ["vda", "vdc"] {
        shell.run(&format!("seq 1 200000 | dd of=/dev/{disk} bs=64k conv=fsync 2>/dev/null"));
    }
    let disks = shell.run(DISKS);
    let target = target(&vm);
    let moved = Move::prepare(&vm, &source, &target, "m1");
    moved.start(&json!({}));
    moved.wait_success("PreCopy");
    drop(shell);
    let mut shell = Shell::of(&target);
    assert_eq!(shell.run(DISKS), disks);
    assert_eq!(shell.checksum(), checksum);
    moved.finish();
    let disks = moved.bridge.counted(Line::Disks);
    println!("{disks:?}");
    assert!(disks.connections >= 3 && disks.to_target > 2 << 20, "{}", moved.bridge.log());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_stays_if_its_disks_cannot_be_sent() {
    let vm = Vm::on_local_disks("no-disks");
    let (source, target) = (source(&vm), target(&vm));
    let failed = Move::prepare(&vm, &source, &target, "m1");
    failed.bridge.faults(Line::Disks, Faults { refuses: vec![2], ..Faults::default() });
    failed.start(&json!({}));
    let record = failed.wait_failure();
    println!("{record:?}; the target ended with {}", failed.end_target());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn cancel_while_disks_are_copied_leaves_the_vm() {
    let vm = Vm::on_local_disks("disks-cancel");
    let source = source(&vm);
    Shell::of(&source).run("seq 1 1000000 | dd of=/dev/vdc bs=64k conv=fsync 2>/dev/null");
    let target = target(&vm);
    let cancelled = Move::prepare(&vm, &source, &target, "m1");
    cancelled.bridge.faults(Line::Disks, Faults { bytes_per_second: Some(256 << 10), ..Faults::default() });
    cancelled.start(&json!({}));
    cancelled.wait_sent(Line::Disks, 512 << 10);
    cancelled.cancel();
    cancelled.wait_aborted();
    println!("the target ended with {}", cancelled.end_target());
}
