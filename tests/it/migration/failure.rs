//! Links that cannot be made, or break.

use serde_json::{Value, json};

use super::Shell;
use super::pair::{Move, source, target};
use super::vm::Vm;
use crate::support::bridge::{Faults, Line};

/// A migration that fails because of this line, whose target is then ended.
fn fails(name: &str, line: Line, faults: Faults, options: &Value) {
    stays(name, options, |failed| failed.bridge.faults(line, faults), |_| ());
}

/// A migration that fails because of what is done before or after its start; the guest goes on at the source.
fn stays(name: &str, options: &Value, before: impl FnOnce(&Move), after: impl FnOnce(&Move)) {
    let vm = Vm::on_a_shared_disk(name);
    let source = source(&vm);
    let checksum = Shell::of(&source).fill_memory();
    let target = target(&vm);
    let failed = Move::prepare(&vm, &source, &target, "m1");
    before(&failed);
    failed.start(options);
    after(&failed);
    let goes_on = match has_one_connection(options) {
        true => {
            failed.wait_failure();
            true
        }
        false => failed.wait_failure_of_several_connections(),
    };
    let record = source.record().unwrap_or_default();
    assert_eq!((record.abort.as_str(), record.mode.as_str()), ("", "PreCopy"), "{record:?}");
    println!("{}: the target ended with {}", record.reason, failed.end_target());
    if goes_on {
        assert_eq!(Shell::of(&source).checksum(), checksum);
    }
}

fn has_one_connection(options: &Value) -> bool {
    options.get("ParallelMigrationThreads").is_some_and(Value::is_null)
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_stays_if_the_connection_for_its_memory_is_refused() {
    let faults = Faults { refuses: vec![1], ..Faults::default() };
    fails("refused", Line::Memory, faults, &json!({ "ParallelMigrationThreads": null }));
}

/// At times QEMU's threads wait for the target and no error comes: then the missing progress ends it (M42).
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_stays_if_the_main_one_of_several_connections_is_refused() {
    let vm = Vm::on_a_shared_disk("refused-main");
    let (source, target) = (source(&vm), target(&vm));
    let failed = Move::prepare(&vm, &source, &target, "m1");
    failed.bridge.faults(Line::Memory, Faults { refuses: vec![1], ..Faults::default() });
    failed.start(&json!({ "ProgressTimeout": 5 }));
    // QEMU at times does not end it although libvirt has aborted it (contract/migration.md 16, M42).
    let goes_on = failed.wait_failure_of_several_connections();
    println!("the guest goes on: {goes_on}; the target ended with {}", failed.end_target());
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_stays_if_one_of_the_connections_for_its_memory_is_refused() {
    fails("refused-thread", Line::Memory, Faults { refuses: vec![5], ..Faults::default() }, &json!({}));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_stays_if_its_memory_is_cut_in_the_middle() {
    let faults = Faults { cut_after: Some(8 << 20), ..Faults::default() };
    fails("memory-cut", Line::Memory, faults, &json!({ "Bandwidth": "8388608" }));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_stays_if_the_only_connection_for_its_memory_is_reset_in_the_middle() {
    let faults = Faults { cut_after: Some(8 << 20), resets: true, ..Faults::default() };
    fails("memory-reset", Line::Memory, faults, &json!({ "Bandwidth": "8388608", "ParallelMigrationThreads": null }));
}

/// All connections end once so many bytes of memory have been sent.
fn stays_after_a_cut(name: &str, sent: u64, options: &Value) {
    stays(
        name,
        options,
        |_| (),
        |failed| {
            failed.wait_transfer(sent);
            failed.bridge.cut();
        },
    );
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_stays_if_the_whole_link_is_cut_in_the_middle() {
    stays_after_a_cut("cut", 8 << 20, &json!({ "Bandwidth": "4194304", "ParallelMigrationThreads": null }));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_stays_if_the_whole_link_of_several_connections_is_cut_in_the_middle() {
    stays_after_a_cut("cut-threads", 8 << 20, &json!({ "Bandwidth": "4194304" }));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn vm_stays_if_the_whole_link_is_cut_at_once() {
    stays_after_a_cut("cut-early", 1, &json!({ "Bandwidth": "4194304", "ParallelMigrationThreads": null }));
}

/// Here QEMU 10.0.13 itself has ended 3 times of 3 (contract/migration.md 16, M41): its end is told.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn end_of_a_vm_is_reported_if_its_qemu_does_not_survive_a_cut() {
    stays_after_a_cut("cut-early-threads", 1, &json!({ "Bandwidth": "4194304" }));
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn migration_that_has_failed_is_not_executed_again_but_another_one_is() {
    let vm = Vm::on_a_shared_disk("once");
    let (source, target) = (source(&vm), target(&vm));
    let failed = Move::prepare(&vm, &source, &target, "m1");
    failed.bridge.faults(Line::Control, Faults { refuses: vec![1], ..Faults::default() });
    failed.start(&json!({}));
    let record = failed.wait_failure();
    println!("{}", record.reason);
    let again = source.migrate(&failed.document(), &super::vm::options(&json!({})));
    assert!(
        !again.success && again.message.starts_with("migration job m1 already executed, finished at "),
        "{again:?}"
    );
    assert!(again.message.ends_with(", failed: true, abortStatus: "), "{again:?}");
    assert_eq!(source.record(), Some(record), "the record stays as it is");
    drop(failed);
    // The target never saw the VM, and is prepared anew.
    let moved = Move::prepare(&vm, &source, &target, "m2");
    moved.start(&json!({}));
    moved.wait_success("PreCopy");
    let late = target.prepare(&moved.document());
    assert!(!late.success && late.message.starts_with("migration job m2 already executed, finished at "), "{late:?}");
    moved.finish();
}
