//! CPU model, topology, NUMA cells, pinning, and I/O threads.

use crate::domain::elements::elements;

elements! {
    /// `<cpu>`.
    pub struct Cpu {
        mode: String = "Mode" [attr? "mode"];
        model: String = "Model" [child? "model"];
        features: Vec<CpuFeature> = "Features" [child "feature"];
        topology: Option<CpuTopology> = "Topology" [child "topology"];
        numa: Option<Numa> = "NUMA" [child "numa"];
    }

    /// `cpu/feature`: one CPU flag and what is asked of it.
    pub struct CpuFeature {
        name: String = "Name" [attr "name"];
        policy: String = "Policy" [attr? "policy"];
    }

    /// `cpu/topology`: sockets × cores × threads.
    pub struct CpuTopology {
        sockets: u32 = "Sockets" [attr? "sockets"];
        cores: u32 = "Cores" [attr? "cores"];
        threads: u32 = "Threads" [attr? "threads"];
    }

    /// `cpu/numa`: guest NUMA cells.
    pub struct Numa {
        cells: Vec<NumaCell> = "Cells" [child "cell"];
    }

    /// `cpu/numa/cell`: one guest NUMA cell.
    pub struct NumaCell {
        id: String = "ID" [attr "id"];
        cpus: String = "CPUs" [attr? "cpus"];
        memory: Option<u64> = "Memory" [attr "memory"];
        unit: String = "Unit" [attr? "unit"];
        memory_access: String = "MemoryAccess" [attr? "memAccess"];
        distances: Option<NumaCellDistances> = "Distances" [child "distances"];
    }

    /// `cpu/numa/cell/distances`: distances of one cell to the others.
    pub struct NumaCellDistances {
        siblings: Vec<NumaCellSibling> = "Siblings" [child "sibling"];
    }

    /// `cpu/numa/cell/distances/sibling`: the distance to one other cell.
    pub struct NumaCellSibling {
        id: String = "ID" [attr "id"];
        value: u64 = "Value" [attr "value"];
    }

    /// `<vcpu>`: the number of virtual CPUs.
    pub struct Vcpu {
        placement: String = "Placement" [attr "placement"];
        cpus: u32 = "CPUs" [text];
    }

    /// `<vcpus>`: each virtual CPU by itself.
    pub struct Vcpus {
        vcpu: Vec<VcpusVcpu> = "VCPU" [child "vcpu"];
    }

    /// `vcpus/vcpu`: one virtual CPU: present or to be plugged.
    pub struct VcpusVcpu {
        id: u32 = "ID" [attr "id"];
        enabled: String = "Enabled" [attr? "enabled"];
        hotpluggable: String = "Hotpluggable" [attr? "hotpluggable"];
        order: u32 = "Order" [attr? "order"];
    }

    /// `<cputune>`: pinning.
    pub struct CpuTune {
        vcpu_pin: Vec<CpuTuneVcpuPin> = "VCPUPin" [child "vcpupin"];
        io_thread_pin: Vec<CpuTuneIoThreadPin> = "IOThreadPin" [child "iothreadpin"];
        emulator_pin: Option<CpuEmulatorPin> = "EmulatorPin" [child "emulatorpin"];
    }

    /// `cputune/vcpupin`: where one virtual CPU may run.
    pub struct CpuTuneVcpuPin {
        vcpu: u32 = "VCPU" [attr "vcpu"];
        cpu_set: String = "CPUSet" [attr "cpuset"];
    }

    /// `cputune/iothreadpin`: where one I/O thread may run.
    pub struct CpuTuneIoThreadPin {
        io_thread: u32 = "IOThread" [attr "iothread"];
        cpu_set: String = "CPUSet" [attr "cpuset"];
    }

    /// `cputune/emulatorpin`: where QEMU's own threads may run.
    pub struct CpuEmulatorPin {
        cpu_set: String = "CPUSet" [attr "cpuset"];
    }

    /// `<numatune>`: host nodes of the guest's memory.
    pub struct NumaTune {
        memory: NumaTuneMemory = "Memory" [child "memory"];
        mem_nodes: Vec<MemNode> = "MemNodes" [child "memnode"];
    }

    /// `numatune/memory`: host nodes for all cells.
    pub struct NumaTuneMemory {
        mode: String = "Mode" [attr "mode"];
        node_set: String = "NodeSet" [attr "nodeset"];
    }

    /// `numatune/memnode`: host nodes for one cell.
    pub struct MemNode {
        cell_id: u32 = "CellID" [attr "cellid"];
        mode: String = "Mode" [attr "mode"];
        node_set: String = "NodeSet" [attr "nodeset"];
    }

    /// `<iothreads>`: their number.
    pub struct IoThreads {
        io_threads: u64 = "IOThreads" [text];
    }
}
