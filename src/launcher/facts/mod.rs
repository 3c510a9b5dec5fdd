//! Gathers the facts that a conversion needs from the machine, in one place (contract/cmd-server.md 5.2).
#![allow(clippy::disallowed_methods, reason = "sync runs these within `files::with_deadline`")]

mod devices;
mod disks;
mod files;
#[cfg(test)]
mod seam;
mod secrets;

pub(crate) use devices::node_of;
pub use disks::{direct_io, direct_io_alignment, is_allocated, probe_disks};
pub(crate) use files::below;
pub use secrets::cloud_init_secrets;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;

pub use crate::convert::draft;
use crate::convert::{ContainerDiskInfo, DirectIo, HostFacts, HypervisorFacts, Link, Ovmf, SyncOptions};
use crate::domain::cpu_list;
use crate::hypervisor::{Entry, host_architecture};
use crate::launcher::config::Config;
use crate::storage::ImageInfo;
use crate::vmi::VirtualMachineInstance;

/// How long an empty network-info file is waited for (contract/cmd-server.md 4.7).
const NETWORK_INFO: Duration = Duration::from_secs(1);

/// What is known before the VMI is looked at.
#[derive(Debug, Clone)]
pub struct Pod<'a> {
    /// The file system that everything is looked for in: `/`, or another one in a test.
    pub root: &'a Path,
    /// The launcher's configuration.
    pub config: &'a Config,
    /// What the conversion has to know of the hypervisor.
    pub hypervisor: HypervisorFacts,
    /// Whether an IOMMUFD descriptor was received.
    pub iommufd: bool,
}

/// What the conversion has to know of the hypervisor, on the machine whose file system is `root`.
pub fn hypervisor_facts(entry: &Entry, root: &Path, domain: &str) -> HypervisorFacts {
    let launcher = &entry.launcher;
    let there = |path: &Path| below(root, path).exists();
    let image = launcher.firmware_images.iter().find(|path| there(path));
    let name = entry.domain_name(domain);
    let device = launcher.devices().find(|(device, _)| there(device));
    let virt_type = device.map_or(launcher.virt_type.as_str(), |(_, virt_type)| virt_type);
    HypervisorFacts {
        name: if virt_type == "hyperv" { "hyperv-direct" } else { "kvm" }.to_owned(),
        device_present: device.is_some(),
        virt_type: Some(virt_type).filter(|name| !matches!(*name, "kvm" | "hyperv")).unwrap_or_default().to_owned(),
        profile: launcher.conversion,
        firmware_image: image.map(|path| path.display().to_string()).unwrap_or_default(),
        domain_name: if name == domain { String::new() } else { name },
        disk_driver: entry.disk_driver.clone(),
        boot_order: launcher.requires_boot_order,
        memory_balloon: launcher.supports_memory_ballooning,
    }
}

/// Whether the pod's network was prepared for a guest on it.
pub fn has_pod_tap(root: &Path) -> bool {
    below(root, "/sys/class/net/tap0").exists()
}

/// Gathers the facts for one VMI. Blocking: reads small files and opens the VM's disks.
pub fn gather(
    pod: &Pod<'_>,
    vmi: &VirtualMachineInstance,
    options: SyncOptions,
    container_disks: &BTreeMap<String, ImageInfo>,
) -> HostFacts {
    let mut facts = collect(pod, vmi, options, container_disks);
    if let Ok(domain) = draft(vmi, &facts) {
        probe_disks(pod.root, &domain, &mut facts);
    }
    facts
}

/// The facts without [`probe_disks`]. Blocking: reads small files, and waits up to a second for the network-info file of
/// a VMI that needs it.
pub fn collect(
    pod: &Pod<'_>,
    vmi: &VirtualMachineInstance,
    options: SyncOptions,
    container_disks: &BTreeMap<String, ImageInfo>,
) -> HostFacts {
    let Pod { root, config, .. } = *pod;
    let (cpu_set, cpu_set_error) = match cpu_set(root) {
        Ok(set) => (set, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let volumes = || vmi.spec.volumes.iter().map(|volume| volume.name.clone());
    let is_block = |path: PathBuf| std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
    let (permanent, hotplug) = (below(root, "/dev"), below(root, &config.hotplug_disk_dir));
    let mut facts = HostFacts {
        host_arch: host_architecture().to_owned(),
        hypervisor: pod.hypervisor.clone(),
        allow_emulation: config.allow_emulation,
        allow_cross_arch_emulation: config.allow_cross_arch_emulation,
        emulator_binaries: emulators(root),
        cpu_set,
        cpu_set_error,
        options_present: true,
        options,
        ovmf: Ovmf {
            path: config.ovmf_path.display().to_string(),
            files: files::names(&below(root, &config.ovmf_path)),
            firmware_auto_selection: config.firmware_auto_selection,
        },
        ephemeral_disk_dir: trimmed(&config.ephemeral_disk_dir),
        container_disk_dir: trimmed(&config.container_disk_dir),
        block_volumes: volumes().filter(|name| is_block(permanent.join(name))).collect(),
        hotplug_block_volumes: volumes().filter(|name| is_block(hotplug.join(name))).collect(),
        container_disks: container_disks.iter().map(|(name, info)| (name.clone(), disk_info(info))).collect(),
        direct_io: DirectIo { default: true, paths: BTreeMap::new() },
        links: links(root),
        network_info: devices::has_multus_sriov(vmi).then(|| devices::network_info(root, NETWORK_INFO)).flatten(),
        dra_metadata: if vmi.spec.resource_claims.is_empty() { BTreeMap::new() } else { devices::claims(root) },
        vsock_ns_mode: files::text(&below(root, "/proc/sys/net/vsock/ns_mode")),
        iommufd: pod.iommufd,
        env: environment(std::env::vars_os()),
        volume_files: cloud_init_secrets(root, vmi),
        ..HostFacts::default()
    };
    if let Ok(domain) = draft(vmi, &without_placement(&facts)) {
        disks::block_sizes(root, &domain, &mut facts);
        if wants_placement(&facts) {
            facts.sysfs = Some(devices::sysfs(root, &domain));
        }
    }
    facts
}

/// Variables that the conversion looks at: addresses of devices by resource, and the log's verbosity. Others may hold
/// anything, and what is not UTF-8 is none of these.
fn environment(variables: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    let is_wanted = |name: &str| name.contains("_RESOURCE_") || name == crate::logging::VERBOSITY_VARIABLE;
    variables.filter_map(text).filter(|(name, _)| is_wanted(name)).collect()
}

/// Whether devices are to be placed near their NUMA nodes.
fn wants_placement(facts: &HostFacts) -> bool {
    let cluster = facts.options.cluster_config.as_ref();
    cluster.is_some_and(|cluster| cluster.pci_numa_aware_topology)
}

/// Facts that ask for no placement, which needs to know which devices there are.
fn without_placement(facts: &HostFacts) -> HostFacts {
    let mut facts = facts.clone();
    facts.options.grace_host_device_aliases.clear();
    if let Some(cluster) = &mut facts.options.cluster_config {
        cluster.pci_numa_aware_topology = false;
    }
    facts
}

fn trimmed(path: &Path) -> String {
    path.display().to_string().trim_end_matches('/').to_owned()
}

fn disk_info(info: &ImageInfo) -> ContainerDiskInfo {
    let ImageInfo { format, backing_file, actual_size, virtual_size } = info.clone();
    ContainerDiskInfo { format, backing_file, actual_size, virtual_size }
}

fn emulators(root: &Path) -> Vec<String> {
    ["/usr/bin/qemu-system-aarch64", "/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-system-s390x"]
        .into_iter()
        .filter(|path| below(root, path).exists())
        .map(str::to_owned)
        .collect()
}

/// CPUs of the pod's cgroup; where no cpuset controller is mounted, those this process may run on.
fn cpu_set(root: &Path) -> io::Result<Vec<u32>> {
    for path in ["/sys/fs/cgroup/cpuset.cpus.effective", "/sys/fs/cgroup/cpuset/cpuset.cpus"] {
        match std::fs::read_to_string(below(root, path)) {
            Ok(text) => {
                let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("{:?} is not a CPU list", text.trim()));
                return cpu_list::parse(&text).ok_or_else(bad);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let set = nix::sched::sched_getaffinity(Pid::from_raw(0))?;
    let most = nix::sched::CpuSet::count();
    Ok((0..most).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).filter_map(|cpu| u32::try_from(cpu).ok()).collect())
}

fn links(root: &Path) -> Vec<Link> {
    let folder = below(root, "/sys/class/net");
    let read = |name: &str, file: &str| files::word(&folder.join(name).join(file));
    files::names(&folder)
        .into_iter()
        .map(|name| Link { mac: read(&name, "address"), mtu: read(&name, "mtu").parse().unwrap_or_default(), name })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microsofts_hypervisor_does_where_there_is_no_kvm() {
        let catalogue = crate::hypervisor::Catalogue::builtin().unwrap();
        let (_, entry) = catalogue.get("cloud-hypervisor").unwrap();
        let root = tempfile::tempdir().unwrap();
        let seen = || {
            let facts = hypervisor_facts(entry, root.path(), "ns_vm");
            (facts.device_present, facts.name)
        };
        assert_eq!(seen(), (false, "kvm".to_owned()));
        std::fs::create_dir(root.path().join("dev")).unwrap();
        std::fs::write(root.path().join("dev/mshv"), "").unwrap();
        assert_eq!(seen(), (true, "hyperv-direct".to_owned()), "and the domain's type is hyperv");
        std::fs::write(root.path().join("dev/kvm"), "").unwrap();
        assert_eq!(seen(), (true, "kvm".to_owned()));
    }

    #[test]
    fn pods_cpus_are_read_or_refused() {
        assert!(!cpu_set(Path::new("/")).unwrap().is_empty());
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("sys/fs/cgroup/cpuset/cpuset.cpus");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "0-2,5\n").unwrap();
        assert_eq!(cpu_set(root.path()).unwrap(), [0, 1, 2, 5]);
        std::fs::write(&file, "3-1\n").unwrap();
        assert_eq!(cpu_set(root.path()).unwrap_err().to_string(), "\"3-1\" is not a CPU list");
    }

    #[test]
    fn pods_facts_are_found_below_its_root() {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in [
            ("sys/fs/cgroup/cpuset.cpus.effective", "2-3\n"),
            ("sys/class/net/eth0/address", "02:00:00:00:00:01\n"),
            ("sys/class/net/eth0/mtu", "1450\n"),
            ("sys/class/net/tap0/mtu", "1450\n"),
            ("proc/sys/net/vsock/ns_mode", "local\n"),
            ("usr/share/edk2/ovmf/OVMF_CODE.fd", ""),
            ("usr/bin/qemu-system-aarch64", ""),
            ("dev/kvm", ""),
            ("etc/podinfo/network-info", "{\"interfaces\":[]}"),
            ("var/run/kubernetes.io/dra-device-attributes/resourceclaims/c/r/x-metadata.json", "{}"),
            ("sys/devices/system/node/node0/cpulist", "0-3\n"),
            ("var/run/kubevirt-private/vmi-disks/data/disk.img", "content"),
        ] {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let config = crate::launcher::config::example();
        let catalogue = crate::hypervisor::Catalogue::builtin().unwrap();
        let (_, entry) = catalogue.get("kvm").unwrap();
        let pod = Pod {
            root: root.path(),
            config: &config,
            hypervisor: hypervisor_facts(entry, root.path(), "ns_vm"),
            iommufd: true,
        };
        let vmi = |networks: &str| {
            let text = format!(
                r#"{{"metadata":{{"name":"vm","namespace":"ns"}},{networks}
                "spec":{{"volumes":[{{"name":"data","persistentVolumeClaim":{{"claimName":"c"}}}}],
                "networks":[{{"name":"fast","multus":{{"networkName":"n"}}}}],"resourceClaims":[{{"name":"c","resourceClaimName":"c"}}],
                "domain":{{"devices":{{"disks":[{{"name":"data","disk":{{"bus":"virtio"}}}}],
                "interfaces":[{{"name":"fast","sriov":{{}}}}]}}}}}}}}"#
            );
            crate::vmi::parse(text.as_bytes()).unwrap()
        };
        let mut options = SyncOptions::default();
        options.cluster_config.get_or_insert_default().pci_numa_aware_topology = true;
        let facts = gather(&pod, &vmi(""), options, &BTreeMap::new());
        draft(&vmi(""), &facts).unwrap();
        assert_eq!((facts.cpu_set, facts.cpu_set_error), (vec![2, 3], None));
        let links: Vec<_> = facts.links.iter().map(|link| (link.name.as_str(), link.mac.as_str(), link.mtu)).collect();
        assert_eq!(links, [("eth0", "02:00:00:00:00:01", 1450), ("tap0", "", 1450)]);
        assert_eq!(facts.ovmf.files, ["OVMF_CODE.fd"]);
        assert_eq!(facts.emulator_binaries, ["/usr/bin/qemu-system-aarch64"]);
        assert_eq!((facts.hypervisor.device_present, facts.iommufd), (true, true));
        assert_eq!(facts.vsock_ns_mode.as_deref(), Some("local\n"));
        assert_eq!(facts.network_info, None, "no interface needs it");
        assert!(facts.dra_metadata.contains_key("resourceclaims/c/r/x-metadata.json"));
        assert_eq!(facts.sysfs.unwrap().numa_nodes[&0].cpulist, "0-3");
        let disk = "/var/run/kubevirt-private/vmi-disks/data/disk.img";
        assert!(facts.file_block_sizes[disk] > 0);
        assert!(matches!(facts.direct_io.paths[disk].as_str(), "yes" | "no"));
        assert_eq!((facts.preallocated_images, facts.block_volumes), (vec![disk.to_owned()], vec![]));

        let status = r#""status":{"interfaces":[{"name":"fast","infoSource":"domain, multus-status"}]},"#;
        let facts = gather(&pod, &vmi(status), SyncOptions::default(), &BTreeMap::new());
        assert_eq!(facts.network_info.as_deref(), Some("{\"interfaces\":[]}"));
        assert_eq!(facts.sysfs, None, "nothing is to be placed");
    }

    #[test]
    fn environment_is_taken_as_far_as_conversion_looks_at_it() {
        let variables = [("PCI_RESOURCE_X", "a"), ("VIRT_LAUNCHER_LOG_VERBOSITY", "3"), ("HOME", "/")];
        let variables = variables.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let found = environment(variables.into_iter());
        assert_eq!(found.keys().collect::<Vec<_>>(), ["PCI_RESOURCE_X", "VIRT_LAUNCHER_LOG_VERBOSITY"]);
    }
}
