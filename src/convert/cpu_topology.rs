//! How many CPUs a VMI asks for.

use crate::vmi::VirtualMachineInstance;

/// Sockets, cores, threads of a VMI (6.1), without hot-pluggable sockets; none is 0 but sockets that a resource of 0 CPUs
/// gives. [`super::vcpus`] refuses what has no product.
pub fn topology(vmi: &VirtualMachineInstance) -> (u32, u32, u32) {
    let domain = &vmi.spec.domain;
    match &domain.cpu {
        Some(cpu) if cpu.sockets != 0 || cpu.cores != 0 || cpu.threads != 0 => {
            (cpu.sockets.max(1), cpu.cores.max(1), cpu.threads.max(1))
        }
        Some(_) | None => {
            let resources = &domain.resources;
            let cpus = [resources.limits.get("cpu"), resources.requests.get("cpu")];
            let sockets = cpus.into_iter().flatten().next().map_or(1, |cpus| u32::try_from(cpus.value()).unwrap_or(1));
            (sockets, 1, 1)
        }
    }
}
