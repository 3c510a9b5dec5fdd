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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{refused, run, vmi, written};

    fn features(features: Value) -> String {
        written(super::features, json!({"features": features}))
    }

    #[test]
    fn features_are_empty_where_the_vmi_names_none() {
        assert_eq!(written(super::features, json!({})), "<features/>");
    }

    #[test]
    fn features_have_acpi_unless_it_is_off_and_the_others_if_they_are_on() {
        let vmport = r#"<vmport state="off"/>"#;
        assert_eq!(features(json!({})), format!("<features><acpi/>{vmport}</features>"));
        let off = json!({"enabled": false});
        let all_off = json!({"acpi": off, "apic": off, "smm": off});
        assert_eq!(features(all_off), format!("<features>{vmport}</features>"));
        let others = json!({"apic": {}, "smm": {}, "kvm": {"hidden": true}, "pvspinlock": off});
        assert_eq!(
            features(others),
            format!(
                r#"<features><acpi/><apic/><smm/><kvm><hidden state="on"/></kvm><pvspinlock state="off"/>{vmport}</features>"#
            )
        );
        let arm = run(super::features, vmi(json!({"features": {}})), json!({"hostArch": "arm64"})).unwrap();
        assert_eq!(arm, "<features><acpi/></features>");
    }

    #[test]
    fn features_turn_the_pmu_off_for_tdx_and_for_realtime() {
        let tdx = written(super::features, json!({"features": {}, "launchSecurity": {"tdx": {}}}));
        assert_eq!(tdx, r#"<features><acpi/><pmu state="off"/><vmport state="off"/></features>"#);
        let mut realtime = vmi(json!({"cpu": {"dedicatedCpuPlacement": true, "realtime": {}}}));
        realtime["spec"]["architecture"] = json!("amd64");
        assert_eq!(
            run(super::features, realtime, json!({})).unwrap(),
            r#"<features><kvm><hint-dedicated state="on"/></kvm><pmu state="off"/></features>"#
        );
    }

    #[test]
    fn features_of_hyperv_are_on_unless_they_say_otherwise() {
        let hyperv = json!({
            "relaxed": {}, "vapic": {"enabled": false}, "spinlocks": {"spinlocks": 8191},
            "synictimer": {"direct": {}}, "vendorid": {"vendorid": "abc"}, "tlbflush": {"extended": {"enabled": false}},
        });
        assert_eq!(
            features(json!({"hyperv": hyperv})),
            [
                "<features><acpi/><hyperv>",
                r#"<relaxed state="on"/><vapic state="off"/><spinlocks state="on" retries="8191"/>"#,
                r#"<stimer state="on"><direct state="on"/></stimer><vendor_id state="on" value="abc"/>"#,
                r#"<tlbflush state="on"><extended state="off"/></tlbflush>"#,
                r#"</hyperv><vmport state="off"/></features>"#,
            ]
            .concat()
        );
    }

    #[test]
    fn features_pass_hyperv_through_only_where_that_is_said() {
        let passthrough = |passthrough| json!({"hypervPassthrough": passthrough});
        let on = features(passthrough(json!({"enabled": true})));
        assert_eq!(on, r#"<features><acpi/><hyperv mode="passthrough"/><vmport state="off"/></features>"#);
        let off = features(passthrough(json!({"enabled": false})));
        assert_eq!(off, r#"<features><acpi/><vmport state="off"/></features>"#);
        assert_eq!(
            refused(super::features, json!({"features": passthrough(json!({}))})),
            "spec.domain.features.hypervPassthrough.enabled: must be given"
        );
    }
}
