//! What several steps need to know, worked out once (contract/domain-xml-qemu.md 4).

use std::collections::BTreeSet;

use super::arch::{Arch, is_cross_arch};
use super::cpu_topology::topology;
use super::error::ConvertError;
use super::facts::{HostFacts, Profile};
use super::firmware::{EfiChoice, choose_efi};
use super::options::ClusterConfig;
use super::{host_devices, limits};
use crate::domain::{Disk as Device, HostDevice};
use crate::vmi::{Cpu, Disk, VirtualMachineInstance, Volume};

/// The VMI with what follows from it and the facts.
pub struct Context<'a> {
    /// The VMI.
    pub vmi: &'a VirtualMachineInstance,
    /// The facts.
    pub facts: &'a HostFacts,
    /// The architecture whose rules apply.
    pub arch: Arch,
    /// The guest's architecture is emulated on another one.
    pub cross_arch: bool,
    /// The launcher runs as root.
    pub root: bool,
    /// SEV, SEV-ES or SNP is asked for.
    pub sev: bool,
    /// Devices need `iommu="on"`.
    pub launch_iommu: bool,
    /// Free pages are reported to the host.
    pub free_page_reporting: bool,
    /// The serial console is logged.
    pub serial_log: bool,
    /// Cluster switches, all off without options.
    pub cluster: ClusterConfig,
    /// The firmware for a VMI that boots by EFI.
    pub efi: Option<EfiChoice>,
    /// The host's devices that the guest gets.
    pub host_devices: Vec<HostDevice>,
    /// The disks of the domain that runs already; none before the start.
    pub live: &'a [Device],
    hotplug: BTreeSet<&'a str>,
    permanent: BTreeSet<&'a str>,
}

/// Directories the launcher and libvirt keep for themselves.
pub(super) use crate::domain::PRIVATE_DIR as PRIVATE;

impl<'a> Context<'a> {
    /// Gathers and checks; the errors come in the original's order, [`super::grace::check`] after them.
    pub fn new(vmi: &'a VirtualMachineInstance, facts: &'a HostFacts) -> Result<Self, ConvertError> {
        let spec = &vmi.spec;
        if let Some(error) = &facts.cpu_set_error {
            return Err(ConvertError::known(format!("failed to read pod cpuset: {error}")));
        }
        let cross_arch = is_cross_arch(vmi, facts);
        let arch = Arch::of(vmi, facts);
        limits::vcpus(vmi, arch)?;
        check_container_disks(vmi, facts)?;
        let security = spec.domain.launch_security.as_ref();
        let sev = security.is_some_and(|security| security.sev.is_some() || security.snp.is_some());
        let cluster = facts.options().cluster_config.clone().unwrap_or_default();
        let efi = match facts.hypervisor.profile {
            Profile::Qemu => choose_efi(vmi, facts, arch)?,
            Profile::CloudHypervisor => None,
        };
        let host_devices = host_devices::assign(vmi, facts)?;
        let devices = &spec.domain.devices;
        let cpu = spec.domain.cpu.as_ref();
        let high_performance = cpu.is_some_and(|cpu| cpu.dedicated_cpu_placement || cpu.realtime.is_some())
            || spec.domain.memory.as_ref().is_some_and(|memory| memory.hugepages.is_some());
        let free_page_reporting = !cluster.free_page_reporting_disabled
            && devices.autoattach_mem_balloon.unwrap_or(true)
            && !high_performance
            && vmi.annotation("kubevirt.io/free-page-reporting-disabled") != Some("true");
        let volumes = |hotplug: bool| {
            vmi.status
                .volume_status
                .iter()
                .filter(move |status| status.hotplug_volume.is_some() == hotplug)
                .map(|status| status.name.as_str())
                .collect::<BTreeSet<&str>>()
        };
        Ok(Context {
            vmi,
            facts,
            arch,
            cross_arch,
            root: !vmi.is_non_root(),
            sev,
            launch_iommu: sev || (security.is_some() && spec.architecture == "s390x"),
            free_page_reporting,
            serial_log: devices.log_serial_console.unwrap_or(!cluster.serial_console_log_disabled),
            cluster,
            efi,
            host_devices,
            live: &[],
            hotplug: volumes(true),
            permanent: volumes(false),
        })
    }

    /// The virtio model of devices (5.0).
    pub fn virtio_model(&self) -> &'static str {
        virtio_model(self.arch, self.vmi)
    }

    /// The SCSI controller's model (5.0).
    pub fn scsi_model(&self) -> &'static str {
        if self.arch == Arch::S390x { "virtio-scsi" } else { self.virtio_model() }
    }

    /// `on` where devices need it, else empty.
    pub fn iommu(&self) -> String {
        if self.launch_iommu { "on".to_owned() } else { String::new() }
    }

    /// Whether the volume is hot-plugged.
    pub fn is_hotplug(&self, volume: &str) -> bool {
        self.hotplug.contains(volume)
    }

    /// Whether the volume is permanent; without any permanent volume in the status, all count as such (8.3).
    pub fn is_permanent(&self, volume: &str) -> bool {
        self.permanent.is_empty() || self.permanent.contains(volume)
    }

    /// The volume of a disk; the last one of that name.
    pub fn volume(&self, name: &str) -> Option<(usize, &'a Volume)> {
        self.vmi.spec.volumes.iter().enumerate().rfind(|(_, volume)| volume.name == name)
    }

    /// A launcher-private directory that depends on the user.
    pub fn libvirt_state(&self, what: &str) -> String {
        match self.root {
            true => format!("/var/lib/libvirt/qemu/{what}"),
            false => format!("{PRIVATE}/libvirt/qemu/{what}"),
        }
    }

    /// vCPUs without hot-pluggable ones, at least 1.
    pub fn vcpus(&self) -> u64 {
        let (sockets, cores, threads) = self.topology();
        (u64::from(sockets) * u64::from(cores) * u64::from(threads)).max(1)
    }

    /// Sockets, cores, threads of the VMI (6.1), without hot-pluggable sockets.
    pub fn topology(&self) -> (u32, u32, u32) {
        topology(self.vmi)
    }

    /// The CPU spec of a VMI with dedicated CPUs.
    pub fn dedicated_cpu(&self) -> Option<&'a Cpu> {
        self.vmi.spec.domain.cpu.as_ref().filter(|cpu| cpu.dedicated_cpu_placement)
    }

    /// Whether the guest is to see the host's NUMA cells.
    pub fn numa_passthrough(&self) -> bool {
        let numa = self.vmi.spec.domain.cpu.as_ref().and_then(|cpu| cpu.numa.as_ref());
        numa.is_some_and(|numa| numa.guest_mapping_passthrough.is_some())
    }

    /// Whether memory must come from memfd, and may (5.4).
    pub fn memfd(&self) -> bool {
        let hugepages = self.vmi.spec.domain.memory.as_ref().is_some_and(|memory| memory.hugepages.is_some());
        let wanted = hugepages && self.vmi.annotation("kubevirt.io/memfd") != Some("false");
        self.arch != Arch::S390x && (wanted || self.shared_memory())
    }

    /// Whether another process maps the guest's memory (5.4).
    pub fn shared_memory(&self) -> bool {
        let devices = &self.vmi.spec.domain.devices;
        devices.filesystems.iter().any(|filesystem| filesystem.virtiofs.is_some())
            || devices.interfaces.iter().any(|interface| interface.passt_binding.is_some())
    }

    /// Disks with dedicated or shared IO threads need counting (8.7).
    pub fn disks(&self) -> &'a [Disk] {
        &self.vmi.spec.domain.devices.disks
    }
}

/// The virtio model by architecture name; unknown names act as amd64.
pub(super) fn virtio_model(arch: Arch, vmi: &VirtualMachineInstance) -> &'static str {
    match (arch, vmi.spec.domain.devices.use_virtio_transitional) {
        (Arch::S390x, _) => "virtio",
        (_, Some(true)) => "virtio-transitional",
        (_, Some(false) | None) => "virtio-non-transitional",
    }
}

fn check_container_disks(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<(), ConvertError> {
    for (index, volume) in vmi.spec.volumes.iter().enumerate().filter(|(_, volume)| volume.container_disk.is_some()) {
        let path = format!("spec.volumes[{index}].containerDisk");
        let name = &volume.name;
        let Some(info) = facts.container_disks.get(name) else {
            return Err(ConvertError::at(
                path,
                format!("failed to get container disk info: volume {name} cannot be inspected"),
            ));
        };
        let problem = match info.format.as_str() {
            "raw" => None,
            "qcow2" if info.backing_file.is_empty() => None,
            "qcow2" => Some(format!("expected no backing file, but found {}", info.backing_file)),
            other => Some(format!("unsupported image format: {other}")),
        };
        if let Some(problem) = problem {
            return Err(ConvertError::at(path, format!("invalid image in containerDisk {name}: {problem}")));
        }
    }
    Ok(())
}
