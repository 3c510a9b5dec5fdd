//! CPUs and memory that a running VM is given by a move (contract/migration.md 12).

use std::time::Duration;

use serde_json::{Value, json};

use super::Shell;
use super::pair::{Move, source, target};
use super::side::Side;
use super::vm::Vm;
use crate::support::{expect, wait_for};

/// Linux tries a block of memory again after some seconds, on a busy machine for longer.
const BY_THE_GUEST: Duration = Duration::from_secs(120);

/// One socket of two, and 256 MiB of 1 GiB.
fn vm(name: &str) -> Vm {
    Vm::on_a_shared_disk(name).memory("256Mi").with(|domain| {
        domain["cpu"] = json!({ "cores": 1, "sockets": 1, "threads": 1, "maxSockets": 2, "model": "host-model" });
        domain["memory"]["maxGuest"] = json!("1Gi");
        domain["firmware"]["kernelBoot"]["kernelArgs"] =
            json!("console=ttyS0 quiet no_timer_check heartbeat memhp_default_state=online_movable");
    })
}

/// What virt-handler shows the launchers while such an update waits for the end of the move.
fn updated(document: &mut Value, sockets: u32, guest: &str) {
    document["spec"]["domain"]["cpu"]["sockets"] = json!(sockets);
    document["spec"]["domain"]["memory"]["guest"] = json!(guest);
    document["status"]["currentCPUTopology"] = json!({ "cores": 1, "sockets": 1, "threads": 1 });
    document["status"]["memory"] =
        json!({ "guestAtBoot": "256Mi", "guestCurrent": "256Mi", "guestRequested": "256Mi" });
    document["status"]["conditions"] = json!([
        { "type": "HotVCPUChange", "status": "True" }, { "type": "HotMemoryChange", "status": "True" },
    ]);
}

fn memory(side: &Side, vm: &Vm) -> u64 {
    let xml = side.pod.virsh(&["dumpxml", &vm.domain()]);
    let current = xml.split("<currentMemory unit='KiB'>").nth(1).and_then(|rest| rest.split('<').next());
    current.unwrap().parse::<u64>().unwrap() >> 10
}

/// vCPUs that the domain has now.
fn vcpus(side: &Side, vm: &Vm) -> String {
    side.pod.virsh(&["vcpucount", &vm.domain(), "--live", "--active"])
}

fn given(side: &Side, document: &Value) {
    for (what, answer) in [("CPUs", side.sync_cpus(document)), ("memory", side.sync_memory(document))] {
        assert!(answer.success, "{what}: {}\n{}", answer.message, side.story());
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn live_update_gives_cpus_and_memory_after_the_move() {
    let vm = vm("live-update");
    let source = source(&vm);
    let checksum = Shell::of(&source).fill_memory();
    let arrived = target(&vm);
    let moved = Move::prepare_changed(&vm, &source, &arrived, "m1", |document, _| updated(document, 2, "512Mi"));
    let mut document = moved.document();
    updated(&mut document, 2, "512Mi");
    let started = source.migrate(&document, &super::vm::options(&json!({})));
    assert!(started.success, "{}\n{}", started.message, moved.story());
    moved.wait_success("PreCopy");
    let mut shell = Shell::of(&arrived);
    assert_eq!((vcpus(&arrived, &vm).as_str(), memory(&arrived, &vm)), ("1", 256), "the move itself changes nothing");
    given(&arrived, &document);
    // virt-handler repeats the finalisation as a whole.
    given(&arrived, &document);
    // In emulation Linux 6.12 leaves no room for another CPU at boot, and can only log that it was offered one.
    shell.0.wait("[ -e /sys/devices/system/cpu/cpu1 ] || dmesg | grep 'Unable to map lapic to logical cpu'");
    assert_eq!(vcpus(&arrived, &vm), "2");
    wait_for("the guest's memory", BY_THE_GUEST, || expect(memory(&arrived, &vm) == 512, memory(&arrived, &vm)));
    let total: u64 = shell.run("sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo").parse().unwrap();
    assert!(total > 400 << 10, "{total} KiB");
    assert_eq!(shell.checksum(), checksum);
    drop(shell);
    moved.finish();
}
