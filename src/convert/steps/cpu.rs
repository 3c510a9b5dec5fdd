//! CPU model, topology and vCPUs (contract/domain-xml-qemu.md 6.1 to 6.3).

use super::super::arch::Arch;
use super::super::limits;
use super::{Context, ConvertError, yes_no};
use crate::domain::{Cpu, CpuFeature, CpuTopology, DomainSpec, Numa, NumaCell, Vcpu, Vcpus, VcpusVcpu};

pub(super) fn cpu(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let spec = context.vmi.spec.domain.cpu.as_ref();
    let (mut sockets, cores, threads) = context.topology();
    // The context has refused numbers that a machine cannot have, also of sockets that are to be plugged.
    let count = |sockets: u32| sockets * cores * threads;
    let enabled = count(sockets);
    let max_sockets = spec.map_or(0, |cpu| cpu.max_sockets);
    if max_sockets != 0 && context.arch != Arch::Arm64 {
        sockets = max_sockets;
        let vcpu = (0..count(sockets))
            .map(|id| VcpusVcpu {
                id,
                enabled: yes_no(id < enabled),
                hotpluggable: yes_no(id >= cores * threads),
                order: 0,
            })
            .collect();
        domain.vcpus = Some(Vcpus { vcpu });
    }
    domain.vcpu = Some(Vcpu { placement: "static".into(), cpus: count(sockets) });
    domain.cpu = Cpu { topology: Some(CpuTopology { sockets, cores, threads }), ..model(context) };
    if context.memfd() && spec.is_none_or(|cpu| cpu.numa.is_none()) {
        // The step for the memory refuses what is negative, in the words that are known.
        let memory = match context.vmi.spec.domain.virtual_memory() {
            Some((path, quantity)) => limits::memory(path, quantity).map(|_| quantity.value())?,
            None => 0,
        };
        domain.cpu.numa = Some(Numa {
            cells: vec![NumaCell {
                id: "0".into(),
                cpus: format!("0-{}", count(sockets).saturating_sub(1)),
                memory: Some(u64::try_from(memory).unwrap_or_default() / 1024),
                unit: "KiB".into(),
                ..NumaCell::default()
            }],
        });
    }
    Ok(())
}

fn model(context: &Context<'_>) -> Cpu {
    let spec = context.vmi.spec.domain.cpu.as_ref();
    let wanted = spec.map(|cpu| cpu.model.as_str()).unwrap_or_default();
    let (mode, model) = match (wanted, context.cross_arch) {
        ("" | "host-model" | "host-passthrough", true) => ("custom", "max"),
        ("", false) => ("host-model", ""),
        ("host-model" | "host-passthrough", false) => (wanted, ""),
        (named, _) => ("custom", named),
    };
    let mut features: Vec<CpuFeature> = Vec::new();
    if let Some(spec) = spec {
        features.extend(
            spec.features
                .iter()
                .map(|feature| CpuFeature { name: feature.name.clone(), policy: feature.policy.clone() }),
        );
        let passed_on = matches!(wanted, "host-model" | "host-passthrough");
        if context.arch == Arch::Amd64 && !passed_on && !features.iter().any(|feature| feature.name == "mpx") {
            features.push(CpuFeature { name: "mpx".into(), policy: "disable".into() });
        }
    }
    Cpu { mode: mode.into(), model: model.into(), features, ..Cpu::default() }
}
