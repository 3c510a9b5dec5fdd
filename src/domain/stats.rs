//! The document of GetDomainStats (contract/cmd-server.md 9.2): every value `X` has a flag `XSet` beside it; what is not
//! known is 0 or empty with the flag down.

use serde::ser::{Serialize, SerializeMap, Serializer};

/// A value as the document writes it; the default stands for an unknown one.
trait Figure: Serialize + Default {}

impl Figure for u64 {}
impl Figure for i64 {}
impl Figure for i32 {}
impl Figure for String {}
impl Figure for Load {}

/// A load average. Whole numbers are written without a fraction, as Go writes them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load(pub f64);

impl Serialize for Load {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Loads are far below the numbers that a double cannot count.
        #[expect(clippy::cast_possible_truncation, reason = "only whole numbers below a million")]
        match self.0.fract() == 0.0 && self.0.abs() < 1e6 {
            true => serializer.serialize_i64(self.0 as i64),
            false => serializer.serialize_f64(self.0),
        }
    }
}

fn entry<M: SerializeMap, T: Figure>(map: &mut M, flag: &str, key: &str, value: Option<&T>) -> Result<(), M::Error> {
    map.serialize_entry(flag, &value.is_some())?;
    match value {
        Some(value) => map.serialize_entry(key, value),
        None => map.serialize_entry(key, &T::default()),
    }
}

/// Structs whose fields all have a flag beside them.
macro_rules! figures {
    ($($(#[$doc:meta])* pub struct $name:ident { $($(#[$about:meta])* $field:ident: $kind:ty = $key:literal,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Default, PartialEq)]
            pub struct $name { $($(#[$about])* pub $field: Option<$kind>,)* }

            impl Serialize for $name {
                fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    let mut map = serializer.serialize_map(None)?;
                    $(entry(&mut map, concat!($key, "Set"), $key, self.$field.as_ref())?;)*
                    map.end()
                }
            }
        )*
    };
}

figures! {
    /// CPU time of the whole domain, in nanoseconds.
    pub struct CpuStats {
        /// In the guest and the hypervisor.
        time: u64 = "Time",
        /// In user space.
        user: u64 = "User",
        /// In the kernel.
        system: u64 = "System",
    }

    /// Memory in KiB, faults in counts.
    pub struct MemoryStats {
        /// Free in the guest.
        unused: u64 = "Unused",
        /// Caches of the guest that it can give back.
        cached: u64 = "Cached",
        /// What the guest has for use.
        available: u64 = "Available",
        /// The balloon's present size.
        actual_balloon: u64 = "ActualBalloon",
        /// Resident memory of the hypervisor process.
        rss: u64 = "RSS",
        /// Read from swap.
        swap_in: u64 = "SwapIn",
        /// Written to swap.
        swap_out: u64 = "SwapOut",
        /// Page faults that needed the disk.
        major_fault: u64 = "MajorFault",
        /// Other page faults.
        minor_fault: u64 = "MinorFault",
        /// What the guest can use without swapping.
        usable: u64 = "Usable",
        /// The domain's memory now.
        total: u64 = "Total",
    }

    /// An outgoing migration, in bytes and bytes per second.
    pub struct MigrationStats {
        /// All there is to move.
        data_total: u64 = "DataTotal",
        /// Moved so far.
        data_processed: u64 = "DataProcessed",
        /// Speed.
        memory_bps: u64 = "MemoryBps",
        /// Still to move.
        data_remaining: u64 = "DataRemaining",
        /// What the guest writes anew.
        mem_dirty_rate: u64 = "MemDirtyRate",
    }

    /// A virtual CPU, times in nanoseconds.
    pub struct VcpuStats {
        /// 0 offline, 1 running, 2 blocked.
        state: i32 = "State",
        /// Running.
        time: u64 = "Time",
        /// Waiting for input or output.
        wait: u64 = "Wait",
        /// Ready, but without a CPU.
        delay: u64 = "Delay",
    }

    /// A network interface.
    pub struct NetStats {
        /// The host's device.
        name: String = "Name",
        /// The VMI's interface.
        alias: String = "Alias",
        /// Received.
        rx_bytes: u64 = "RxBytes",
        /// Received.
        rx_pkts: u64 = "RxPkts",
        /// Receive errors.
        rx_errs: u64 = "RxErrs",
        /// Dropped at receipt.
        rx_drop: u64 = "RxDrop",
        /// Sent.
        tx_bytes: u64 = "TxBytes",
        /// Sent.
        tx_pkts: u64 = "TxPkts",
        /// Send errors.
        tx_errs: u64 = "TxErrs",
        /// Dropped at sending.
        tx_drop: u64 = "TxDrop",
    }

    /// How much memory the guest writes.
    pub struct DirtyRate {
        /// 0 unstarted, 1 measuring, 2 measured.
        calc_status: i32 = "CalcStatus",
        /// Start of the measurement.
        calc_start_time: i64 = "CalcStartTime",
        /// Its length in seconds.
        calc_period: i32 = "CalcPeriod",
        /// MiB per second.
        megabytes_per_second: i64 = "MegabytesPerSecond",
    }

    /// The guest's load averages, from its agent.
    pub struct LoadStats {
        /// Over one minute.
        load1m: Load = "Load1m",
        /// Over five minutes.
        load5m: Load = "Load5m",
        /// Over fifteen minutes.
        load15m: Load = "Load15m",
    }
}

/// A disk: requests, bytes, and times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlockStats {
    /// The target device.
    pub name: Option<String>,
    /// The VMI's disk; the one value without a flag.
    pub alias: String,
    /// Place in the chain of images.
    pub backing_index: Option<u64>,
    /// The image.
    pub path: Option<String>,
    /// Reads.
    pub read: Transfers,
    /// Writes.
    pub write: Transfers,
    /// Flushes.
    pub flush_requests: Option<u64>,
    /// Time in flushes.
    pub flush_times: Option<u64>,
    /// Failed requests.
    pub errors: Option<u64>,
    /// Highest byte written.
    pub allocation: Option<u64>,
    /// Size that the guest sees.
    pub capacity: Option<u64>,
    /// Size of the image file.
    pub physical: Option<u64>,
}

/// One direction of a disk.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transfers {
    /// Requests.
    pub requests: Option<u64>,
    /// Bytes.
    pub bytes: Option<u64>,
    /// Nanoseconds.
    pub times: Option<u64>,
}

impl Serialize for BlockStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "NameSet", "Name", self.name.as_ref())?;
        map.serialize_entry("Alias", &self.alias)?;
        entry(&mut map, "BackingIndexSet", "BackingIndex", self.backing_index.as_ref())?;
        entry(&mut map, "PathSet", "Path", self.path.as_ref())?;
        entry(&mut map, "RdReqsSet", "RdReqs", self.read.requests.as_ref())?;
        entry(&mut map, "RdBytesSet", "RdBytes", self.read.bytes.as_ref())?;
        entry(&mut map, "RdTimesSet", "RdTimes", self.read.times.as_ref())?;
        entry(&mut map, "WrReqsSet", "WrReqs", self.write.requests.as_ref())?;
        entry(&mut map, "WrBytesSet", "WrBytes", self.write.bytes.as_ref())?;
        entry(&mut map, "WrTimesSet", "WrTimes", self.write.times.as_ref())?;
        entry(&mut map, "FlReqsSet", "FlReqs", self.flush_requests.as_ref())?;
        entry(&mut map, "FlTimesSet", "FlTimes", self.flush_times.as_ref())?;
        entry(&mut map, "ErrorsSet", "Errors", self.errors.as_ref())?;
        entry(&mut map, "AllocationSet", "Allocation", self.allocation.as_ref())?;
        entry(&mut map, "CapacitySet", "Capacity", self.capacity.as_ref())?;
        entry(&mut map, "PhysicalSet", "Physical", self.physical.as_ref())?;
        map.end()
    }
}

/// The whole document.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DomainStats {
    /// libvirt's name.
    pub name: String,
    /// The domain's UUID.
    pub uuid: String,
    /// CPU time.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// An outgoing migration; all unknown while there is none.
    pub migration: MigrationStats,
    /// The virtual CPUs that are there.
    pub vcpus: Vec<VcpuStats>,
    /// Network interfaces.
    pub nets: Vec<NetStats>,
    /// Disks.
    pub blocks: Vec<BlockStats>,
    /// For each vCPU, on which of the node's CPUs it may run.
    pub cpu_map: Option<Vec<Vec<bool>>>,
    /// The last measured dirty rate.
    pub dirty_rate: DirtyRate,
    /// The guest's load.
    pub load: LoadStats,
}

impl Serialize for DomainStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("Name", &self.name)?;
        map.serialize_entry("UUID", &self.uuid)?;
        map.serialize_entry("Cpu", &self.cpu)?;
        map.serialize_entry("Memory", &self.memory)?;
        map.serialize_entry("MigrateDomainJobInfo", &self.migration)?;
        map.serialize_entry("Vcpu", &self.vcpus)?;
        map.serialize_entry("Net", &self.nets)?;
        map.serialize_entry("Block", &self.blocks)?;
        map.serialize_entry("CPUMapSet", &self.cpu_map.is_some())?;
        map.serialize_entry("CPUMap", &self.cpu_map)?;
        map.serialize_entry("DirtyRate", &self.dirty_rate)?;
        map.serialize_entry("Load", &self.load)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_values_are_zero_with_the_flag_down() {
        let load = LoadStats { load1m: Some(Load(0.25)), load5m: Some(Load(2.0)), load15m: None };
        assert_eq!(
            serde_json::to_string(&load).unwrap(),
            r#"{"Load1mSet":true,"Load1m":0.25,"Load5mSet":true,"Load5m":2,"Load15mSet":false,"Load15m":0}"#
        );
        let net = NetStats { name: Some("tap0".into()), ..NetStats::default() };
        let json = serde_json::to_string(&net).unwrap();
        assert!(json.starts_with(r#"{"NameSet":true,"Name":"tap0","AliasSet":false,"Alias":"","RxBytesSet":false,"#));
    }

    #[test]
    fn lists_are_never_null_and_the_map_is_when_it_is_unknown() {
        let json = serde_json::to_string(&DomainStats::default()).unwrap();
        assert!(json.contains(r#""Vcpu":[],"Net":[],"Block":[],"CPUMapSet":false,"CPUMap":null"#), "{json}");
    }
}
