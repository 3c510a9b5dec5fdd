//! What the pod's links say about interfaces on a tap (contract/domain-xml-qemu.md 9.4).

use sha2::{Digest, Sha256};

use super::context::Context;
use super::error::ConvertError;
use super::facts::{HostFacts, Link};
use crate::domain::{DomainSpec, InterfaceTarget, Mac, Mtu};
use crate::vmi::{Interface, Network, VirtualMachineInstance};

/// An interface on a tap, and where in the pod it is.
#[derive(Debug, Clone, Copy)]
pub struct Tap<'a> {
    /// The interface.
    pub interface: &'a Interface,
    /// Its place in `spec.domain.devices.interfaces`.
    pub index: usize,
    /// Its network.
    pub network: &'a Network,
    /// The pod's link.
    pub link: &'a Link,
    is_secondary: bool,
}

/// The `wanted` interfaces that are on taps, in the order of their networks, each with the link it stands on or what is
/// wrong.
pub fn taps<'a>(
    vmi: &'a VirtualMachineInstance,
    facts: &'a HostFacts,
    wanted: &'a dyn Fn(&str) -> bool,
) -> impl Iterator<Item = Result<Tap<'a>, ConvertError>> {
    let mut secondary = 0_u32;
    let mut primary_seen = false;
    vmi.spec.networks.iter().enumerate().filter_map(move |(place, network)| {
        let is_secondary = network.multus.as_ref().is_some_and(|multus| !multus.default);
        let ordinal = if is_secondary {
            secondary += 1;
            Some(format!("net{secondary}"))
        } else if !primary_seen && (network.pod.is_some() || network.multus.is_some()) {
            primary_seen = true;
            Some("eth0".to_owned())
        } else {
            None
        };
        let mut interfaces = vmi.spec.domain.devices.interfaces.iter().enumerate();
        let (index, interface) = interfaces.find(|(_, interface)| interface.name == network.name)?;
        let attachment = facts.options().interface_domain_attachment.get(&interface.name);
        if !wanted(&interface.name) || interface.state == "absent" || attachment.map(String::as_str) != Some("tap") {
            return None;
        }
        let link = link(vmi, facts, network, is_secondary, ordinal.as_deref());
        let error = |why| ConvertError::field(format!("spec.networks[{place}]"), why);
        Some(link.map(|link| Tap { interface, index, network, link, is_secondary }).map_err(error))
    })
}

/// The link of a network, by its hashed name or by its ordinal one.
fn link<'a>(
    vmi: &VirtualMachineInstance,
    facts: &'a HostFacts,
    network: &Network,
    is_secondary: bool,
    ordinal: Option<&str>,
) -> Result<&'a Link, String> {
    let ordinal = ordinal.ok_or_else(|| format!("network {} has no pod interface name", network.name))?;
    let find = |name: &str| facts.links.iter().find(|link| link.name == name);
    let named = if is_secondary {
        hashed_pod_name(&network.name)
    } else {
        let status = vmi.status.interfaces.iter().find(|status| status.name == network.name);
        let name = status.map(|status| status.pod_interface_name.clone()).filter(|name| !name.is_empty());
        name.unwrap_or_else(|| "eth0".to_owned())
    };
    find(&named).or_else(|| find(ordinal)).ok_or_else(|| match named == ordinal {
        true => format!("the pod has no link {named}"),
        false => format!("the pod has neither a link {named} nor {ordinal}"),
    })
}

/// Fills target, MAC and MTU of the `wanted` interfaces that are on a tap.
pub(super) fn fill_in_taps(
    context: &Context<'_>,
    domain: &mut DomainSpec,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<(), ConvertError> {
    for found in taps(context.vmi, context.facts, wanted) {
        let Tap { interface, index, link, is_secondary, .. } = found?;
        let tap = if is_secondary {
            format!("tap{}", link.name.get(3..).unwrap_or_default())
        } else {
            PRIMARY_TAP.to_owned()
        };
        let is_there = context.facts.links.iter().any(|link| link.name == tap);
        let target = if is_there { tap } else { link.name.clone() };
        let mac = mac_of(interface, index, link)?;
        let mut devices = domain.devices.interfaces.iter_mut();
        let device = devices.find(|device| device.alias.as_ref().is_some_and(|alias| alias.name == interface.name));
        if let Some(device) = device {
            device.target = Some(InterfaceTarget { device: target, managed: "no".into() });
            device.mac = Some(Mac { mac });
            device.mtu = Some(Mtu { size: link.mtu.to_string() });
        }
    }
    Ok(())
}

/// The tap of the primary network.
const PRIMARY_TAP: &str = "tap0";

fn hashed_pod_name(network: &str) -> String {
    format!("pod{}", hash(network))
}

/// The first 11 digits of a network name's SHA-256.
fn hash(network: &str) -> String {
    let digest = Sha256::digest(network.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.get(..11).unwrap_or_default().to_owned()
}

/// The tap that a hot-pluggable network has: by its hash if it is secondary, else `tap0` (contract/cmd-server.md 5.7).
pub fn hot_pluggable_tap(network: &Network) -> String {
    match network.multus.as_ref().is_some_and(|multus| !multus.default) {
        true => format!("tap{}", hash(&network.name)),
        false => PRIMARY_TAP.to_owned(),
    }
}

/// The interface's own address, else the link's, as libvirt prints addresses.
fn mac_of(interface: &Interface, index: usize, link: &Link) -> Result<String, ConvertError> {
    let text = if interface.mac_address.is_empty() { &link.mac } else { &interface.mac_address };
    canonical_mac(text).ok_or_else(|| {
        ConvertError::field(
            format!("spec.domain.devices.interfaces[{index}].macAddress"),
            format!("{text:?} is not a MAC address"),
        )
    })
}

/// `01:23:45:67:89:ab`, `01-23-45-67-89-ab` or `0123.4567.89ab`, or one of 8 or 20 bytes, in lower case with colons.
fn canonical_mac(text: &str) -> Option<String> {
    let (separator, digits) = match (text.as_bytes().get(2)?, text.as_bytes().get(4)?) {
        (b':', _) => (':', 2),
        (b'-', _) => ('-', 2),
        (_, b'.') => ('.', 4),
        _ => return None,
    };
    let groups: Vec<&str> = text.split(separator).collect();
    let is_group = |group: &&str| group.len() == digits && group.bytes().all(|byte| byte.is_ascii_hexdigit());
    let bytes = groups.len() * digits / 2;
    if !groups.iter().all(is_group) || !matches!(bytes, 6 | 8 | 20) {
        return None;
    }
    let lower = groups.concat().to_ascii_lowercase();
    let bytes: Vec<&str> = (0..bytes).filter_map(|index| lower.get(index * 2..index * 2 + 2)).collect();
    Some(bytes.join(":"))
}

#[cfg(test)]
mod tests {
    use super::canonical_mac;

    #[test]
    fn addresses_are_read_as_go_reads_them() {
        for text in ["02:0A:0b:0c:0d:0e", "02-0a-0b-0c-0d-0e", "020a.0b0c.0d0E"] {
            assert_eq!(canonical_mac(text).as_deref(), Some("02:0a:0b:0c:0d:0e"), "{text}");
        }
        assert_eq!(canonical_mac("02:00:00:00:00:00:00:01").as_deref(), Some("02:00:00:00:00:00:00:01"));
        for bad in [
            "",
            "zz:ad",
            "020a0b0c0d0e",
            "02:0a:0b:0c:0d",
            "02:0a-0b:0c:0d:0e",
            "2:0a:0b:0c:0d:0e0",
            "0g:0a:0b:0c:0d:0e",
        ] {
            assert_eq!(canonical_mac(bad), None, "{bad}");
        }
    }
}
