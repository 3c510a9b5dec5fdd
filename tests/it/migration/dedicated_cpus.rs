//! A VM with dedicated CPUs between pods that have different ones.

use serde_json::json;
use virt_launcher::proto::cmd_v1::{Cell, Cpu, Memory, Topology, VirtualMachineOptions};

use super::pair::{Move, SOON, source_image, target_image};
use super::side::Side;
use super::vm::Vm;

/// A node with two cores in one NUMA cell.
fn node() -> VirtualMachineOptions {
    let cpus = [0, 1].map(|id| Cpu { id, siblings: vec![id] }).to_vec();
    let memory = Some(Memory { amount: 4 << 20, unit: "KiB".to_owned() });
    let topology = Topology { numa_cells: vec![Cell { id: 0, memory, cpus, ..Cell::default() }] };
    VirtualMachineOptions { topology: Some(topology), ..VirtualMachineOptions::default() }
}

/// A pod that may run on this CPU alone.
fn on_cpu(image: &str, vm: &Vm, name: &str, cpu: &str) -> Side {
    Side::start_with(image, vm, name, |setup| setup.podman(&["--cpuset-cpus", cpu]))
}

/// Where the vCPU runs: what libvirt has, and what the kernel has of QEMU's thread.
fn check_pinned(side: &Side, vm: &Vm, cpu: &str) {
    let xml = side.pod.virsh(&["dumpxml", &vm.domain()]);
    assert!(xml.contains(&format!("<vcpupin vcpu='0' cpuset='{cpu}'/>")), "{xml}");
    let threads = "for task in /proc/[0-9]*/task/[0-9]*; do case $(cat $task/comm 2>/dev/null) in \
        'CPU '*) sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' $task/status ;; esac; done";
    assert_eq!(side.pod.exec(&["sh", "-c", threads]), cpu);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn dedicated_cpus_are_those_of_the_pod_at_which_the_guest_runs() {
    let vm = Vm::on_a_shared_disk("pinned").with(|domain| {
        domain["cpu"] = json!({ "cores": 1, "sockets": 1, "threads": 1, "dedicatedCpuPlacement": true });
    });
    let source = on_cpu(&source_image(), &vm, "source", "0");
    source.sync_with(&vm.scheduled(), Some(node()));
    source.wait("the VM runs", SOON, |seen| seen.status == "Running");
    source.pod.wait_console("guest: ready");
    check_pinned(&source, &vm, "0");
    let target = on_cpu(&target_image(), &vm, "target", "1");
    let moved = Move::prepare_changed(&vm, &source, &target, "m1", |_, options| *options = node());
    moved.start(&json!({ "ParallelMigrationThreads": null }));
    moved.wait_success("PreCopy");
    check_pinned(&target, &vm, "1");
    moved.finish();
    // After virt-handler's first sync too.
    check_pinned(&target, &vm, "1");
}
