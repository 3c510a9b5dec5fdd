//! Gathers the facts that a conversion needs from the machine, in one place (contract/cmd-server.md 5.2).

mod disks;
mod secrets;

pub use disks::{direct_io, is_allocated, probe_disks};
pub use secrets::cloud_init_secrets;

use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use super::config::Config;
use crate::convert::{
    self, ContainerDiskInfo, ConvertError, DirectIo, HostFacts, HypervisorFacts, Link, Ovmf, SyncOptions,
};
use crate::domain::DomainSpec;
use crate::storage::ImageInfo;
use crate::vmi::VirtualMachineInstance;

/// What is known before the VMI is looked at.
#[derive(Debug, Clone)]
pub struct Pod<'a> {
    /// The launcher's configuration.
    pub config: &'a Config,
    /// `kvm` or `hyperv-direct`, as the conversion names them.
    pub hypervisor: &'a str,
    /// The device that shows hardware virtualisation.
    pub device: Option<&'a Path>,
}

/// Kubernetes' name of the architecture this binary was built for.
fn host_arch() -> String {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
    .to_owned()
}

/// Gathers the facts for one VMI. Blocking: reads small files and opens the VM's disks.
pub fn gather(
    pod: &Pod<'_>,
    vmi: &VirtualMachineInstance,
    options: SyncOptions,
    container_disks: &BTreeMap<String, ImageInfo>,
) -> HostFacts {
    let root = Path::new("/");
    let mut facts = collect(root, pod, vmi, options, container_disks);
    if let Ok(domain) = draft(vmi, &facts) {
        probe_disks(root, &domain, &mut facts);
    }
    facts
}

/// The facts without [`probe_disks`], of the machine whose file system is `root`. Blocking: reads small files.
pub fn collect(
    root: &Path,
    pod: &Pod<'_>,
    vmi: &VirtualMachineInstance,
    options: SyncOptions,
    container_disks: &BTreeMap<String, ImageInfo>,
) -> HostFacts {
    let config = pod.config;
    let (cpu_set, cpu_set_error) = match cpu_set() {
        Ok(set) => (set, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let volumes = || vmi.spec.volumes.iter().map(|volume| volume.name.clone());
    let is_block = |path: PathBuf| std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
    let mut facts = HostFacts {
        host_arch: host_arch(),
        hypervisor: HypervisorFacts {
            name: pod.hypervisor.to_owned(),
            device_present: pod.device.is_some_and(Path::exists),
        },
        allow_emulation: config.allow_emulation,
        allow_cross_arch_emulation: config.allow_cross_arch_emulation,
        emulator_binaries: emulators(),
        cpu_set,
        cpu_set_error,
        options_present: true,
        options,
        ovmf: Ovmf {
            path: config.ovmf_path.display().to_string(),
            files: names_in(&config.ovmf_path),
            firmware_auto_selection: config.firmware_auto_selection,
        },
        ephemeral_disk_dir: trimmed(&config.ephemeral_disk_dir),
        container_disk_dir: trimmed(&config.container_disk_dir),
        block_volumes: volumes().filter(|name| is_block(Path::new("/dev").join(name))).collect(),
        hotplug_block_volumes: volumes().filter(|name| is_block(config.hotplug_disk_dir.join(name))).collect(),
        container_disks: container_disks.iter().map(|(name, info)| (name.clone(), disk_info(info))).collect(),
        links: links(),
        vsock_ns_mode: std::fs::read_to_string("/proc/sys/net/vsock/ns_mode").ok(),
        env: std::env::vars()
            .filter(|(name, _)| name.contains("_RESOURCE_") || name == crate::logging::VERBOSITY_VARIABLE)
            .collect(),
        volume_files: cloud_init_secrets(root, vmi),
        ..HostFacts::default()
    };
    facts.direct_io = DirectIo { default: true, paths: BTreeMap::new() };
    if let Ok(domain) = draft(vmi, &facts) {
        disks::block_sizes(root, &domain, &mut facts);
    }
    facts
}

/// Converts the VMI as far as it goes without looking at its disks, to learn where they are: that is the conversion's
/// knowledge. What is wrong with a VMI shows here, before anything was made for it.
pub fn draft(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<DomainSpec, ConvertError> {
    let mut vmi = vmi.clone();
    for size in vmi.spec.domain.devices.disks.iter_mut().filter_map(|disk| disk.block_size.as_mut()) {
        size.match_volume = None;
    }
    let mut facts = facts.clone();
    facts.direct_io = DirectIo { default: true, paths: BTreeMap::new() };
    convert::convert(&vmi, &facts)
}

fn trimmed(path: &Path) -> String {
    path.display().to_string().trim_end_matches('/').to_owned()
}

fn disk_info(info: &ImageInfo) -> ContainerDiskInfo {
    let ImageInfo { format, backing_file, actual_size, virtual_size } = info.clone();
    ContainerDiskInfo { format, backing_file, actual_size, virtual_size }
}

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(Result::ok).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn emulators() -> Vec<String> {
    ["/usr/bin/qemu-system-aarch64", "/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-system-s390x"]
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .map(str::to_owned)
        .collect()
}

/// CPUs of the pod's cgroup; where no cpuset controller is mounted, those this process may run on.
fn cpu_set() -> std::io::Result<Vec<u32>> {
    for path in ["/sys/fs/cgroup/cpuset.cpus.effective", "/sys/fs/cgroup/cpuset/cpuset.cpus"] {
        match std::fs::read_to_string(path) {
            Ok(text) => return parse_cpu_list(text.trim()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let set = nix::sched::sched_getaffinity(Pid::from_raw(0))?;
    let most = nix::sched::CpuSet::count();
    Ok((0..most).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).filter_map(|cpu| u32::try_from(cpu).ok()).collect())
}

/// A CPU list such as `0-3,8`.
fn parse_cpu_list(text: &str) -> std::io::Result<Vec<u32>> {
    let bad = || std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{text:?} is not a CPU list"));
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        if first > last || last > 65_535 {
            return Err(bad());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

fn links() -> Vec<Link> {
    let read = |name: &str, file: &str| {
        let text = std::fs::read_to_string(format!("/sys/class/net/{name}/{file}")).unwrap_or_default();
        text.trim().to_owned()
    };
    let mut links: Vec<Link> = names_in(Path::new("/sys/class/net"))
        .into_iter()
        .map(|name| Link { mac: read(&name, "address"), mtu: read(&name, "mtu").parse().unwrap_or_default(), name })
        .collect();
    links.sort_by(|one, other| one.name.cmp(&other.name));
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_read_or_refused() {
        assert_eq!(parse_cpu_list("0-2,5").unwrap(), [0, 1, 2, 5]);
        assert_eq!(parse_cpu_list("").unwrap(), Vec::<u32>::new());
        for text in ["x", "3-1", "0-99999999", "1,,-"] {
            assert!(parse_cpu_list(text).is_err(), "{text}");
        }
        assert!(!cpu_set().unwrap().is_empty());
    }
}
