//! The document `<domain>` itself and the small parts that stand directly below it.

use crate::domain::elements::elements;
use crate::domain::{
    Cpu, CpuTune, Devices, Features, IoThreads, MaxMemory, Memory, MemoryBacking, Metadata, NumaTune, Os, SysInfo,
    Vcpu, Vcpus, XmlName,
};

elements! {
    /// `<domain>`: the VM's whole description for libvirt.
    ///
    /// `xml_ns` and `qemu_cmd` go out but are never read back; see [`DomainSpec::round_trip`].
    pub struct DomainSpec {
        xml_name: XmlName = "XMLName" [tag];
        type_: String = "Type" [attr "type"];
        xml_ns: String = "XmlNS" [attr? "xmlns:qemu"];
        name: String = "Name" [child "name"];
        uuid: String = "UUID" [child? "uuid"];
        memory: Memory = "Memory" [child "memory"];
        current_memory: Option<Memory> = "CurrentMemory" [child "currentMemory"];
        max_memory: Option<MaxMemory> = "MaxMemory" [child "maxMemory"];
        memory_backing: Option<MemoryBacking> = "MemoryBacking" [child "memoryBacking"];
        os: Os = "OS" [child "os"];
        sys_info: Option<SysInfo> = "SysInfo" [child "sysinfo"];
        devices: Devices = "Devices" [child "devices"];
        clock: Option<Clock> = "Clock" [child "clock"];
        resource: Option<Resource> = "Resource" [child "resource"];
        qemu_cmd: Option<Commandline> = "QEMUCmd" [child "qemu:commandline"];
        metadata: Metadata = "Metadata" [child "metadata"];
        features: Option<Features> = "Features" [child "features"];
        cpu: Cpu = "CPU" [child "cpu"];
        vcpu: Option<Vcpu> = "VCPU" [child "vcpu"];
        vcpus: Option<Vcpus> = "VCPUs" [child "vcpus"];
        cpu_tune: Option<CpuTune> = "CPUTune" [child "cputune"];
        numa_tune: Option<NumaTune> = "NUMATune" [child "numatune"];
        io_threads: Option<IoThreads> = "IOThreads" [child "iothreads"];
        launch_security: Option<LaunchSecurity> = "LaunchSecurity" [child "launchSecurity"];
        on_reboot: String = "OnReboot" [child? "on_reboot"];
        iommufd: Option<Iommufd> = "IOMMUFD" [child "iommufd"];
    }

    /// `<clock>`: what the guest's hardware clock shows.
    pub struct Clock {
        offset: String = "Offset" [attr? "offset"];
        timezone: String = "Timezone" [attr? "timezone"];
        adjustment: String = "Adjustment" [attr? "adjustment"];
        timer: Vec<Timer> = "Timer" [child "timer"];
    }

    /// `clock/timer`: one timer of the clock.
    pub struct Timer {
        name: String = "Name" [attr "name"];
        tick_policy: String = "TickPolicy" [attr? "tickpolicy"];
        present: String = "Present" [attr? "present"];
        track: String = "Track" [attr? "track"];
        frequency: String = "Frequency" [attr? "frequency"];
    }

    /// `<resource>`: the cgroup partition.
    pub struct Resource {
        partition: String = "Partition" [child "partition"];
    }

    /// `<qemu:commandline>`: arguments and variables handed to QEMU as they are.
    pub struct Commandline {
        qemu_env: Vec<Env> = "QEMUEnv" [child "qemu:env"];
        qemu_arg: Vec<Arg> = "QEMUArg" [child "qemu:arg"];
    }

    /// `qemu:commandline/qemu:env`: one variable for QEMU.
    pub struct Env {
        name: String = "Name" [attr "name"];
        value: String = "Value" [attr "value"];
    }

    /// `qemu:commandline/qemu:arg`: one argument for QEMU.
    pub struct Arg {
        value: String = "Value" [attr "value"];
    }

    /// `<launchSecurity>`: SEV, SEV-SNP, TDX.
    pub struct LaunchSecurity {
        type_: String = "Type" [attr "type"];
        dh_cert: String = "DHCert" [child? "dhCert"];
        session: String = "Session" [child? "session"];
        cbitpos: String = "Cbitpos" [child? "cbitpos"];
        reduced_phys_bits: String = "ReducedPhysBits" [child? "reducedPhysBits"];
        policy: String = "Policy" [child? "policy"];
        quote_generation_service: Option<Qgs> = "QuoteGenerationService" [child "quoteGenerationService"];
    }

    /// `launchSecurity/quoteGenerationService`: TDX quote generation service.
    pub struct Qgs {
        path: String = "Path" [attr? "path"];
    }

    /// `<iommufd>`.
    pub struct Iommufd {
        xml_name: XmlName = "XMLName" [tag];
        enabled: String = "Enabled" [attr "enabled"];
        fd_group: String = "FDGroup" [attr? "fdgroup"];
    }
}
