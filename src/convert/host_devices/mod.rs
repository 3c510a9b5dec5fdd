//! The host's devices that the guest gets: which they are, found from the pod's environment and files
//! (contract/domain-xml-qemu.md 10).

mod claims;
mod gpu;
mod pool;
mod sriov;

use std::fmt::Display;

use super::error::ConvertError;
use super::facts::HostFacts;
use super::pci_address;
use crate::domain::{Address, Alias, HostDevice, HostDeviceSource};
use crate::vmi::VirtualMachineInstance;
pub use claims::API_VERSION as CLAIM_METADATA_VERSION;
use claims::Claimed;
use pool::AddressPool;
pub(super) use pool::variable;

/// Start of the names of variables with USB devices.
pub(super) const USB: &str = "USB_RESOURCE";

/// All host devices, in the order in which they stand in the document.
pub(super) fn assign(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<Vec<HostDevice>, ConvertError> {
    // The order of the errors (4) is not that of the document.
    let sriov = sriov::by_multus(vmi, facts)?;
    let sriov_claimed = sriov::by_claim(vmi, facts)?;
    let generic = by_plugin(&generic_devices(vmi), facts, &GENERIC)?;
    let claimed = |what: &'static str| move |error: ConvertError| error.within(what);
    let generic_claimed = generic_by_claim(vmi, facts).map_err(claimed("failed to create dra generic host-devices"))?;
    let gpus = gpu::by_plugin(vmi, facts)?;
    let gpus_claimed = gpu::by_claim(vmi, facts).map_err(claimed("failed to create DRA GPU host-devices"))?;
    Ok([generic, generic_claimed, gpus, gpus_claimed, sriov, sriov_claimed].into_iter().flatten().collect())
}

/// GPUs alone, of device plugins and of dynamic resource allocation.
pub fn gpus(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<Vec<HostDevice>, ConvertError> {
    let mut gpus = gpu::by_plugin(vmi, facts)?;
    gpus.extend(gpu::by_claim(vmi, facts)?);
    Ok(gpus)
}

/// A device entry of the VMI, whatever list it stands in.
#[derive(Debug, Clone, Copy)]
struct Entry<'a> {
    name: &'a str,
    resource: &'a str,
    claim: Option<&'a str>,
    request: Option<&'a str>,
}

impl Entry<'_> {
    /// A device of dynamic resource allocation rather than of a device plugin (10.4).
    fn is_claimed(&self) -> bool {
        self.resource.is_empty() && (self.claim.is_some() || self.request.is_some())
    }
}

/// What identifies a list of device entries.
struct List {
    /// Where it stands in the VMI.
    path: &'static str,
    alias: &'static str,
    /// Whether USB devices may be in it.
    usb: bool,
    /// For messages: `generic`, `HostDevice`.
    what: &'static str,
    kind: &'static str,
}

const GENERIC: List = List {
    path: "spec.domain.devices.hostDevices",
    alias: "hostdevice-",
    usb: true,
    what: "generic",
    kind: "HostDevice",
};

fn generic_devices(vmi: &VirtualMachineInstance) -> Vec<Entry<'_>> {
    let devices = vmi.spec.domain.devices.host_devices.iter();
    devices
        .map(|device| Entry {
            name: &device.name,
            resource: &device.device_name,
            claim: device.claim_name.as_deref(),
            request: device.request_name.as_deref(),
        })
        .collect()
}

/// Devices of device plugins: all PCI devices in the order of the VMI, then all mediated ones, then all USB ones (10.1).
fn by_plugin(entries: &[Entry<'_>], facts: &HostFacts, list: &List) -> Result<Vec<HostDevice>, ConvertError> {
    let entries: Vec<&Entry<'_>> = entries.iter().filter(|entry| !entry.is_claimed()).collect();
    type Make = fn(&List, &str, &str) -> Result<HostDevice, ConvertError>;
    let kinds: &[(&str, Make)] = &[
        ("PCI_RESOURCE", |list, name, address| pci_device(&format!("{}{name}", list.alias), name, address)),
        ("MDEV_PCI_RESOURCE", |list, name, uuid| Ok(mediated_device(&format!("{}{name}", list.alias), uuid))),
        (USB, |_, name, address| usb_device(name, address)),
    ];
    let mut devices = Vec::new();
    for (prefix, make) in kinds.iter().take(if list.usb { 3 } else { 2 }) {
        let mut pool = AddressPool::new(prefix, entries.iter().map(|entry| entry.resource), &facts.env);
        for entry in &entries {
            if let Some(address) = pool.take(entry.resource) {
                devices.push(make(list, entry.name, address)?);
            }
        }
    }
    if devices.len() != entries.len() {
        let List { what, kind, .. } = list;
        let wanted: Vec<String> = entries.iter().map(|entry| format!("{} {}", entry.name, entry.resource)).collect();
        let made: Vec<&str> = devices.iter().filter_map(|device| Some(device.alias.as_ref()?.name.as_str())).collect();
        return Err(ConvertError::at(
            list.path,
            format!(
                "failed to create {what} host-devices: the number of device plugin {kind}/s do not match the number of \
                 devices:\n{kind}: [{}]\nDevice: [{}]",
                wanted.join(", "),
                made.join(", ")
            ),
        ));
    }
    Ok(devices)
}

fn generic_by_claim(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<Vec<HostDevice>, ConvertError> {
    let mut devices = Vec::new();
    for entry in generic_devices(vmi).iter().filter(|entry| entry.is_claimed()) {
        let alias = format!("dra-hostdevice-{}", entry.name);
        devices.push(match claims::device(vmi, facts, entry, GENERIC.path)? {
            Claimed::Pci(address) => pci_device(&alias, entry.name, &address)?,
            Claimed::Mediated(uuid) => {
                let mut device = mediated_device(&alias, &uuid);
                if vmi.spec.architecture == "s390x" {
                    "vfio-ap".clone_into(&mut device.model);
                }
                device
            }
        });
    }
    Ok(devices)
}

fn with_source(type_: &str, alias: &str, address: Address) -> HostDevice {
    HostDevice {
        type_: type_.to_owned(),
        source: HostDeviceSource { address: Some(address) },
        alias: Some(Alias::user(alias)),
        ..HostDevice::default()
    }
}

fn pci_device(alias: &str, name: &str, address: &str) -> Result<HostDevice, ConvertError> {
    let source = pci_address::address(address).ok_or_else(|| failed(name, pci_address::not_an_address(address)))?;
    Ok(HostDevice { managed: "no".into(), ..with_source("pci", alias, source) })
}

fn mediated_device(alias: &str, uuid: &str) -> HostDevice {
    HostDevice {
        mode: "subsystem".into(),
        model: "vfio-pci".into(),
        ..with_source("mdev", alias, Address { uuid: uuid.to_owned(), ..Address::default() })
    }
}

fn usb_device(name: &str, address: &str) -> Result<HostDevice, ConvertError> {
    let parts: Vec<&str> = address.split(':').collect();
    let [bus, device] = parts.as_slice() else { return Err(failed(name, format!("Bad value: {address}"))) };
    let source = Address { bus: (*bus).to_owned(), device: (*device).to_owned(), ..Address::default() };
    Ok(HostDevice { mode: "subsystem".into(), ..with_source("usb", &format!("usb-host-{name}"), source) })
}

fn failed(name: &str, why: impl Display) -> ConvertError {
    ConvertError::known(format!("failed to create hostdevice for {name}: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claim_without_metadata_is_reported_in_the_known_words() {
        for (list, what) in [("hostDevices", "dra generic"), ("gpus", "DRA GPU")] {
            let device = json!([{"name": "d", "claimName": "c", "requestName": "r"}]);
            let vmi = json!({"spec": {"domain": {"devices": {list: device}}}});
            let vmi = crate::vmi::parse(vmi.to_string().as_bytes()).unwrap();
            let error = assign(&vmi, &HostFacts::default()).unwrap_err();
            assert_eq!(error.path(), Some(format!("spec.domain.devices.{list}").as_str()));
            let expected = format!("failed to create {what} host-devices: failed to create hostdevice for d: ");
            assert!(error.to_string().starts_with(&expected), "{error}");
        }
    }
}
