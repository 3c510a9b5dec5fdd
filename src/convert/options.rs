//! What virt-handler adds to a VMI when it asks for a sync (contract/cmd-server.md 2.2, VirtualMachineOptions).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The options that reach the domain document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SyncOptions {
    /// SMBIOS texts of the cluster.
    pub smbios: Option<Smbios>,
    /// Seconds between balloon statistics; 0 for none.
    pub mem_balloon_stats_period: u64,
    /// Volumes that keep their blocks: no discard.
    pub preallocated_volumes: Vec<String>,
    /// The node's CPUs and memory.
    pub topology: Option<Topology>,
    /// Switches of the cluster; absent means all off.
    pub cluster_config: Option<ClusterConfig>,
    /// How interfaces are attached, by name: `tap` or something else.
    pub interface_domain_attachment: BTreeMap<String, String>,
    /// Aliases of NVIDIA Grace devices, without `ua-`.
    pub grace_host_device_aliases: Vec<String>,
}

/// SMBIOS texts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Smbios {
    pub manufacturer: String,
    pub product: String,
    pub version: String,
    pub sku: String,
    pub family: String,
}

/// Cluster switches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterConfig {
    /// No free page reporting.
    #[serde(rename = "freePageReportingDisabled")]
    pub free_page_reporting_disabled: bool,
    /// A bochs display for EFI guests.
    #[serde(rename = "bochsDisplayForEFIGuests")]
    pub bochs_display_for_efi_guests: bool,
    /// No serial console log unless the VMI asks for one.
    #[serde(rename = "serialConsoleLogDisabled")]
    pub serial_console_log_disabled: bool,
    /// PCI devices are placed by NUMA node.
    #[serde(rename = "pciNUMAAwareTopology")]
    pub pci_numa_aware_topology: bool,
    /// vGPUs may migrate.
    #[serde(rename = "vgpuLiveMigration")]
    pub vgpu_live_migration: bool,
    /// NVIDIA Grace IO virtualisation.
    #[serde(rename = "graceIOVirtualization")]
    pub grace_io_virtualization: bool,
}

/// The node's topology.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Topology {
    /// NUMA cells in the node's order.
    pub numa_cells: Vec<Cell>,
}

/// A NUMA cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cell {
    /// Its number.
    pub id: u32,
    /// Its CPUs.
    pub cpus: Vec<HostCpu>,
    /// Distances to cells.
    pub distances: Vec<Distance>,
}

/// A CPU of the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostCpu {
    /// Its number.
    pub id: u32,
    /// Threads of its core, itself included.
    pub siblings: Vec<u32>,
}

/// The distance to a cell.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Distance {
    /// The other cell.
    pub id: u32,
    /// The distance.
    pub value: u64,
}
