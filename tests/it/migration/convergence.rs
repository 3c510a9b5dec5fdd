//! Guests that write to their memory faster than the link carries it.

use std::path::Path;

use serde_json::{Value, json};

use super::Shell;
use super::pair::{MOVED, Move, boot, source_image, target_image};
use super::side::Side;
use super::vm::Vm;
use crate::support::{expect, wait_for};

/// How often the memory that the guest fills is taken for what it writes all the time: 20 MB.
const BUSY: u32 = 10;
/// What virt-handler lets QEMU open for post-copy; virt-handler itself permits it by a sysctl of the node.
const USERFAULTFD: &str = "/dev/userfaultfd";

/// A link that is slower than the guest writes, in bytes per second.
const LINK: &str = "8388608";

/// A VM that does not get away by itself, its sides, and the checksum of its memory.
fn busy(name: &str) -> (Vm, Side, Side, String) {
    let vm = Vm::on_a_shared_disk(name).memory("256Mi");
    let start = |image: &str, name| {
        let side = Side::start_with(image, &vm, name, |setup| {
            if Path::new(USERFAULTFD).exists() { setup.podman(&["--device", USERFAULTFD]) } else { setup }
        });
        if Path::new(USERFAULTFD).exists() {
            side.pod.give_device(USERFAULTFD);
        }
        side
    };
    let source = start(&source_image(), "source");
    boot(&source, &vm);
    let mut shell = Shell::of(&source);
    let checksum = shell.fill_memory();
    shell.dirty_memory(BUSY);
    let target = start(&target_image(), "target");
    (vm, source, target, checksum)
}

fn options(more: &Value) -> Value {
    let mut options = json!({ "Bandwidth": LINK, "ParallelMigrationThreads": null });
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    options
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn auto_converge_slows_a_busy_guest_until_it_can_be_moved() {
    let (vm, source, target, checksum) = busy("converge");
    let moved = Move::prepare(&vm, &source, &target, "m1");
    moved.start(&options(&json!({ "AllowAutoConverge": true })));
    let domain = vm.domain();
    let throttled = wait_for("the guest is slowed", MOVED, || {
        assert!(!source.seen().has_ended(), "{}", moved.story());
        let job = source.pod.try_exec(&[
            "virsh",
            "-c",
            "qemu+unix:///session?socket=/run/libvirt/virtqemud-sock",
            "domjobinfo",
            &domain,
        ]);
        let job = crate::support::pod::text(&job);
        let line = job.lines().find(|line| line.starts_with("Auto converge throttle:")).map(str::to_owned);
        line.ok_or(job)
    });
    println!("{throttled}");
    moved.wait_success("PreCopy");
    moved.finish();
    assert_eq!(Shell::of(&target).checksum(), checksum);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn busy_guest_is_paused_for_the_rest_of_its_move_if_its_work_may_be_disrupted() {
    let (vm, source, target, checksum) = busy("disrupt");
    let moved = Move::prepare(&vm, &source, &target, "m1");
    moved.start(&options(&json!({ "AllowWorkloadDisruption": true, "CompletionTimeoutPerGiB": 15 })));
    let (record, _) = moved.wait_success("Paused");
    assert!(record.seconds() >= 15, "{record:?}");
    let paused = |seen: &super::side::Seen| {
        seen.is("Paused", "Migration") && seen.record.as_ref().is_some_and(|record| record.mode == "Paused")
    };
    assert!(source.told().iter().any(paused), "{}", moved.story());
    moved.finish();
    assert_eq!(Shell::of(&target).checksum(), checksum);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn busy_guest_runs_at_the_target_before_its_memory_with_post_copy() {
    let (vm, source, target, checksum) = busy("post-copy");
    let moved = Move::prepare(&vm, &source, &target, "m1");
    let allowed = json!({ "AllowPostCopy": true, "AllowWorkloadDisruption": true, "CompletionTimeoutPerGiB": 5 });
    moved.start(&options(&allowed));
    let (record, _) = moved.wait_success("PostCopy");
    assert!(record.seconds() >= 5, "{record:?}");
    // The mode is told while it goes on, since a failure is final from then on.
    let told = |seen: &super::side::Seen| {
        seen.record.as_ref().is_some_and(|record| record.mode == "PostCopy" && record.end.is_none())
    };
    assert!(source.told().iter().any(told), "{}", moved.story());
    println!("{}", moved.story());
    moved.finish();
    assert_eq!(Shell::of(&target).checksum(), checksum);
}

/// The work of a guest that is neither slowed nor disrupted goes on, and it stays.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn busy_guest_whose_work_may_not_be_disrupted_stays() {
    let (vm, source, target, checksum) = busy("busy");
    let aborted = Move::prepare(&vm, &source, &target, "m1");
    aborted.start(&options(&json!({ "CompletionTimeoutPerGiB": 15 })));
    aborted.wait_given_up();
    expect(source.seen().status == "Running", source.seen()).unwrap();
    println!("the target ended with {}", aborted.end_target());
    assert_eq!(Shell::of(&source).checksum(), checksum);
}
