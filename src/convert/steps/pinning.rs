//! Dedicated CPUs: which host CPU runs which guest thread (contract/domain-xml-qemu.md 6.4.1 to 6.4.3).

use super::super::cpu_pool::CpuPool;
use super::super::io_threads;
use super::{Context, ConvertError};
use crate::domain::{CpuEmulatorPin, CpuTune, CpuTuneIoThreadPin, CpuTuneVcpuPin, DomainSpec};
use crate::vmi;

const FIELD: &str = "spec.domain.cpu.dedicatedCpuPlacement";
/// With it, vCPUs and emulator threads together come to an even number.
const EVEN_PARITY: &str = "alpha.kubevirt.io/EmulatorThreadCompleteToEvenParity";

pub(super) fn pinning(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let Some(cpu) = context.dedicated_cpu() else { return Ok(()) };
    let Some(topology) = &context.facts.options().topology else {
        return Err(ConvertError::field(FIELD, "needs the node's topology, and the sync came without one"));
    };
    let guest = domain.cpu.topology.clone().unwrap_or_default();
    let cores = u64::from(guest.cores) * u64::from(enabled_sockets(domain, cpu));
    let mut pool = CpuPool::new(topology, &context.facts.cpu_set, guest.threads, !context.numa_passthrough());
    let failed = |prefix: &str| {
        let prefix = prefix.to_owned();
        move |error| ConvertError::at(FIELD, format!("{prefix}{error}"))
    };
    let mut tune = CpuTune::default();
    let threads = pool.take_cores(cores).map_err(failed(""))?;
    tune.vcpu_pin.extend((0..).zip(threads).map(|(vcpu, cpu)| CpuTuneVcpuPin { vcpu, cpu_set: cpu.to_string() }));
    let counts = io_threads::count(context)?;
    let supplemental = counts.pool.unwrap_or_default();
    for io_thread in 1..=supplemental {
        let cpu = pool.take_thread().map_err(failed("no CPU allocated for the iothread: "))?;
        tune.io_thread_pin.push(CpuTuneIoThreadPin { io_thread, cpu_set: cpu.to_string() });
    }
    if cpu.isolate_emulator_thread {
        let mut cpus = vec![pool.take_thread().map_err(failed("no CPU allocated for the emulation thread: "))?];
        let others = spec_vcpus(cpu) + u64::from(supplemental);
        if context.vmi.annotation(EVEN_PARITY).is_some() && others.is_multiple_of(2) {
            let second = pool.take_thread();
            cpus.push(second.map_err(failed("no second CPU allocated for the emulation thread: "))?);
        }
        tune.emulator_pin = Some(CpuEmulatorPin { cpu_set: join(&cpus) });
    }
    // A pool of no threads counts as none.
    if supplemental == 0 && io_threads::has_threads(context) {
        let emulator = tune.emulator_pin.as_ref().map(|pin| pin.cpu_set.as_str());
        if counts.total == 0 {
            return Err(ConvertError::at("spec.domain.ioThreadsPolicy", "domain is missing IOThreads"));
        }
        tune.io_thread_pin = shared_io_threads(counts.total, spec_vcpus(cpu), &context.facts.cpu_set, emulator)?;
    }
    domain.cpu_tune = Some(tune);
    Ok(())
}

/// Sockets without those that are only there to be plugged.
fn enabled_sockets(domain: &DomainSpec, cpu: &vmi::Cpu) -> u32 {
    let guest = domain.cpu.topology.clone().unwrap_or_default();
    let Some(vcpus) = domain.vcpus.as_ref().filter(|_| cpu.max_sockets != 0) else { return guest.sockets };
    let disabled = vcpus.vcpu.iter().filter(|vcpu| vcpu.enabled != "yes").count();
    let per_socket = u64::from(guest.cores) * u64::from(guest.threads);
    let disabled = (disabled as u64).checked_div(per_socket).unwrap_or_default();
    // There are as many vCPUs as sockets, cores and threads make, so no more sockets are disabled than there are.
    u32::try_from(disabled).ok().and_then(|disabled| guest.sockets.checked_sub(disabled)).unwrap_or_default()
}

/// vCPUs that the VMI names: the product of what is not 0, and 0 if nothing is. It is one that a machine can have
/// (`limits::vcpus`).
fn spec_vcpus(cpu: &vmi::Cpu) -> u64 {
    let given = [cpu.cores, cpu.sockets, cpu.threads].into_iter().filter(|count| *count != 0);
    given.map(u64::from).reduce(|product, count| product * count).unwrap_or_default()
}

/// IO threads that share CPUs with vCPUs or the emulator.
fn shared_io_threads(
    threads: u64,
    vcpus: u64,
    cpu_set: &[u32],
    emulator: Option<&str>,
) -> Result<Vec<CpuTuneIoThreadPin>, ConvertError> {
    let pin = |io_thread: u64, cpu_set: String| CpuTuneIoThreadPin {
        io_thread: u32::try_from(io_thread).unwrap_or(u32::MAX),
        cpu_set,
    };
    if let Some(emulator) = emulator {
        return Ok(vec![pin(1, emulator.to_owned())]);
    }
    let too_small = || ConvertError::field(FIELD, "the pod has fewer CPUs than the VMI asks for");
    let at = |index: u64| usize::try_from(index).ok().and_then(|index| cpu_set.get(index)).ok_or_else(too_small);
    if threads >= vcpus {
        let turn = |thread: u64| at(thread.checked_rem(vcpus).ok_or_else(too_small)?);
        return (1..=threads).map(|thread| Ok(pin(thread, turn(thread)?.to_string()))).collect();
    }
    // Runs of equal length, the first ones longer by what is left over.
    let (length, longer) = (vcpus.checked_div(threads), vcpus.checked_rem(threads));
    let (Some(length), Some(longer)) = (length, longer) else { return Ok(Vec::new()) };
    let mut next = 0;
    (1..=threads)
        .map(|thread| {
            let end = next + length + u64::from(thread <= longer);
            let cpus: Vec<u32> = (next..end).map(|index| at(index).copied()).collect::<Result<_, _>>()?;
            next = end;
            Ok(pin(thread, join(&cpus)))
        })
        .collect()
}

fn join(cpus: &[u32]) -> String {
    cpus.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets(threads: u64, vcpus: u64, emulator: Option<&str>) -> Vec<String> {
        let cpus: Vec<u32> = (10..18).collect();
        let pins = shared_io_threads(threads, vcpus, &cpus, emulator).unwrap();
        assert!((1..).zip(&pins).all(|(number, pin)| pin.io_thread == number));
        pins.into_iter().map(|pin| pin.cpu_set).collect()
    }

    #[test]
    fn io_threads_share_the_vcpus_evenly() {
        assert_eq!(sets(3, 8, None), ["10,11,12", "13,14,15", "16,17"]);
        assert_eq!(sets(1, 4, None), ["10,11,12,13"]);
        // As many as vCPUs or more: the turn begins with the second CPU.
        assert_eq!(sets(2, 2, None), ["11", "10"]);
        assert_eq!(sets(3, 2, None), ["11", "10", "11"]);
        assert_eq!(sets(3, 2, Some("4,5")), ["4,5"]);
        assert!(shared_io_threads(1, 9, &[0], None).is_err());
        assert!(shared_io_threads(1, 0, &[0], None).is_err());
    }

    #[test]
    fn spec_counts_what_it_names() {
        let cpu = |cores, sockets, threads| vmi::Cpu { cores, sockets, threads, ..vmi::Cpu::default() };
        assert_eq!(spec_vcpus(&cpu(0, 0, 0)), 0);
        assert_eq!(spec_vcpus(&cpu(3, 0, 2)), 6);
    }
}
