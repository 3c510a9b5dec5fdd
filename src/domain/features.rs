//! `<features>`: ACPI, APIC, the Hyper-V enlightenments, KVM hiding and the like.

use crate::domain::elements::elements;

elements! {
    /// `<features>`.
    pub struct Features {
        acpi: Option<FeatureEnabled> = "ACPI" [child "acpi"];
        apic: Option<FeatureEnabled> = "APIC" [child "apic"];
        hyperv: Option<FeatureHyperv> = "Hyperv" [child "hyperv"];
        smm: Option<FeatureEnabled> = "SMM" [child "smm"];
        kvm: Option<FeatureKvm> = "KVM" [child "kvm"];
        pv_spinlock: Option<FeaturePvSpinlock> = "PVSpinlock" [child "pvspinlock"];
        pmu: Option<FeatureState> = "PMU" [child "pmu"];
        vm_port: Option<FeatureState> = "VMPort" [child "vmport"];
    }

    /// `features/acpi`: A feature that is on by being present.
    pub struct FeatureEnabled {}

    /// `features/hyperv/relaxed`: A feature with `on` or `off`.
    pub struct FeatureState {
        state: String = "State" [attr? "state"];
    }

    /// `features/hyperv`: Hyper-V enlightenments.
    pub struct FeatureHyperv {
        mode: String = "Mode" [attr? "mode"];
        relaxed: Option<FeatureState> = "Relaxed" [child "relaxed"];
        vapic: Option<FeatureState> = "VAPIC" [child "vapic"];
        spinlocks: Option<FeatureSpinlocks> = "Spinlocks" [child "spinlocks"];
        vp_index: Option<FeatureState> = "VPIndex" [child "vpindex"];
        runtime: Option<FeatureState> = "Runtime" [child "runtime"];
        synic: Option<FeatureState> = "SyNIC" [child "synic"];
        synic_timer: Option<SynicTimer> = "SyNICTimer" [child "stimer"];
        reset: Option<FeatureState> = "Reset" [child "reset"];
        vendor_id: Option<FeatureVendorId> = "VendorID" [child "vendor_id"];
        frequencies: Option<FeatureState> = "Frequencies" [child "frequencies"];
        reenlightenment: Option<FeatureState> = "Reenlightenment" [child "reenlightenment"];
        tlb_flush: Option<TlbFlush> = "TLBFlush" [child "tlbflush"];
        ipi: Option<FeatureState> = "IPI" [child "ipi"];
        evmcs: Option<FeatureState> = "EVMCS" [child "evmcs"];
    }

    /// `features/hyperv/spinlocks`: retries before the hypervisor is notified.
    pub struct FeatureSpinlocks {
        state: String = "State" [attr? "state"];
        retries: Option<u32> = "Retries" [attr "retries"];
    }

    /// `features/hyperv/stimer`: synthetic timers.
    pub struct SynicTimer {
        direct: Option<FeatureState> = "Direct" [child "direct"];
        state: String = "State" [attr? "state"];
    }

    /// `features/hyperv/vendor_id`: the hypervisor's vendor string.
    pub struct FeatureVendorId {
        state: String = "State" [attr? "state"];
        value: String = "Value" [attr? "value"];
    }

    /// `features/hyperv/tlbflush`: paravirtual TLB flush.
    pub struct TlbFlush {
        direct: Option<FeatureState> = "Direct" [child "direct"];
        extended: Option<FeatureState> = "Extended" [child "extended"];
        state: String = "State" [attr? "state"];
    }

    /// `features/kvm`: KVM's own features.
    pub struct FeatureKvm {
        hidden: Option<FeatureState> = "Hidden" [child "hidden"];
        hint_dedicated: Option<FeatureState> = "HintDedicated" [child "hint-dedicated"];
    }

    /// `features/pvspinlock`: paravirtual spinlocks.
    pub struct FeaturePvSpinlock {
        state: String = "State" [attr? "state"];
    }
}
