//! Host devices: who gave which to the pod, and where they are in the machine (contract/domain-xml-qemu.md 10 to 12).

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::files::{below, names, text, word};
use crate::convert::{CLAIM_METADATA_VERSION, NumaNode, PciDevice, Sysfs, kernel_name};
use crate::domain::{DomainSpec, HostDevice, cpu_list};
use crate::vmi::VirtualMachineInstance;

/// Where the kubelet shows the pod's annotation `kubevirt.io/network-info`.
const NETWORK_INFO: &str = "/etc/podinfo/network-info";
/// Where drivers of dynamic resource allocation describe what they gave.
const CLAIMS: &str = "/var/run/kubernetes.io/dra-device-attributes";
/// Between two looks at a file that the kernel cannot watch.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Whether the VMI has an SR-IOV interface that Multus attached; without one the network-info file is not read.
pub(super) fn has_multus_sriov(vmi: &VirtualMachineInstance) -> bool {
    let sriov = vmi.spec.domain.devices.interfaces.iter().filter(|interface| interface.sriov.is_some());
    sriov.into_iter().any(|interface| {
        let mut status = vmi.status.interfaces.iter().filter(|status| status.name == interface.name);
        status.any(|status| status.info_source.contains("multus-status"))
    })
}

/// The network-info file. virt-controller annotates the pod late, so an empty file is waited for until `deadline` has
/// passed; one that is not there is not.
pub(super) fn network_info(root: &Path, deadline: Duration) -> Option<String> {
    let path = below(root, NETWORK_INFO);
    let end = Instant::now() + deadline;
    // The kubelet replaces the directory's content by renaming a link in it.
    let changes = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok().filter(|changes| {
        let flags = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_CREATE;
        path.parent().is_some_and(|directory| changes.add_watch(directory, flags).is_ok())
    });
    loop {
        let found = text(&path)?;
        let left = end.saturating_duration_since(Instant::now());
        if !found.is_empty() || left.is_zero() {
            return Some(found);
        }
        match &changes {
            Some(changes) => {
                let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                // Woken by anything, the file is looked at again; the deadline stands in either case.
                let _ = poll(&mut [PollFd::new(changes.as_fd(), PollFlags::POLLIN)], wait);
                let _ = changes.read_events();
            }
            None => std::thread::sleep(LOOK_AGAIN.min(left)),
        }
    }
}

/// The metadata files of claims, by path below their folder. One that is no JSON is a null, which the conversion refuses
/// with the path.
pub(super) fn claims(root: &Path) -> BTreeMap<String, serde_json::Value> {
    let root = below(root, CLAIMS);
    let mut files = BTreeMap::new();
    for kind in ["resourceclaims", "resourceclaimtemplates"] {
        for claim in names(&root.join(kind)) {
            for request in names(&root.join(kind).join(&claim)) {
                let folder = format!("{kind}/{claim}/{request}");
                for file in names(&root.join(&folder)).iter().filter(|name| name.ends_with("-metadata.json")) {
                    let path = format!("{folder}/{file}");
                    let Some(text) = text(&root.join(&path)) else { continue };
                    let content = understood(&text).unwrap_or_else(|error| {
                        tracing::warn!("{}: cannot be read: {error}", root.join(&path).display());
                        serde_json::Value::Null
                    });
                    files.insert(path, content);
                }
            }
        }
    }
    files
}

/// Drivers write the same metadata once for each version of the API, newest first, one JSON value after the other: the
/// one of the version that the conversion understands, else the first, which it refuses with that one's version.
fn understood(text: &str) -> serde_json::Result<serde_json::Value> {
    let mut first = None;
    for value in serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>() {
        let value = value?;
        let version = value.get("apiVersion").and_then(serde_json::Value::as_str);
        if version == Some(CLAIM_METADATA_VERSION) {
            return Ok(value);
        }
        first.get_or_insert(value);
    }
    first.map_or_else(|| serde_json::from_str(text), Ok)
}

/// The parts of `/sys` that say where the domain's PCI devices are.
pub(super) fn sysfs(root: &Path, domain: &DomainSpec) -> Sysfs {
    let devices = domain.devices.host_devices.iter().filter(|device| device.type_ == "pci");
    let addresses: BTreeSet<String> =
        devices.filter_map(|device| device.source.address.as_ref().map(kernel_name)).collect();
    let nodes = below(root, "/sys/devices/system/node");
    let numbers = names(&nodes).into_iter().filter_map(|name| name.strip_prefix("node")?.parse::<u32>().ok());
    let iommus = below(root, "/sys/class/iommu");
    Sysfs {
        pci_devices: addresses.into_iter().map(|address| (address.clone(), pci_device(root, &address))).collect(),
        numa_nodes: numbers.map(|number| (number, numa_node(root, number))).collect(),
        online: word(&nodes.join("online")),
        has_generic_initiator: text(&nodes.join("has_generic_initiator")).map(|text| text.trim().to_owned()),
        iommu_class: names(&iommus)
            .into_iter()
            .map(|name| {
                let target = std::fs::read_link(iommus.join(&name)).unwrap_or_default();
                format!("{name} {}", target.display()).trim().to_owned()
            })
            .collect(),
    }
}

/// The NUMA node of a PCI device and the host's CPUs there; `None` if it has none.
pub(crate) fn node_of(root: &Path, device: &HostDevice) -> Option<(u32, Vec<u32>)> {
    let address = device.source.address.as_ref().filter(|_| device.type_ == "pci")?;
    let node = u32::try_from(pci_device(root, &kernel_name(address)).numa_node?).ok()?;
    Some((node, cpu_list::parse(&numa_node(root, node).cpulist)?))
}

fn pci_device(root: &Path, address: &str) -> PciDevice {
    let folder = below(root, "/sys/bus/pci/devices").join(address);
    PciDevice {
        numa_node: word(&folder.join("numa_node")).parse().ok(),
        vendor: word(&folder.join("vendor")),
        device: word(&folder.join("device")),
        resource: text(&folder.join("resource")).unwrap_or_default(),
    }
}

fn numa_node(root: &Path, number: u32) -> NumaNode {
    let folder = below(root, format!("/sys/devices/system/node/node{number}"));
    let mut devices = names(&folder);
    devices.extend(names(&below(root, format!("/sys/bus/node/devices/node{number}"))));
    // What is no PCI address is a file of the node or a link to its CPUs.
    devices.retain(|name| name.matches(':').count() == 2);
    devices.sort();
    devices.dedup();
    NumaNode {
        cpulist: word(&folder.join("cpulist")),
        distance: word(&folder.join("distance")),
        meminfo: text(&folder.join("meminfo")).unwrap_or_default(),
        devices,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(root: &Path, path: &str, content: &str) {
        let path = below(root, path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    #[test]
    fn empty_network_info_file_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(network_info(root.path(), Duration::from_secs(60)), None, "what is not there is not waited for");
        write(root.path(), NETWORK_INFO, "");
        assert_eq!(network_info(root.path(), Duration::from_millis(20)).as_deref(), Some(""));
        let path = below(root.path(), NETWORK_INFO);
        let (there, started) = (path.clone(), Instant::now());
        let reader = {
            let root = root.path().to_owned();
            std::thread::spawn(move || network_info(&root, Duration::from_secs(60)))
        };
        std::fs::write(there.with_file_name("..tmp"), "{}").unwrap();
        std::fs::rename(there.with_file_name("..tmp"), path).unwrap();
        assert_eq!(reader.join().unwrap().as_deref(), Some("{}"));
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn claims_are_found_by_path() {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in [
            ("resourceclaims/c/r/drv-metadata.json", r#"{"apiVersion":"v1"}"#),
            ("resourceclaims/c/r/other.json", "{}"),
            (
                "resourceclaims/c/s/drv-metadata.json",
                r#"{"apiVersion":"v1"} {"apiVersion":"metadata.resource.k8s.io/v1alpha1","kind":"k"}
                   {"apiVersion":"v0"}"#,
            ),
            ("resourceclaims/c/t/drv-metadata.json", r#"{"apiVersion":"v2"}{"apiVersion":"v1"}"#),
            ("resourceclaims/c/u/drv-metadata.json", r#"{"apiVersion":"v2"}{"apiVersion""#),
            ("resourceclaims/c/v/drv-metadata.json", ""),
            ("resourceclaimtemplates/t/r/drv-metadata.json", "no JSON"),
        ] {
            write(root.path(), &format!("{CLAIMS}/{path}"), content);
        }
        let found = claims(root.path());
        assert_eq!(found.len(), 6);
        assert_eq!(found["resourceclaims/c/r/drv-metadata.json"]["apiVersion"], "v1");
        assert_eq!(found["resourceclaims/c/s/drv-metadata.json"]["kind"], "k");
        assert_eq!(found["resourceclaims/c/t/drv-metadata.json"]["apiVersion"], "v2");
        assert!(found["resourceclaims/c/u/drv-metadata.json"].is_null(), "cut off");
        assert!(found["resourceclaims/c/v/drv-metadata.json"].is_null(), "empty");
        assert!(found["resourceclaimtemplates/t/r/drv-metadata.json"].is_null());
    }

    #[test]
    fn sysfs_tells_where_the_domains_devices_are() {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in [
            ("bus/pci/devices/0008:01:00.0/numa_node", "1\n"),
            ("bus/pci/devices/0008:01:00.0/vendor", "0x10de\n"),
            ("bus/pci/devices/0008:01:00.0/device", "0x2342\n"),
            ("bus/pci/devices/0008:01:00.0/resource", "0x0 0x1 0x14220c\n"),
            ("bus/pci/devices/0000:00:01.0/vendor", "0x8086\n"),
            ("devices/system/node/online", "0-1\n"),
            ("devices/system/node/node0/cpulist", "0-3\n"),
            ("devices/system/node/node1/cpulist", "\n"),
            ("devices/system/node/node1/distance", "40 10\n"),
            ("devices/system/node/node1/meminfo", "Node 1 MemTotal: 0 kB\n"),
            ("devices/platform/arm-smmu-v3.0/iommu/smmu3.0/x", ""),
            ("bus/node/devices/node1/x", ""),
        ] {
            write(root.path(), &format!("/sys/{path}"), content);
        }
        let sys = root.path().join("sys");
        std::fs::create_dir_all(sys.join("class/iommu")).unwrap();
        symlink("../../devices/platform/arm-smmu-v3.0/iommu/smmu3.0", sys.join("class/iommu/smmu3.0")).unwrap();
        symlink("../../pci/devices/0008:01:00.0", sys.join("bus/node/devices/node1/0008:01:00.0")).unwrap();
        let address = crate::domain::Address {
            domain: "0x0008".into(),
            bus: "0x01".into(),
            slot: "0x00".into(),
            function: "0x0".into(),
            ..Default::default()
        };
        let mut device = HostDevice { type_: "pci".into(), ..Default::default() };
        device.source.address = Some(address);
        let mut domain = DomainSpec::default();
        domain.devices.host_devices.push(device);
        let found = sysfs(root.path(), &domain);
        assert_eq!(found.pci_devices.len(), 1, "only the domain's");
        let gpu = &found.pci_devices["0008:01:00.0"];
        assert_eq!((gpu.numa_node, gpu.vendor.as_str(), gpu.device.as_str()), (Some(1), "0x10de", "0x2342"));
        assert_eq!(gpu.resource, "0x0 0x1 0x14220c\n");
        assert_eq!((found.online.as_str(), &found.has_generic_initiator), ("0-1", &None));
        assert_eq!((found.numa_nodes[&0].cpulist.as_str(), found.numa_nodes[&1].distance.as_str()), ("0-3", "40 10"));
        assert_eq!(found.numa_nodes[&1].devices, ["0008:01:00.0"]);
        assert!(found.iommu_class[0].contains("arm-smmu-v3"), "{:?}", found.iommu_class);
    }
}
