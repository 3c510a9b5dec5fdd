//! vCPU hot-plug and the pinning that follows it (contract/cmd-server.md 4.5).

use crate::cmd::{Failure, SyncRequest};
use crate::convert::{self, Arch, ConvertError};
use crate::domain::CpuTune;
use crate::hypervisor::host_architecture;
use crate::launcher::sync::means::Boot;
use crate::launcher::vm::Vm;
use crate::libvirt::cpu_map;
use crate::vmi::VirtualMachineInstance;

/// What the errors of this RPC begin with.
const CONTEXT: &str = "failed to update vCPUs";

/// One pin of a running domain: bit maps of host CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pin {
    /// Of a vCPU.
    Vcpu(u32, Vec<u8>),
    /// Of the emulator's own threads.
    Emulator(Vec<u8>),
}

/// vCPUs that the VMI wants now; the error names the field that has more of them than a machine can have.
pub fn count(vmi: &VirtualMachineInstance) -> Result<u32, ConvertError> {
    convert::vcpus(vmi, Arch::named(host_architecture()))
}

/// The calls that carry out `tune`, in order; the error is a CPU list that is none.
pub fn pins(tune: &CpuTune) -> Result<Vec<Pin>, String> {
    let vcpus = tune.vcpu_pin.iter().map(|pin| Ok(Pin::Vcpu(pin.vcpu, map(&pin.cpu_set)?)));
    let emulator = tune.emulator_pin.iter().map(|pin| Ok(Pin::Emulator(map(&pin.cpu_set)?)));
    vcpus.chain(emulator).collect()
}

fn map(cpu_set: &str) -> Result<Vec<u8>, String> {
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| format!("{cpu_set:?} is not a CPU list"));
    cpu_set.split(',').map(number).collect::<Result<Vec<u32>, String>>().map(cpu_map)
}

/// SyncVirtualMachineCPUs. vCPUs that were plugged stay if pinning fails.
pub async fn synchronise(vm: &Vm, boot: &Boot, request: SyncRequest) -> Result<(), Failure> {
    let SyncRequest { vmi, options, .. } = request;
    let failed = |error| Failure::wrapped(CONTEXT, error);
    let wanted = count(&vmi).map_err(|error| Failure::text(format!("{CONTEXT}: {}", error.with_path())))?;
    vm.connection.set_vcpus(&vm.domain, wanted).await.map_err(failed)?;
    if !vmi.spec.domain.cpu.as_ref().is_some_and(|cpu| cpu.dedicated_cpu_placement) {
        return Ok(());
    }
    let facts = boot.facts(vm, &vmi, options).await?;
    if let Some(error) = &facts.cpu_set_error {
        return Err(Failure::text(format!("failed to read pod cpuset: {error}")));
    }
    let live = super::read_live(&vm.connection.xml(&vm.domain, 0).await.map_err(failed)?)?;
    let worded = |why: String| Failure::text(format!("{CONTEXT}: {why}"));
    let tune = convert::pinning(&vmi, &facts, &live).map_err(|error| worded(error.to_string()))?;
    for pin in pins(&tune.unwrap_or_default()).map_err(worded)? {
        match pin {
            Pin::Vcpu(vcpu, map) => vm.connection.pin_vcpu(&vm.domain, vcpu, map).await,
            Pin::Emulator(map) => vm.connection.pin_emulator(&vm.domain, map).await,
        }
        .map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{CpuEmulatorPin, CpuTuneVcpuPin};
    use crate::vmi;

    #[test]
    fn vcpus_are_sockets_by_cores_by_threads_or_the_resources() {
        let count_of =
            |domain: &str| count(&vmi::parse(format!(r#"{{"spec":{{"domain":{domain}}}}}"#).as_bytes()).unwrap());
        assert_eq!(count_of(r#"{"cpu":{"sockets":2,"cores":3,"maxSockets":8}}"#), Ok(6));
        assert_eq!(count_of(r#"{"resources":{"requests":{"cpu":"1500m"}}}"#), Ok(2));
        assert_eq!(count_of("{}"), Ok(1));
        let absurd = count_of(r#"{"cpu":{"sockets":4294967295,"cores":2}}"#).unwrap_err();
        assert_eq!(absurd.path(), Some("spec.domain.cpu"));
    }

    #[test]
    fn every_vcpu_and_then_the_emulator_is_pinned() {
        let pin = |vcpu, cpu_set: &str| CpuTuneVcpuPin { vcpu, cpu_set: cpu_set.into() };
        let mut tune = CpuTune {
            vcpu_pin: vec![pin(0, "2"), pin(1, "8")],
            emulator_pin: Some(CpuEmulatorPin { cpu_set: "0,1".into() }),
            ..CpuTune::default()
        };
        let expected = [Pin::Vcpu(0, vec![4]), Pin::Vcpu(1, vec![0, 1]), Pin::Emulator(vec![3])];
        assert_eq!(pins(&tune).unwrap(), expected);
        tune.vcpu_pin.push(pin(2, "x"));
        assert!(pins(&tune).unwrap_err().contains("\"x\""));
    }
}
