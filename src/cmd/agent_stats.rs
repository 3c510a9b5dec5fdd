//! What GetVMStats may ask the guest's agent for.

/// What GetVMStats may ask the guest's agent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentStats {
    /// Load averages.
    Load,
    /// CPU time of the guest's own counting.
    CpuStats,
    /// Disk counters.
    DiskStats,
    /// The guest's clock.
    Time,
    /// Its CPUs.
    Vcpus,
    /// Size of its memory blocks.
    MemoryBlockInfo,
    /// Who is logged in.
    Users,
    /// The operating system.
    OsInfo,
    /// Its disks.
    Disks,
    /// Its name.
    HostName,
    /// Its time zone.
    Timezone,
    /// Its routes.
    NetworkRoute,
    /// Its network interfaces.
    NetworkInterfaces,
    /// Its memory blocks.
    MemoryBlocks,
}

impl AgentStats {
    /// The agent's command.
    pub fn command(self) -> &'static str {
        match self {
            AgentStats::Load => "guest-get-load",
            AgentStats::CpuStats => "guest-get-cpustats",
            AgentStats::DiskStats => "guest-get-diskstats",
            AgentStats::Time => "guest-get-time",
            AgentStats::Vcpus => "guest-get-vcpus",
            AgentStats::MemoryBlockInfo => "guest-get-memory-block-info",
            AgentStats::Users => "guest-get-users",
            AgentStats::OsInfo => "guest-get-osinfo",
            AgentStats::Disks => "guest-get-disks",
            AgentStats::HostName => "guest-get-host-name",
            AgentStats::Timezone => "guest-get-timezone",
            AgentStats::NetworkRoute => "guest-network-get-route",
            AgentStats::NetworkInterfaces => "guest-network-get-interfaces",
            AgentStats::MemoryBlocks => "guest-get-memory-blocks",
        }
    }
}
