//! NVIDIA Grace: each GPU gets an expander bus with an SMMU of its own and eight memory-less NUMA cells, as its driver in
//! the guest expects (contract/domain-xml-qemu.md 12).

use std::collections::{BTreeMap, BTreeSet};

use super::arch::Arch;
use super::context::Context;
use super::error::ConvertError;
use super::facts::{NumaNode, PciDevice, Sysfs};
use super::numa_placement::{Placer, by_cell, host_node};
use super::{pci, pci_address};
use crate::domain::{
    AcpiHostDev, Controller, DomainSpec, HostDevDriver, IommuDevice, IommuDriver, NumaCell, NumaCellDistances,
    NumaCellSibling, PciHole64, cpu_list,
};

const NVIDIA: &str = "10de";
const DEVICES: [&str; 3] = ["2342", "2348", "2941"];
/// NUMA cells of a GPU's memory partitions.
const CELLS_PER_DEVICE: usize = 8;
/// A GPU's memory counts as at least this many bytes.
const LEAST_BYTES: u64 = 512 << 30;
/// KiB of the hole for everything else.
const SPARE_KIB: u64 = 1 << 20;
/// Largest hole in KiB.
const LARGEST_HOLE_KIB: u64 = 1 << 34;
const OPTION: &str = "options.graceHostDeviceAliases";

/// Whether the sync's options name Grace devices.
pub(super) fn is_wanted(context: &Context<'_>) -> bool {
    !context.facts.options().grace_host_device_aliases.is_empty()
}

/// What must hold before anything else is looked at (12.1), in the original's order.
pub(super) fn check(context: &Context<'_>) -> Result<(), ConvertError> {
    if !is_wanted(context) {
        return Ok(());
    }
    let hole = context.vmi.annotation("kubevirt.io/disablePCIHole64");
    let conditions = [
        (context.cluster.grace_io_virtualization, "the feature gate GraceIOVirtualization"),
        (context.cluster.pci_numa_aware_topology, "the feature gate PCINUMAAwareTopology"),
        (context.facts.iommufd, "an IOMMUFD descriptor"),
        (context.dedicated_cpu().is_some(), "dedicatedCpuPlacement"),
        (context.arch != Arch::S390x, "another architecture than s390x"),
        (hole != Some("true"), "a VMI without kubevirt.io/disablePCIHole64"),
        (!pci::on_root_complex(context), "a VMI without kubevirt.io/placePCIDevicesOnRootComplex"),
    ];
    match conditions.iter().find(|(met, _)| !met) {
        Some((_, what)) => Err(ConvertError::at(OPTION, format!("GraceIOVirtualization requires {what}"))),
        None => Ok(()),
    }
}

/// One GPU.
struct Gpu {
    /// Its place in the list of host devices.
    index: usize,
    alias: String,
    /// `dddd:bb:ss.f`.
    address: String,
}

/// Places the GPUs, then the other host devices (12.2).
pub(super) fn place(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    arrange(context, domain).map_err(ConvertError::known)
}

fn arrange(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), String> {
    let sysfs = context.facts.sysfs.as_ref();
    let classes = sysfs.map(|sysfs| sysfs.iommu_class.as_slice()).unwrap_or_default();
    let Some(sysfs) = sysfs.filter(|_| classes.iter().any(|entry| entry.contains("arm-smmu-v3"))) else {
        return Err("GraceIOVirtualization requires SMMUv3 on the host".to_owned());
    };
    let gpus = gpus(&context.facts.options().grace_host_device_aliases, sysfs, domain)?;
    let mut host_of = mapped_cells(domain)?;
    let mut nodes = initiators(sysfs, &gpus)?;
    let mut hole_bytes: u64 = 0;
    let mut at_cell: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for gpu in &gpus {
        let node = host_node(Some(sysfs), &gpu.address)?;
        let Some(cell) = host_of.iter().find(|(_, host)| **host == node).map(|(cell, _)| *cell) else {
            return Err(format!("Grace hostdev {:?}: no guest cell is on host NUMA node {node}", gpu.alias));
        };
        at_cell.entry(cell).or_default().push(gpu.index);
        hole_bytes = hole_bytes.checked_add(bytes(sysfs, gpu)?).ok_or_else(|| too_large(gpu))?;
        let cells = add_cells(domain, &nodes.remove(&gpu.index).unwrap_or_default(), &mut host_of)?;
        if let Some(device) = domain.devices.host_devices.get_mut(gpu.index) {
            device.driver = Some(HostDevDriver { iommufd: "yes".into() });
            device.acpi = Some(AcpiHostDev { node_set: cells });
        }
    }
    ensure_root(domain);
    place_all(sysfs, domain, at_cell)?;
    set_hole(domain, hole_bytes)?;
    set_distances(domain, sysfs, &host_of)
}

/// The devices with these aliases, sorted by alias.
fn gpus(aliases: &[String], sysfs: &Sysfs, domain: &DomainSpec) -> Result<Vec<Gpu>, String> {
    let aliases: BTreeSet<&String> = aliases.iter().collect();
    let find = |alias: &str| {
        let mut devices = domain.devices.host_devices.iter().enumerate();
        devices.find(|(_, device)| device.alias.as_ref().is_some_and(|own| own.name == alias))
    };
    let missing: Vec<&str> = aliases.iter().map(|alias| alias.as_str()).filter(|alias| find(alias).is_none()).collect();
    if !missing.is_empty() {
        return Err(format!(
            "GraceIOVirtualization expected hostdev aliases {}, but no matching host devices were assigned",
            missing.join(", ")
        ));
    }
    let is = |text: &str, wanted: &[&str]| wanted.contains(&text.trim().trim_start_matches("0x"));
    let mut gpus = Vec::new();
    for (alias, (index, device)) in aliases.iter().filter_map(|alias| Some((*alias, find(alias)?))) {
        let refuse = |why: &str| Err(format!("Grace hostdev {alias:?} {why}"));
        if device.type_ != "pci" {
            return refuse("is not a PCI device");
        }
        let Some(address) = device.source.address.as_ref().map(pci_address::kernel_name) else {
            return refuse("has no source address");
        };
        if device.address.is_some() {
            return refuse("already has a guest address");
        }
        let PciDevice { vendor, device, .. } = sysfs.pci_devices.get(&address).cloned().unwrap_or_default();
        if !is(&vendor, &[NVIDIA]) || !is(&device, &DEVICES) {
            return refuse(&format!("at {address} is not a Grace GPU: vendor {vendor:?}, device {device:?}"));
        }
        gpus.push(Gpu { index, alias: alias.clone(), address });
    }
    Ok(gpus)
}

/// Host nodes by guest cell: every cell with CPUs or memory has one of its own.
fn mapped_cells(domain: &DomainSpec) -> Result<BTreeMap<u32, u32>, String> {
    let mut host_of = BTreeMap::new();
    for mapped in domain.numa_tune.iter().flat_map(|tune| &tune.mem_nodes) {
        let nodes = cpu_list::parse(&mapped.node_set).unwrap_or_default();
        let [node] = nodes.as_slice() else {
            return Err(format!(
                "guest cell {} is on host NUMA nodes {:?}, not on one",
                mapped.cell_id, mapped.node_set
            ));
        };
        if host_of.values().any(|host| host == node) {
            return Err(format!("two guest cells are on host NUMA node {node}"));
        }
        host_of.insert(mapped.cell_id, *node);
    }
    for cell in domain.cpu.numa.iter().flat_map(|numa| &numa.cells) {
        let is_mapped = cell.id.parse().is_ok_and(|id: u32| host_of.contains_key(&id));
        if !is_mapped && (!cell.cpus.is_empty() || cell.memory.unwrap_or_default() > 0) {
            return Err(format!("guest cell {} is on no host NUMA node", cell.id));
        }
    }
    Ok(host_of)
}

/// The host nodes of each GPU's memory partitions, by the GPU's index.
fn initiators(sysfs: &Sysfs, gpus: &[Gpu]) -> Result<BTreeMap<usize, Vec<u32>>, String> {
    let nodes = match &sysfs.has_generic_initiator {
        Some(text) => cpu_list::parse(text).ok_or_else(|| format!("has_generic_initiator: {text:?} is not a list"))?,
        None => {
            let online =
                cpu_list::parse(&sysfs.online).ok_or_else(|| format!("online: {:?} is not a list", sysfs.online))?;
            let is_empty = |id: &u32| sysfs.numa_nodes.get(id).is_some_and(NumaNode::is_memoryless);
            online.into_iter().filter(is_empty).collect()
        }
    };
    let refers = |id: &u32, gpu: &Gpu| {
        sysfs.numa_nodes.get(id).is_some_and(|node| node.devices.iter().any(|device| device.contains(&gpu.address)))
    };
    let nodes: BTreeSet<u32> = nodes.into_iter().collect();
    let mut of: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    if nodes.iter().any(|id| gpus.iter().any(|gpu| refers(id, gpu))) {
        for gpu in gpus {
            of.insert(gpu.index, nodes.iter().copied().filter(|id| refers(id, gpu)).collect());
        }
    } else {
        let mut rest = nodes.into_iter();
        for gpu in gpus {
            of.insert(gpu.index, rest.by_ref().take(CELLS_PER_DEVICE).collect());
        }
    }
    for gpu in gpus {
        let found = of.get(&gpu.index).map_or(0, Vec::len);
        if found != CELLS_PER_DEVICE {
            return Err(format!(
                "Grace hostdev {:?} at {} has {found} generic initiator NUMA nodes, not {CELLS_PER_DEVICE}",
                gpu.alias, gpu.address
            ));
        }
    }
    Ok(of)
}

impl NumaNode {
    fn is_memoryless(&self) -> bool {
        let total = self.meminfo.lines().find_map(|line| line.split_once("MemTotal:"));
        let total = total.and_then(|(_, amount)| amount.split_whitespace().next());
        total == Some("0") && self.cpus().is_some_and(|cpus| cpus.is_empty())
    }
}

fn too_large(gpu: &Gpu) -> String {
    let Gpu { alias, address, .. } = gpu;
    format!("Grace hostdev {alias:?} at {address} has more bytes of 64-bit prefetchable PCI BARs than can be counted")
}

/// Bytes of the GPU's memory: its 64-bit prefetchable regions.
fn bytes(sysfs: &Sysfs, gpu: &Gpu) -> Result<u64, String> {
    /// `IORESOURCE_MEM`.
    const MEMORY: u64 = 0x200;
    /// `PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH`, in the low four bits.
    const WIDE_PREFETCHABLE: u64 = 0xc;
    let resource = sysfs.pci_devices.get(&gpu.address).map(|device| device.resource.as_str()).unwrap_or_default();
    let hex = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let mut total: u64 = 0;
    for line in resource.lines() {
        let fields: Vec<u64> = line.split_whitespace().filter_map(hex).collect();
        if let [start, end, flags] = fields.as_slice()
            && *start != 0
            && end > start
            && flags & MEMORY != 0
            && flags & 0xf == WIDE_PREFETCHABLE
        {
            let region = (end - start).checked_add(1);
            total = region.and_then(|region| total.checked_add(region)).ok_or_else(|| too_large(gpu))?;
        }
    }
    if total == 0 {
        let Gpu { alias, address, .. } = gpu;
        return Err(format!(
            "Grace hostdev {alias:?} at {address} has no 64-bit prefetchable PCI BARs for pcihole64 sizing"
        ));
    }
    Ok(total.max(LEAST_BYTES))
}

/// Adds an empty cell for each host node, remembers where it stands, and gives the new cells as `first-last`.
fn add_cells(domain: &mut DomainSpec, nodes: &[u32], host_of: &mut BTreeMap<u32, u32>) -> Result<String, String> {
    let Some(numa) = &mut domain.cpu.numa else {
        return Err("GraceIOVirtualization requires guest NUMA cells".to_owned());
    };
    let highest = numa.cells.iter().filter_map(|cell| cell.id.parse::<u32>().ok()).max();
    let first = highest.map_or(Some(0), |highest| highest.checked_add(1));
    let first = first.ok_or("GraceIOVirtualization needs more guest NUMA cells than can be numbered")?;
    let mut last = first;
    for (id, node) in (first..).zip(nodes) {
        last = id;
        host_of.insert(id, *node);
        numa.cells.push(NumaCell { id: id.to_string(), memory: Some(0), unit: "KiB".into(), ..NumaCell::default() });
    }
    Ok(format!("{first}-{last}"))
}

fn is_root(controller: &Controller) -> bool {
    controller.type_ == "pci" && controller.index == "0" && controller.model == "pcie-root"
}

fn ensure_root(domain: &mut DomainSpec) {
    if !domain.devices.controllers.iter().any(is_root) {
        domain.devices.controllers.push(Controller {
            type_: "pci".into(),
            index: "0".into(),
            model: "pcie-root".into(),
            ..Controller::default()
        });
    }
}

/// Cell by cell: each GPU on an expander of its own, then the cell's other devices on one that they share. Those that
/// are shared have their numbers in this order too, but stand behind all GPUs' in the document, as with the original.
fn place_all(sysfs: &Sysfs, domain: &mut DomainSpec, mut gpus: BTreeMap<u32, Vec<usize>>) -> Result<(), String> {
    let is_gpu: BTreeSet<usize> = gpus.values().flatten().copied().collect();
    let mut others = by_cell(Some(sysfs), domain, |index| !is_gpu.contains(&index), false)?;
    let mut placer = Placer::new(domain);
    let mut shared = Vec::new();
    let cells: BTreeSet<u32> = gpus.keys().chain(others.keys()).copied().collect();
    for cell in cells {
        let mut own = gpus.remove(&cell).unwrap_or_default();
        own.sort_by_key(|index| {
            let device = domain.devices.host_devices.get(*index);
            device.and_then(|device| device.source.address.as_ref()).map(pci_address::kernel_name)
        });
        for gpu in own {
            let controllers = placer.place(cell, &[gpu], &mut domain.devices.host_devices)?;
            let bus = controllers.first().map(|expander| expander.index.clone()).unwrap_or_default();
            domain.devices.controllers.extend(controllers);
            domain.devices.iommu.push(smmu(bus));
        }
        if let Some(others) = others.remove(&cell) {
            shared.extend(placer.place(cell, &others, &mut domain.devices.host_devices)?);
        }
    }
    domain.devices.controllers.extend(shared);
    Ok(())
}

fn smmu(bus: String) -> IommuDevice {
    IommuDevice {
        model: "smmuv3".into(),
        driver: Some(IommuDriver {
            pci_bus: bus,
            accel: "on".into(),
            ats: "on".into(),
            ril: "off".into(),
            ssid_size: "20".into(),
            oas: "48".into(),
        }),
        ..IommuDevice::default()
    }
}

fn set_hole(domain: &mut DomainSpec, bytes: u64) -> Result<(), String> {
    // A 1024th of 64 bits and a few more.
    let wanted = bytes.div_ceil(1024) + SPARE_KIB;
    let Some(kib) = wanted.checked_next_power_of_two().filter(|kib| *kib <= LARGEST_HOLE_KIB) else {
        return Err(format!("a 64-bit PCI hole of {wanted} KiB is more than the largest, {LARGEST_HOLE_KIB} KiB"));
    };
    for root in domain.devices.controllers.iter_mut().filter(|controller| is_root(controller)) {
        root.pci_hole64 = Some(PciHole64 { value: kib, unit: "KiB".into() });
    }
    Ok(())
}

/// Gives every mapped cell the distances that the host has between the nodes.
fn set_distances(domain: &mut DomainSpec, sysfs: &Sysfs, host_of: &BTreeMap<u32, u32>) -> Result<(), String> {
    let online: Vec<u32> = sysfs.numa_nodes.keys().copied().collect();
    let distance = |from: u32, to: u32| -> Result<u64, String> {
        let row = sysfs.numa_nodes.get(&from).map(|node| node.distance.as_str()).unwrap_or_default();
        let column = online.iter().position(|id| *id == to);
        let value = column.and_then(|column| row.split_whitespace().nth(column)?.parse().ok());
        value.ok_or_else(|| format!("the distance from host NUMA node {from} to node {to} is not known"))
    };
    for cell in domain.cpu.numa.iter_mut().flat_map(|numa| &mut numa.cells) {
        let Some((own, host)) = cell.id.parse().ok().and_then(|id: u32| Some((id, *host_of.get(&id)?))) else {
            continue;
        };
        let mut siblings = Vec::new();
        for (other, other_host) in host_of {
            let value = match distance(host, *other_host)? {
                // Only a cell and itself are as near as that.
                10 if *other != own => 11,
                value => value,
            };
            siblings.push(NumaCellSibling { id: other.to_string(), value });
        }
        cell.distances = Some(NumaCellDistances { siblings });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::numa_placement::tests::{domain_with, sysfs_of};
    use super::*;

    /// Indices of controllers in the document's order, and the bus of each device.
    fn placed(nodes: &[u32], gpus: &[(u32, &[usize])]) -> (Vec<String>, Vec<String>) {
        let mut domain = domain_with(nodes.len());
        let gpus = gpus.iter().map(|(cell, indices)| (*cell, indices.to_vec())).collect();
        place_all(&sysfs_of(nodes), &mut domain, gpus).unwrap();
        let devices = domain.devices.host_devices.into_iter().map(|device| device.address.unwrap().bus).collect();
        (domain.devices.controllers.into_iter().map(|controller| controller.index).collect(), devices)
    }

    #[test]
    fn what_other_devices_share_stands_behind_the_gpus_expanders() {
        let (controllers, buses) = placed(&[0, 0, 1], &[(0, &[0]), (1, &[2])]);
        assert_eq!(controllers, ["1", "2", "5", "6", "3", "4"]);
        assert_eq!(buses, ["2", "4", "6"]);
        let (controllers, buses) = placed(&[0, 1], &[(1, &[1])]);
        assert_eq!(controllers, ["3", "4", "1", "2"]);
        assert_eq!(buses, ["2", "4"]);
    }

    #[test]
    fn hole_is_refused_by_the_exact_word_only() {
        let facts = json!({
            "optionsPresent": true,
            "graceHostDeviceAliases": ["gpu-g"],
            "clusterConfig": {"graceIOVirtualization": true, "pciNUMAAwareTopology": true},
            "iommufd": true,
        });
        let facts = serde_json::from_value(facts).unwrap();
        let check = |hole: &str| {
            let vmi = json!({
                "metadata": {"annotations": {"kubevirt.io/disablePCIHole64": hole}},
                "spec": {"domain": {"cpu": {"dedicatedCpuPlacement": true}}},
            });
            let vmi = crate::vmi::parse(vmi.to_string().as_bytes()).unwrap();
            Context::new(&vmi, &facts).and_then(|context| check(&context)).map_err(|error| error.to_string())
        };
        assert!(check("true").unwrap_err().ends_with("kubevirt.io/disablePCIHole64"));
        assert_eq!((check("True"), check("")), (Ok(()), Ok(())));
    }

    #[test]
    fn root_that_was_to_have_no_hole_gets_the_gpus() {
        let none = PciHole64 { value: 0, unit: "KiB".into() };
        let mut domain = DomainSpec::default();
        ensure_root(&mut domain);
        domain.devices.controllers[0].pci_hole64 = Some(none);
        ensure_root(&mut domain);
        set_hole(&mut domain, LEAST_BYTES).unwrap();
        let holes: Vec<_> =
            domain.devices.controllers.iter().map(|root| root.pci_hole64.clone().unwrap().value).collect();
        assert_eq!(holes, [1 << 30]);
    }
}
