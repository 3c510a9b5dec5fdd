//! Everything a conversion needs to know besides the VMI: the machine, the pod and the sync's options, as values.
//!
//! The serialised form is that of the golden cases' `ctx.json`, so that `domain-xml --context` and the tests read the same.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::options::SyncOptions;
pub use crate::domain::Profile;

/// The facts. `launcher::facts` gathers them from the machine, in one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostFacts {
    /// Architecture the launcher runs on: `amd64`, `arm64`, `s390x`.
    pub host_arch: String,
    /// The hypervisor of the pod.
    pub hypervisor: HypervisorFacts,
    /// Software emulation permitted.
    pub allow_emulation: bool,
    /// Guests of another architecture permitted.
    pub allow_cross_arch_emulation: bool,
    /// Emulator binaries that exist, by path.
    pub emulator_binaries: Vec<String>,
    /// CPUs of the launcher's cgroup.
    pub cpu_set: Vec<u32>,
    /// Why the CPU set could not be read.
    pub cpu_set_error: Option<String>,
    /// Whether the sync came with options; without, they count as empty.
    pub options_present: bool,
    /// What virt-handler adds to the VMI.
    #[serde(flatten)]
    pub options: SyncOptions,
    /// Firmware files.
    pub ovmf: Ovmf,
    /// Parent of `disk-data`, `cloud-init-data`, `ignition-data`.
    pub ephemeral_disk_dir: String,
    /// Where `disk_N.img` are.
    pub container_disk_dir: String,
    /// Volumes whose path under `/dev` is a block device.
    pub block_volumes: Vec<String>,
    /// The same for hot-plugged volumes.
    pub hotplug_block_volumes: Vec<String>,
    /// Container disk images by volume; absent means that inspection failed.
    pub container_disks: BTreeMap<String, ContainerDiskInfo>,
    /// Where O_DIRECT works.
    #[serde(rename = "directIO")]
    pub direct_io: DirectIo,
    /// Images that are fully allocated.
    pub preallocated_images: Vec<String>,
    /// Block sizes of devices, by path.
    pub block_sizes: BTreeMap<String, BlockSizes>,
    /// Block size of files' file systems, by path.
    pub file_block_sizes: BTreeMap<String, u64>,
    /// Network links in the pod.
    pub links: Vec<Link>,
    /// Content of the network-info file; absent means no such file.
    pub network_info: Option<String>,
    /// Files of dynamic resource allocation, by path below their folder.
    pub dra_metadata: BTreeMap<String, serde_json::Value>,
    /// `/proc/sys/net/vsock/ns_mode`.
    pub vsock_ns_mode: Option<String>,
    /// Whether an IOMMUFD descriptor was received.
    pub iommufd: bool,
    /// The launcher's environment, as far as conversion looks at it.
    pub env: BTreeMap<String, String>,
    /// Parts of `/sys`.
    pub sysfs: Option<Sysfs>,
    /// Names of the files of config-like volumes and secrets, by `KIND/VOLUME`.
    pub volume_files: BTreeMap<String, Vec<String>>,
}

impl HostFacts {
    /// The sync's options; empty ones if it came without.
    pub fn options(&self) -> &SyncOptions {
        static NONE: LazyLock<SyncOptions> = LazyLock::new(SyncOptions::default);
        if self.options_present { &self.options } else { &NONE }
    }
}

impl Default for HostFacts {
    fn default() -> Self {
        HostFacts {
            host_arch: "amd64".into(),
            hypervisor: HypervisorFacts::default(),
            allow_emulation: false,
            allow_cross_arch_emulation: false,
            emulator_binaries: Vec::new(),
            cpu_set: Vec::new(),
            cpu_set_error: None,
            options_present: false,
            options: SyncOptions::default(),
            ovmf: Ovmf::default(),
            ephemeral_disk_dir: "/var/run/kubevirt-ephemeral-disks".into(),
            container_disk_dir: "/var/run/kubevirt/container-disks".into(),
            block_volumes: Vec::new(),
            hotplug_block_volumes: Vec::new(),
            container_disks: BTreeMap::new(),
            direct_io: DirectIo::default(),
            preallocated_images: Vec::new(),
            block_sizes: BTreeMap::new(),
            file_block_sizes: BTreeMap::new(),
            links: Vec::new(),
            network_info: None,
            dra_metadata: BTreeMap::new(),
            vsock_ns_mode: None,
            iommufd: false,
            env: BTreeMap::new(),
            sysfs: None,
            volume_files: BTreeMap::new(),
        }
    }
}

/// The hypervisor of the pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HypervisorFacts {
    /// `kvm` (or empty), `hyperv-direct`.
    pub name: String,
    /// Whether `/dev/kvm` (or `/dev/mshv`) exists.
    pub device_present: bool,
    /// `<domain type=…>` of a hypervisor that needs neither device and is not emulated, such as `lxc`; else empty.
    pub virt_type: String,
    /// The kind of document.
    pub profile: Profile,
    /// A firmware image to boot by in place of a kernel, where the profile knows no other firmware; empty if there is none.
    pub firmware_image: String,
    /// libvirt's name for the domain, where the VMI's would be too long; else empty.
    pub domain_name: String,
    /// `<driver name=…>` of disks.
    pub disk_driver: String,
    /// Whether libvirt's driver takes `<boot order=…>`; without, disks stand in the order in which they are to be tried.
    pub boot_order: bool,
    /// Whether there is a memory balloon.
    pub memory_balloon: bool,
}

impl Default for HypervisorFacts {
    /// QEMU with KVM, on a machine without the device.
    fn default() -> Self {
        HypervisorFacts {
            name: String::new(),
            device_present: false,
            virt_type: String::new(),
            profile: Profile::default(),
            firmware_image: String::new(),
            domain_name: String::new(),
            disk_driver: "qemu".to_owned(),
            boot_order: true,
            memory_balloon: true,
        }
    }
}

/// Firmware files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Ovmf {
    /// Their folder.
    pub path: String,
    /// Names that exist in it.
    pub files: Vec<String>,
    /// Whether libvirt may choose Secure Boot firmware.
    pub firmware_auto_selection: bool,
}

/// What `qemu-img info` says of a container disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerDiskInfo {
    /// Image format.
    pub format: String,
    /// Backing file, empty for none.
    pub backing_file: String,
    /// Bytes on disk.
    pub actual_size: u64,
    /// Bytes the guest sees.
    pub virtual_size: u64,
}

/// Where O_DIRECT works.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectIo {
    /// For paths that are not listed.
    pub default: bool,
    /// `yes`, `no` or `error` by path.
    pub paths: BTreeMap<String, String>,
}

/// Block sizes of a device; both 0 means that they cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct BlockSizes {
    /// Logical block size in bytes.
    pub logical: u64,
    /// Physical block size in bytes.
    pub physical: u64,
    /// Discard granularity in bytes; 0 if unknown.
    pub discard_granularity: u64,
}

/// A network link in the pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its MAC address; empty if unknown.
    pub mac: String,
    /// Its MTU.
    pub mtu: u32,
}

/// Parts of `/sys` that placement by NUMA node looks at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Sysfs {
    /// PCI devices by address (`/sys/bus/pci/devices`).
    pub pci_devices: BTreeMap<String, PciDevice>,
    /// NUMA nodes by number (`/sys/devices/system/node`).
    pub numa_nodes: BTreeMap<u32, NumaNode>,
    /// Nodes that are online, as a list such as `0-3`.
    pub online: String,
    /// Nodes that hold a generic initiator; absent where the kernel does not say.
    pub has_generic_initiator: Option<String>,
    /// Entries of `/sys/class/iommu` and where they lead.
    pub iommu_class: Vec<String>,
}

/// Files of a PCI device, as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PciDevice {
    /// Its NUMA node; negative or absent if it has none.
    pub numa_node: Option<i64>,
    /// `0x10de`.
    pub vendor: String,
    /// `0x2342`.
    pub device: String,
    /// Start, end and flags of each region, one per line.
    pub resource: String,
}

/// Files of a NUMA node, as they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct NumaNode {
    /// CPUs, as a list such as `0-3`.
    pub cpulist: String,
    /// Distances to the nodes that are online, in their order.
    pub distance: String,
    /// `Node 0 MemTotal: 1024 kB` and more.
    pub meminfo: String,
    /// PCI addresses of devices that the node's folder links to.
    pub devices: Vec<String>,
}
