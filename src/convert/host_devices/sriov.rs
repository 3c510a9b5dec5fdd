//! Virtual functions of network cards (contract/domain-xml-qemu.md 10.3).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::super::error::ConvertError;
use super::super::facts::HostFacts;
use super::super::pci_address;
use super::{claims, failed, pci_device};
use crate::domain::{BootOrder, HostDevice};
use crate::vmi::{Interface, VirtualMachineInstance};

/// The network-info file, made of the pod's annotation of Multus.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NetworkInfo {
    interfaces: Vec<NetworkInterface>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NetworkInterface {
    network: String,
    device_info: Option<DeviceInfo>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DeviceInfo {
    pci: Option<PciInfo>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct PciInfo {
    pci_address: String,
}

/// Interfaces with SR-IOV and their index in the VMI.
fn interfaces(vmi: &VirtualMachineInstance) -> impl Iterator<Item = (usize, &Interface)> {
    vmi.spec.domain.devices.interfaces.iter().enumerate().filter(|(_, interface)| interface.sriov.is_some())
}

/// Functions that Multus attached to the pod.
pub(super) fn by_multus(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<Vec<HostDevice>, ConvertError> {
    let attached = |interface: &Interface| {
        let mut status = vmi.status.interfaces.iter().filter(|status| status.name == interface.name);
        status.any(|status| status.info_source.split(',').any(|source| source.trim() == "multus-status"))
    };
    let interfaces: Vec<(usize, &Interface)> = interfaces(vmi).filter(|(_, interface)| attached(interface)).collect();
    if interfaces.is_empty() {
        return Ok(Vec::new());
    }
    let addresses = addresses(facts.network_info.as_deref()).map_err(|why| {
        ConvertError::known(format!(
            "failed to create SR-IOV hostdevices: failed to create PCI address pool with network status from file: {why}"
        ))
    })?;
    interfaces
        .into_iter()
        .map(|(index, interface)| {
            let name = &interface.name;
            let address = addresses
                .get(name)
                .ok_or_else(|| failed(name, format!("PCI-Address for SR-IOV network {name:?} not found")))?;
            device(index, interface, address)
        })
        .collect()
}

/// Functions of dynamic resource allocation.
pub(super) fn by_claim(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<Vec<HostDevice>, ConvertError> {
    let mut devices = Vec::new();
    for (index, interface) in interfaces(vmi) {
        let name = &interface.name;
        let network = vmi.spec.networks.iter().find(|network| network.name == *name);
        let Some(claimed) = network.and_then(|network| network.resource_claim.as_ref()) else { continue };
        let (claim, request) = (&claimed.claim_name, &claimed.request_name);
        let address = claims::pci_address(vmi, facts, claim, request).map_err(|why| {
            ConvertError::known(format!(
                "failed to resolve PCI address for SR-IOV DRA interface {name} (claim {claim} request {request}): {why}"
            ))
        })?;
        devices.push(device(index, interface, &address)?);
    }
    Ok(devices)
}

fn device(index: usize, interface: &Interface, address: &str) -> Result<HostDevice, ConvertError> {
    let mut device = pci_device(&format!("sriov-{}", interface.name), &interface.name, address)?;
    if !interface.pci_address.is_empty() {
        let path = format!("spec.domain.devices.interfaces[{index}].pciAddress");
        device.address = Some(pci_address::parse_address(&path, &interface.pci_address)?);
    }
    device.boot_order = interface.boot_order.map(|order| BootOrder { order });
    Ok(device)
}

/// PCI addresses by network. A file that is not there counts as one without networks.
fn addresses(file: Option<&str>) -> Result<BTreeMap<String, String>, String> {
    let info: NetworkInfo = match file {
        Some("") => return Err("the network-info file is empty".to_owned()),
        Some(text) => serde_json::from_str(text)
            .map_err(|error| format!("failed to unmarshal network-info annotation: {error}"))?,
        None => NetworkInfo::default(),
    };
    let addresses: BTreeMap<String, String> = info
        .interfaces
        .into_iter()
        .filter_map(|interface| {
            let address = interface.device_info?.pci?.pci_address;
            (!address.is_empty()).then_some((interface.network, address))
        })
        .collect();
    if addresses.is_empty() {
        return Err("found no SR-IOV networks to PCI-Address mapping".to_owned());
    }
    Ok(addresses)
}
