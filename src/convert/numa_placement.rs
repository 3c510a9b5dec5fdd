//! PCI devices near the guest's NUMA cell that stands on their own node: an expander bus for each cell, a root port for
//! each device (contract/domain-xml-qemu.md 11.3).

use std::collections::BTreeMap;

use super::arch::Arch;
use super::context::Context;
use super::error::ConvertError;
use super::facts::{NumaNode, Sysfs};
use super::pci_address;
use crate::domain::{Address, Controller, ControllerTarget, DomainSpec, HostDevice, cpu_list};

/// An expander's bus number is this, less the controllers made with it and before.
const BUSES: u32 = 256;

/// Places host devices if the cluster wants it. With `guestMappingPassthrough` every one must find its place; otherwise
/// those that do not stay where libvirt puts them.
pub(super) fn place(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    if context.dedicated_cpu().is_none() || !context.cluster.pci_numa_aware_topology || context.arch == Arch::S390x {
        return Ok(());
    }
    let strict = context.numa_passthrough();
    let placed = by_cell(context.facts.sysfs.as_ref(), domain, |_| true, strict)
        .map_err(|why| format!("strict PCI NUMA-aware placement failed: {why}"))
        .and_then(|devices| on_expanders(domain, devices));
    match placed {
        Ok(placed) => *domain = placed,
        Err(why) if strict => {
            return Err(ConvertError::known(format!("failed to process strict PCIe NUMA-aware topology: {why}")));
        }
        // Without any placement the guest is slower, not broken.
        Err(_) => {}
    }
    Ok(())
}

fn on_expanders(domain: &DomainSpec, devices: BTreeMap<u32, Vec<usize>>) -> Result<DomainSpec, String> {
    let mut placed = domain.clone();
    let mut placer = Placer::new(domain);
    for (cell, devices) in devices {
        let controllers = placer.place(cell, &devices, &mut placed.devices.host_devices)?;
        placed.devices.controllers.extend(controllers);
    }
    Ok(placed)
}

/// PCI host devices without a guest address, as indices into the list, by guest cell and in the order of their addresses.
/// `wanted` looks at a device's index. A device without a cell, or whose place in the guest the VMI gives, is left out,
/// or an error if `strict`.
pub(super) fn by_cell(
    sysfs: Option<&Sysfs>,
    domain: &DomainSpec,
    wanted: impl Fn(usize) -> bool,
    strict: bool,
) -> Result<BTreeMap<u32, Vec<usize>>, String> {
    let mut devices: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    if domain.cpu.numa.is_none() {
        return Ok(devices);
    }
    let mut candidates: Vec<(String, usize)> = Vec::new();
    let mut problems = Vec::new();
    for (index, device) in (0..).zip(&domain.devices.host_devices).filter(|(index, _)| wanted(*index)) {
        let Some(address) = host_address(device) else { continue };
        if device.address.is_some() {
            problems.push(format!(
                "device {address} already has a guest PCI address, skipping pcie-expander-bus assignment"
            ));
        } else {
            candidates.push((address, index));
        }
    }
    candidates.sort();
    for (address, index) in candidates {
        match guest_cell(sysfs, domain, &address) {
            Ok(cell) => devices.entry(cell).or_default().push(index),
            Err(why) => {
                problems.push(format!("device {address} cannot be placed on a NUMA-aware PCIe topology: {why}"));
            }
        }
    }
    if strict && !problems.is_empty() { Err(problems.join("; ")) } else { Ok(devices) }
}

/// The host address of a PCI device.
fn host_address(device: &HostDevice) -> Option<String> {
    device.source.address.as_ref().filter(|_| device.type_ == "pci").map(pci_address::kernel_name)
}

/// The host node of a device.
pub(super) fn host_node(sysfs: Option<&Sysfs>, address: &str) -> Result<u32, String> {
    let device = sysfs.and_then(|sysfs| sysfs.pci_devices.get(address));
    let node = device.and_then(|device| device.numa_node).and_then(|node| u32::try_from(node).ok());
    node.ok_or_else(|| format!("failed to read host NUMA affinity: device {address} has no NUMA node affinity"))
}

/// The guest cell whose memory, or else whose vCPUs, are on the device's node.
fn guest_cell(sysfs: Option<&Sysfs>, domain: &DomainSpec, address: &str) -> Result<u32, String> {
    let node = host_node(sysfs, address)?;
    let nodes = domain.numa_tune.iter().flat_map(|tune| &tune.mem_nodes);
    let mut cells = nodes
        .filter(|mapped| cpu_list::parse(&mapped.node_set).is_some_and(|nodes| nodes.contains(&node)))
        .map(|mapped| mapped.cell_id);
    if let (Some(cell), None) = (cells.next(), cells.next()) {
        return Ok(cell);
    }
    let host_cpus = sysfs.and_then(|sysfs| sysfs.numa_nodes.get(&node)).and_then(NumaNode::cpus);
    let host_cpus = host_cpus.ok_or_else(|| format!("the CPUs of host NUMA node {node} are not known"))?;
    host_cpus
        .into_iter()
        .find_map(|cpu| cell_of_vcpu(domain, vcpu_on(domain, cpu)?))
        .ok_or_else(|| format!("no vCPU is pinned to host NUMA node {node}"))
}

fn vcpu_on(domain: &DomainSpec, cpu: u32) -> Option<u32> {
    let mut pins = domain.cpu_tune.iter().flat_map(|tune| &tune.vcpu_pin);
    let pin = pins.find(|pin| cpu_list::parse(&pin.cpu_set).is_some_and(|cpus| cpus.contains(&cpu)));
    pin.map(|pin| pin.vcpu)
}

fn cell_of_vcpu(domain: &DomainSpec, vcpu: u32) -> Option<u32> {
    let mut cells = domain.cpu.numa.iter().flat_map(|numa| &numa.cells);
    let cell = cells.find(|cell| cpu_list::parse(&cell.cpus).is_some_and(|vcpus| vcpus.contains(&vcpu)));
    cell.and_then(|cell| cell.id.parse().ok())
}

impl NumaNode {
    /// The numbers of its CPUs; none if the file cannot be read.
    pub(super) fn cpus(&self) -> Option<Vec<u32>> {
        cpu_list::parse(&self.cpulist)
    }
}

/// Numbers controllers and buses from one placement to the next.
pub(super) struct Placer {
    /// Highest index of a controller so far.
    index: u32,
    /// Controllers made.
    made: u32,
    /// Bus number of the expander made last; the highest one before the first is made.
    bus: u32,
}

impl Placer {
    pub(super) fn new(domain: &DomainSpec) -> Self {
        let indices = domain.devices.controllers.iter().filter_map(|controller| controller.index.parse().ok());
        Placer { index: indices.max().unwrap_or(0), made: 0, bus: BUSES - 1 }
    }

    /// The next index: what a hook or libvirt has numbered so far may leave none.
    fn next(&mut self) -> Result<String, String> {
        let more = |number: u32| number.checked_add(1).filter(|number| *number <= BUSES);
        let (Some(index), Some(made)) = (more(self.index), more(self.made)) else {
            return Err(format!("no PCI controller can follow number {}", self.index));
        };
        (self.index, self.made) = (index, made);
        Ok(index.to_string())
    }

    /// The next root port's index, as long as indices stay clear of the buses behind the expander made last. The original
    /// looks at the index of the controller before, and does not ask for expanders.
    fn next_port(&mut self) -> Result<String, String> {
        // The bus of an expander is 256 less at most as many controllers; the port behind it has the bus after it.
        if self.index + 1 >= self.bus {
            return Err(format!("no PCI bus is left for a root port behind controller {}", self.index));
        }
        self.next()
    }

    /// An expander at the cell and a root port for each of the devices, which get their address on it.
    pub(super) fn place(
        &mut self,
        cell: u32,
        devices: &[usize],
        all: &mut [HostDevice],
    ) -> Result<Vec<Controller>, String> {
        let expander = self.next()?;
        let mut ports = Vec::new();
        for (slot, device) in devices.iter().enumerate() {
            let port = self.next_port()?;
            if let Some(device) = all.get_mut(*device) {
                device.address = Some(address(&port, 0));
            }
            let address = Some(address(&expander, slot));
            ports.push(Controller { address, ..controller(port, "pcie-root-port") });
        }
        self.bus = BUSES - self.made;
        let target = ControllerTarget { bus_nr: Some(self.bus), numa_node: Some(cell), ..ControllerTarget::default() };
        let mut controllers = vec![Controller { target: Some(target), ..controller(expander, "pcie-expander-bus") }];
        controllers.append(&mut ports);
        Ok(controllers)
    }
}

fn controller(index: String, model: &str) -> Controller {
    Controller { type_: "pci".into(), index, model: model.into(), ..Controller::default() }
}

/// The bus is decimal and without prefix, as the original writes it.
fn address(bus: &str, slot: usize) -> Address {
    Address {
        type_: "pci".into(),
        domain: "0x0000".into(),
        bus: bus.to_owned(),
        slot: format!("0x{slot:02x}"),
        function: "0x0".into(),
        ..Address::default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::facts::PciDevice;
    use super::*;

    /// Two guest cells on a host node each, and PCI host devices `0000:01:00.0`, `0000:02:00.0`, ….
    pub(in super::super) fn domain_with(devices: usize) -> DomainSpec {
        let device = |bus| {
            format!(
                "<hostdev type='pci'><source>\
                 <address type='pci' domain='0x0000' bus='0x{bus:02x}' slot='0x00' function='0x0'/>\
                 </source></hostdev>"
            )
        };
        let devices: String = (1..=devices).map(device).collect();
        let cells = "<cpu><numa><cell id='0' cpus='0'/><cell id='1' cpus='1'/></numa></cpu><numatune>\
                     <memnode cellid='0' nodeset='0'/><memnode cellid='1' nodeset='1'/></numatune>";
        DomainSpec::from_xml(&format!("<domain>{cells}<devices>{devices}</devices></domain>")).unwrap()
    }

    /// Where the devices of [`domain_with`] are.
    pub(in super::super) fn sysfs_of(nodes: &[u32]) -> Sysfs {
        let device = |(bus, node): (u32, &u32)| {
            (format!("0000:{bus:02x}:00.0"), PciDevice { numa_node: Some((*node).into()), ..PciDevice::default() })
        };
        Sysfs { pci_devices: (1..).zip(nodes).map(device).collect(), ..Sysfs::default() }
    }

    #[test]
    fn every_device_must_find_its_place_if_strict() {
        let (mut domain, sysfs) = (domain_with(4), sysfs_of(&[0, 1]));
        domain.devices.host_devices[1].address = Some(address("0x00", 5));
        let found = |strict| by_cell(Some(&sysfs), &domain, |_| true, strict);
        assert_eq!(found(false), Ok(BTreeMap::from([(0, vec![0])])));
        let nowhere = |device: &str| {
            format!(
                "device {device} cannot be placed on a NUMA-aware PCIe topology: failed to read host NUMA affinity: \
                 device {device} has no NUMA node affinity"
            )
        };
        let taken =
            "device 0000:02:00.0 already has a guest PCI address, skipping pcie-expander-bus assignment".to_owned();
        assert_eq!(found(true), Err([taken, nowhere("0000:03:00.0"), nowhere("0000:04:00.0")].join("; ")));
    }

    #[test]
    fn indices_stay_clear_of_expanders_buses() {
        let fits = |highest: u32, cells: &[usize]| {
            let mut domain = domain_with(cells.iter().sum());
            domain.devices.controllers.push(controller(highest.to_string(), "pcie-root-port"));
            let mut placer = Placer::new(&domain);
            let mut devices = 0..;
            cells.iter().all(|count| {
                let own: Vec<usize> = devices.by_ref().take(*count).collect();
                placer.place(0, &own, &mut domain.devices.host_devices).is_ok()
            })
        };
        // The first expander has bus 254, with one port.
        assert!(fits(252, &[1]) && !fits(253, &[1]));
        assert!(fits(249, &[1, 1]) && !fits(250, &[1, 1]));
        assert!(fits(250, &[3]) && !fits(251, &[3]));
        assert!(fits(246, &[2, 2]) && !fits(247, &[2, 2]));
    }
}
