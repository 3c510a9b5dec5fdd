//! `spec.domain` without its devices.

use std::collections::BTreeMap;

use super::{Devices, Object, Quantity, api};

api! {
    /// `spec.domain`.
    DomainSpec {
        chassis: Option<Chassis>,
        clock: Option<Clock>,
        cpu: Option<Cpu>,
        devices: Devices,
        features: Option<Features>,
        firmware: Option<Firmware>,
        io_threads: Option<DiskIoThreads>,
        io_threads_policy: Option<String>,
        launch_security: Option<LaunchSecurity>,
        machine: Option<Machine>,
        memory: Option<Memory>,
        reboot_policy: Option<String>,
        resources: Resources,
    }

    /// `chassis`.
    Chassis { manufacturer: String, version: String, serial: String, asset: String, sku: String, }

    /// `clock`.
    Clock {
        utc: Option<ClockUtc>,
        timezone: Option<String>,
        timer: Option<Timers>,
    }

    /// `clock.utc`.
    ClockUtc { offset_seconds: Option<i64>, }

    /// `clock.timer`.
    Timers {
        hpet: Option<Timer>,
        hyperv: Option<Timer>,
        kvm: Option<Timer>,
        pit: Option<Timer>,
        rtc: Option<Timer>,
    }

    /// One timer.
    Timer { present: Option<bool>, tick_policy: String, track: String, }

    /// `cpu`.
    Cpu {
        cores: u32,
        sockets: u32,
        threads: u32,
        max_sockets: u32,
        model: String,
        features: Vec<CpuFeature>,
        dedicated_cpu_placement: bool,
        isolate_emulator_thread: bool,
        numa: Option<CpuNuma>,
        realtime: Option<Object>,
    }

    /// A CPU feature.
    CpuFeature { name: String, policy: String, }

    /// `cpu.numa`.
    CpuNuma { guest_mapping_passthrough: Option<Object>, }

    /// `features`.
    Features {
        acpi: Option<FeatureState>,
        apic: Option<FeatureState>,
        hyperv: Option<Hyperv>,
        hyperv_passthrough: Option<FeatureState>,
        smm: Option<FeatureState>,
        kvm: Option<FeatureKvm>,
        pvspinlock: Option<FeatureState>,
    }

    /// Something that is on or off; absent `enabled` is on.
    FeatureState { enabled: Option<bool>, }

    /// `features.kvm`.
    FeatureKvm { hidden: bool, }

    /// `features.hyperv`.
    Hyperv {
        relaxed: Option<FeatureState>,
        vapic: Option<FeatureState>,
        spinlocks: Option<Spinlocks>,
        vpindex: Option<FeatureState>,
        runtime: Option<FeatureState>,
        synic: Option<FeatureState>,
        synictimer: Option<SyNicTimer>,
        reset: Option<FeatureState>,
        vendorid: Option<VendorId>,
        frequencies: Option<FeatureState>,
        reenlightenment: Option<FeatureState>,
        tlbflush: Option<TlbFlush>,
        ipi: Option<FeatureState>,
        evmcs: Option<FeatureState>,
    }

    /// `hyperv.spinlocks`.
    Spinlocks { enabled: Option<bool>, spinlocks: Option<u32>, }

    /// `hyperv.synictimer`.
    SyNicTimer { enabled: Option<bool>, direct: Option<FeatureState>, }

    /// `hyperv.vendorid`.
    VendorId { enabled: Option<bool>, vendorid: String, }

    /// `hyperv.tlbflush`.
    TlbFlush { enabled: Option<bool>, direct: Option<FeatureState>, extended: Option<FeatureState>, }

    /// `firmware`.
    Firmware {
        uuid: String,
        serial: String,
        acpi: Option<FirmwareAcpi>,
        bootloader: Option<Bootloader>,
        kernel_boot: Option<KernelBoot>,
    }

    /// `firmware.acpi`.
    FirmwareAcpi { slic_name_ref: String, msdm_name_ref: String, }

    /// `firmware.bootloader`.
    Bootloader { bios: Option<Bios>, efi: Option<Efi>, }

    /// `bootloader.bios`.
    Bios { use_serial: Option<bool>, }

    /// `bootloader.efi`.
    Efi { secure_boot: Option<bool>, persistent: Option<bool>, }

    /// `firmware.kernelBoot`.
    KernelBoot { kernel_args: String, container: Option<KernelBootContainer>, }

    /// `kernelBoot.container`.
    KernelBootContainer { image: String, kernel_path: String, initrd_path: String, }

    /// `ioThreads`.
    DiskIoThreads { supplemental_pool_thread_count: Option<u32>, }

    /// `launchSecurity`.
    LaunchSecurity {
        sev: Option<Sev>,
        snp: Option<Object>,
        tdx: Option<Object>,
    }

    /// `launchSecurity.sev`.
    Sev { policy: Option<SevPolicy>, session: String, dh_cert: String, }

    /// `sev.policy`.
    SevPolicy { encrypted_state: Option<bool>, }

    /// `machine`.
    Machine { r#type: String, }

    /// `memory`.
    Memory {
        guest: Option<Quantity>,
        max_guest: Option<Quantity>,
        hugepages: Option<Hugepages>,
    }

    /// `memory.hugepages`.
    Hugepages { page_size: String, }

    /// `resources`.
    Resources {
        requests: BTreeMap<String, Quantity>,
        limits: BTreeMap<String, Quantity>,
    }
}

impl FeatureState {
    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.enabled.unwrap_or(true)
    }
}

impl DomainSpec {
    /// The guest's memory and the path of the field that gives it: `memory.guest`, else the memory request, else the limit
    /// (contract/domain-xml-qemu.md 5.3).
    pub fn virtual_memory(&self) -> Option<(&'static str, &Quantity)> {
        let guest = self.memory.as_ref().and_then(|memory| memory.guest.as_ref());
        let Resources { requests, limits } = &self.resources;
        [
            ("spec.domain.memory.guest", guest),
            ("spec.domain.resources.requests.memory", requests.get("memory")),
            ("spec.domain.resources.limits.memory", limits.get("memory")),
        ]
        .into_iter()
        .find_map(|(path, quantity)| Some((path, quantity?)))
    }
}
