//! vCPU hot-plug and the pinning that follows it (contract/cmd-server.md 4.5).

use crate::cmd::SyncRequest;
use crate::convert::{self, Arch, ConvertError};
use crate::domain::{CpuTune, DomainSpec};
use crate::hypervisor::{XmlKind, host_architecture};
use crate::launcher::error::Error;
use crate::launcher::sync::means::Boot;
use crate::launcher::vm::{Vm, domain_xml};
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

/// vCPUs that the VMI wants now, at most those that the running domain was started with; the error names the field.
pub fn count(vmi: &VirtualMachineInstance, live: &DomainSpec) -> Result<u32, ConvertError> {
    let wanted = convert::vcpus(vmi, Arch::named(host_architecture()))?;
    let most = live.vcpu.as_ref().map_or(u32::MAX, |vcpu| vcpu.cpus);
    match wanted {
        0 => Err(ConvertError::field("spec.domain.resources", "0 CPUs are no processor")),
        _ if wanted > most => {
            let reason = format!(
                "{wanted} vCPUs are more than the {most} that the VM was started with (spec.domain.cpu.maxSockets)"
            );
            Err(ConvertError::field("spec.domain.cpu", reason))
        }
        _ => Ok(wanted),
    }
}

/// The domain as it is with so many vCPUs: libvirt plugs the lowest numbers first, and takes the highest out.
fn with_vcpus(mut live: DomainSpec, count: u32) -> DomainSpec {
    for vcpu in live.vcpus.iter_mut().flat_map(|vcpus| &mut vcpus.vcpu) {
        vcpu.enabled = if vcpu.id < count { "yes" } else { "no" }.to_owned();
    }
    live
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

/// SyncVirtualMachineCPUs. Where the vCPUs are to be pinned is known before one is plugged; those that were plugged stay if
/// libvirt does not pin them.
pub async fn synchronise(vm: &Vm, boot: &Boot, request: SyncRequest) -> Result<(), Error> {
    let SyncRequest { vmi, options, .. } = request;
    let failed = |error| Error::during(CONTEXT, error);
    let worded = |why: String| Error::vmi(format!("{CONTEXT}: {why}"));
    let live = domain_xml::read(&vm.control.xml(XmlKind::Current).await.map_err(failed)?)?;
    let wanted = count(&vmi, &live).map_err(|error| worded(error.with_path()))?;
    let mut wanted_pins = Vec::new();
    if vmi.spec.domain.cpu.as_ref().is_some_and(|cpu| cpu.dedicated_cpu_placement) {
        let facts = boot.facts(vm, &vmi, options).await?;
        if let Some(error) = &facts.cpu_set_error {
            return Err(Error::other(format!("failed to read pod cpuset: {error}")));
        }
        let tune = convert::pinning(&vmi, &facts, &with_vcpus(live, wanted));
        wanted_pins = pins(&tune.map_err(|error| worded(error.to_string()))?.unwrap_or_default()).map_err(worded)?;
    }
    vm.control.set_vcpus(wanted).await.map_err(failed)?;
    for pin in wanted_pins {
        match pin {
            Pin::Vcpu(vcpu, map) => vm.control.pin_vcpu(vcpu, map).await,
            Pin::Emulator(map) => vm.control.pin_emulator(map).await,
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
        let live = DomainSpec::from_xml("<domain type='kvm'><vcpu current='2'>8</vcpu></domain>").unwrap();
        let count_of = |domain: &str| {
            let vmi = vmi::parse(format!(r#"{{"spec":{{"domain":{domain}}}}}"#).as_bytes()).unwrap();
            count(&vmi, &live)
        };
        assert_eq!(count_of(r#"{"cpu":{"sockets":2,"cores":3,"maxSockets":8}}"#), Ok(6));
        assert_eq!(count_of(r#"{"resources":{"requests":{"cpu":"1500m"}}}"#), Ok(2));
        assert_eq!(count_of("{}"), Ok(1));
        for (domain, path, why) in [
            (r#"{"cpu":{"sockets":4294967295,"cores":2}}"#, "spec.domain.cpu", "a machine can have"),
            (
                r#"{"cpu":{"sockets":3,"cores":3}}"#,
                "spec.domain.cpu",
                "9 vCPUs are more than the 8 that the VM was started with",
            ),
            (r#"{"resources":{"limits":{"cpu":"0"}}}"#, "spec.domain.resources", "0 CPUs"),
            (r#"{"resources":{"limits":{"cpu":"-2"}}}"#, "spec.domain.resources.limits.cpu", "less than no CPU"),
        ] {
            let error = count_of(domain).unwrap_err();
            assert_eq!(error.path(), Some(path), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn pinning_sees_the_vcpus_that_are_about_to_be_there() {
        let vcpus: String =
            (0..4).map(|id| format!("<vcpu id='{id}' enabled='{}'/>", if id < 3 { "yes" } else { "no" })).collect();
        let live = DomainSpec::from_xml(&format!("<domain type='kvm'><vcpus>{vcpus}</vcpus></domain>")).unwrap();
        let enabled = |count| {
            let domain = with_vcpus(live.clone(), count);
            domain.vcpus.unwrap().vcpu.iter().filter(|vcpu| vcpu.enabled == "yes").count()
        };
        assert_eq!((enabled(1), enabled(2), enabled(4)), (1, 2, 4));
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
