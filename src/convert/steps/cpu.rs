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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{refused, run, vmi, written};

    fn cpu(cpu: Value) -> String {
        written(super::cpu, json!({"cpu": cpu}))
    }

    #[test]
    fn cpu_topology_is_one_of_each_by_default() {
        let one = r#"<cpu mode="host-model"><topology sockets="1" cores="1" threads="1"/></cpu><vcpu placement="static">1</vcpu>"#;
        assert_eq!(written(super::cpu, json!({})), one);
        let by_resources = written(super::cpu, json!({"resources": {"requests": {"cpu": "3"}}}));
        assert!(by_resources.contains(r#"<topology sockets="3" cores="1" threads="1"/>"#), "{by_resources}");
    }

    #[test]
    fn cpu_model_is_custom_where_it_has_a_name() {
        let start = |model: &str| cpu(json!({"model": model})).split_once("<topology").unwrap().0.to_owned();
        assert_eq!(start("host-passthrough"), r#"<cpu mode="host-passthrough">"#);
        assert_eq!(
            start("Haswell"),
            r#"<cpu mode="custom"><model>Haswell</model><feature name="mpx" policy="disable"/>"#
        );
        assert_eq!(start(""), r#"<cpu mode="host-model"><feature name="mpx" policy="disable"/>"#);
        let mut emulated = vmi(json!({"cpu": {"model": "host-model"}}));
        emulated["spec"]["architecture"] = json!("arm64");
        let emulated = run(super::cpu, emulated, json!({"allowCrossArchEmulation": true})).unwrap();
        assert!(emulated.starts_with(r#"<cpu mode="custom"><model>max</model><topology"#), "{emulated}");
    }

    #[test]
    fn cpu_feature_mpx_stays_as_the_vmi_has_it() {
        let written = cpu(json!({"model": "Haswell", "features": [{"name": "mpx", "policy": "require"}]}));
        assert!(written.contains(r#"<feature name="mpx" policy="require"/>"#), "{written}");
        assert!(!written.contains("disable"), "{written}");
    }

    #[test]
    fn cpu_lists_the_vcpus_that_may_be_plugged() {
        let wanted = vmi(json!({"cpu": {"model": "host-model", "cores": 2, "sockets": 1, "maxSockets": 2}}));
        let on = |arch: &str| run(super::cpu, wanted.clone(), json!({"hostArch": arch})).unwrap();
        let listed = [
            r#"<vcpu placement="static">4</vcpu><vcpus>"#,
            r#"<vcpu id="0" enabled="yes" hotpluggable="no"/>"#,
            r#"<vcpu id="1" enabled="yes" hotpluggable="no"/>"#,
            r#"<vcpu id="2" enabled="no" hotpluggable="yes"/>"#,
            r#"<vcpu id="3" enabled="no" hotpluggable="yes"/>"#,
            "</vcpus>",
        ]
        .concat();
        assert!(on("amd64").ends_with(&listed), "{}", on("amd64"));
        assert!(on("arm64").ends_with(r#"<vcpu placement="static">2</vcpu>"#), "{}", on("arm64"));
    }

    #[test]
    fn cpu_has_one_numa_cell_where_memory_comes_from_memfd() {
        let domain =
            |guest: &str| json!({"cpu": {"cores": 2}, "memory": {"guest": guest, "hugepages": {"pageSize": "2Mi"}}});
        let cell = r#"<numa><cell id="0" cpus="0-1" memory="1024" unit="KiB"/></numa>"#;
        let with = written(super::cpu, domain("1Mi"));
        assert!(with.contains(cell), "{with}");
        assert_eq!(
            refused(super::cpu, domain("8Pi")),
            "spec.domain.memory.guest: 8Pi of memory are more than any guest can have (4 PiB)"
        );
    }
}
