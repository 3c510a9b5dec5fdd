//! Hypervisor features (contract/domain-xml-qemu.md 5.9).

use super::super::arch::Arch;
use super::{Context, ConvertError, on_off};
use crate::domain::{
    DomainSpec, FeatureEnabled, FeatureHyperv, FeatureKvm, FeaturePvSpinlock, FeatureSpinlocks, FeatureState,
    FeatureVendorId, Features, SynicTimer, TlbFlush,
};
use crate::vmi;

pub(super) fn features(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let spec = &context.vmi.spec.domain;
    let mut features = Features::default();
    if let Some(wanted) = &spec.features {
        let is_on = |state: &Option<vmi::FeatureState>| state.as_ref().is_some_and(vmi::FeatureState::is_on);
        features.acpi = wanted.acpi.as_ref().is_none_or(vmi::FeatureState::is_on).then(FeatureEnabled::default);
        features.apic = is_on(&wanted.apic).then(FeatureEnabled::default);
        features.smm = is_on(&wanted.smm).then(FeatureEnabled::default);
        features.hyperv = match (&wanted.hyperv, &wanted.hyperv_passthrough) {
            (Some(hyperv), _) => Some(hyperv_features(hyperv)),
            (None, Some(passthrough)) => match passthrough.enabled {
                Some(true) => Some(FeatureHyperv { mode: "passthrough".into(), ..FeatureHyperv::default() }),
                Some(false) => None,
                None => {
                    return Err(ConvertError::field("spec.domain.features.hypervPassthrough.enabled", "must be given"));
                }
            },
            (None, None) => None,
        };
        features.kvm = wanted.kvm.as_ref().map(|kvm| FeatureKvm {
            hidden: Some(FeatureState { state: on_off(kvm.hidden) }),
            ..FeatureKvm::default()
        });
        features.pv_spinlock =
            wanted.pvspinlock.as_ref().map(|spinlock| FeaturePvSpinlock { state: on_off(spinlock.is_on()) });
        let tdx = spec.launch_security.as_ref().is_some_and(|security| security.tdx.is_some());
        features.pmu = tdx.then(|| FeatureState { state: "off".into() });
        features.vm_port = (context.arch == Arch::Amd64).then(|| FeatureState { state: "off".into() });
    }
    if let Some(cpu) = spec.cpu.as_ref().filter(|cpu| cpu.dedicated_cpu_placement) {
        if context.vmi.spec.architecture == "amd64" {
            features.kvm.get_or_insert_default().hint_dedicated = Some(FeatureState { state: "on".into() });
        }
        if cpu.realtime.is_some() {
            features.pmu = Some(FeatureState { state: "off".into() });
        }
    }
    domain.features = Some(features);
    Ok(())
}

fn hyperv_features(spec: &vmi::Hyperv) -> FeatureHyperv {
    let enabled = |enabled: Option<bool>| on_off(enabled.unwrap_or(true));
    let state =
        |state: &Option<vmi::FeatureState>| state.as_ref().map(|state| FeatureState { state: on_off(state.is_on()) });
    FeatureHyperv {
        mode: String::new(),
        relaxed: state(&spec.relaxed),
        vapic: state(&spec.vapic),
        spinlocks: spec
            .spinlocks
            .as_ref()
            .map(|spinlocks| FeatureSpinlocks { state: enabled(spinlocks.enabled), retries: spinlocks.spinlocks }),
        vp_index: state(&spec.vpindex),
        runtime: state(&spec.runtime),
        synic: state(&spec.synic),
        synic_timer: spec
            .synictimer
            .as_ref()
            .map(|timer| SynicTimer { direct: state(&timer.direct), state: enabled(timer.enabled) }),
        reset: state(&spec.reset),
        vendor_id: spec
            .vendorid
            .as_ref()
            .map(|id| FeatureVendorId { state: enabled(id.enabled), value: id.vendorid.clone() }),
        frequencies: state(&spec.frequencies),
        reenlightenment: state(&spec.reenlightenment),
        tlb_flush: spec.tlbflush.as_ref().map(|flush| TlbFlush {
            direct: state(&flush.direct),
            extended: state(&flush.extended),
            state: enabled(flush.enabled),
        }),
        ipi: state(&spec.ipi),
        evmcs: state(&spec.evmcs),
    }
}
