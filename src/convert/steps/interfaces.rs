//! Network interfaces (contract/domain-xml-qemu.md 9.1 to 9.3).

use super::super::arch::Arch;
use super::super::pci_address::parse_address;
use super::{Context, ConvertError};
use crate::domain::{
    Acpi, Alias, BootOrder, DomainSpec, Interface as Device, InterfaceBackend, InterfaceDriver, InterfacePortForward,
    InterfacePortForwardRange, InterfaceSource, LinkState, Mac, Model, Rom,
};
use crate::vmi::Interface;

/// Most queues a tap device has.
const MOST_QUEUES: u64 = 256;
/// Ports that a service mesh's sidecar keeps to itself.
const ISTIO_PORTS: [u64; 10] = [15000, 15001, 15004, 15006, 15008, 15009, 15020, 15021, 15053, 15090];

pub(super) fn interfaces(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    for (index, interface) in context.vmi.spec.domain.devices.interfaces.iter().enumerate() {
        if interface.state == "absent" {
            continue;
        }
        if !context.vmi.spec.networks.iter().any(|network| network.name == interface.name) {
            return Err(ConvertError::at(
                format!("spec.domain.devices.interfaces[{index}].name"),
                format!("failed to find network {}", interface.name),
            ));
        }
        let is_tap = is_tap(context, interface);
        if interface.sriov.is_some() || (interface.binding.is_some() && !is_tap) {
            continue;
        }
        let device = device(context, interface, is_tap, &format!("spec.domain.devices.interfaces[{index}]"))?;
        domain.devices.interfaces.push(device);
    }
    Ok(())
}

fn is_tap(context: &Context<'_>, interface: &Interface) -> bool {
    let attachment = context.facts.options().interface_domain_attachment.get(&interface.name);
    attachment.map(String::as_str) == Some("tap")
}

fn device(context: &Context<'_>, interface: &Interface, is_tap: bool, path: &str) -> Result<Device, ConvertError> {
    let virtio = matches!(interface.model.as_str(), "" | "virtio");
    let mut device = Device {
        alias: Some(Alias::user(&interface.name)),
        model: Some(Model { type_: if virtio { context.virtio_model() } else { &interface.model }.to_owned() }),
        ..Device::default()
    };
    if virtio {
        let multi_queue = context.vmi.spec.domain.devices.network_interface_multiqueue == Some(true);
        let queues = multi_queue.then(|| context.vcpus().min(MOST_QUEUES));
        if queues.is_some() || context.launch_iommu {
            device.driver = Some(InterfaceDriver { name: "vhost".into(), queues, iommu: context.iommu() });
        }
    }
    if !interface.pci_address.is_empty() {
        device.address = Some(parse_address(&format!("{path}.pciAddress"), &interface.pci_address)?);
    }
    if let Some(index) = u64::try_from(interface.acpi_index).ok().filter(|index| *index > 0) {
        device.acpi = Some(Acpi { index });
    }
    if !interface.mac_address.is_empty() {
        device.mac = Some(Mac { mac: interface.mac_address.clone() });
    }
    if is_tap {
        device.type_ = "ethernet".into();
        device.boot_order = interface.boot_order.map(|order| BootOrder { order });
        if context.arch != Arch::S390x && (interface.boot_order.is_none() || context.launch_iommu) {
            device.rom = Some(Rom { enabled: "no".into() });
        }
        if interface.state == "down" {
            device.link_state = Some(LinkState { state: "down".into() });
        }
    } else if interface.passt_binding.is_some() {
        passt(context, interface, &mut device)?;
    }
    Ok(device)
}

fn passt(context: &Context<'_>, interface: &Interface, device: &mut Device) -> Result<(), ConvertError> {
    let status = context.vmi.status.interfaces.iter().find(|status| status.name == interface.name);
    let Some(pod_interface) = status.map(|status| &status.pod_interface_name).filter(|name| !name.is_empty()) else {
        return Err(ConvertError::at(
            "status.interfaces",
            format!(
                "pod interface name not found in vmi {} status, for interface {}",
                context.vmi.metadata.name, interface.name
            ),
        ));
    };
    device.type_ = "vhostuser".into();
    device.source = InterfaceSource { device: pod_interface.clone(), ..InterfaceSource::default() };
    device.backend = Some(InterfaceBackend { type_: "passt".into(), log_file: "/var/run/kubevirt/passt.log".into() });
    let range = |start| InterfacePortForwardRange { start, ..InterfacePortForwardRange::default() };
    let ports = |wanted: &'static [&'static str]| {
        interface
            .ports
            .iter()
            .filter(move |port| wanted.iter().any(|name| port.protocol.eq_ignore_ascii_case(name)))
            .filter_map(|port| u64::try_from(port.port).ok())
            .map(range)
    };
    let istio = context.vmi.annotation("sidecar.istio.io/inject").is_some_and(|text| text.eq_ignore_ascii_case("true"));
    let mut tcp: Vec<InterfacePortForwardRange> = Vec::new();
    if istio {
        tcp.extend(ISTIO_PORTS.map(|port| InterfacePortForwardRange { exclude: "yes".into(), ..range(port) }));
    }
    tcp.extend(ports(&["tcp", ""]));
    let udp: Vec<InterfacePortForwardRange> = ports(&["udp"]).collect();
    let all = tcp.is_empty() && udp.is_empty();
    for (proto, ranges) in [("tcp", tcp), ("udp", udp)] {
        if all || !ranges.is_empty() {
            device.port_forward.push(InterfacePortForward {
                proto: proto.into(),
                ranges,
                ..InterfacePortForward::default()
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{run, vmi};

    /// The interface `n` in front of its network, with these fields besides, on a tap or not.
    fn interface(fields: Value, attachment: &str) -> Result<String, String> {
        let mut vmi = vmi(json!({"cpu": {"cores": 2}, "devices": {"interfaces": [fields]}}));
        vmi["spec"]["domain"]["devices"]["interfaces"][0]["name"] = json!("n");
        vmi["spec"]["networks"] = json!([{"name": "n", "pod": {}}]);
        vmi["status"]["interfaces"] = json!([{"name": "n", "podInterfaceName": "eth0"}]);
        run(super::interfaces, vmi, json!({"optionsPresent": true, "interfaceDomainAttachment": {"n": attachment}}))
    }

    #[test]
    fn interface_on_a_tap_is_ethernet_and_boots_only_if_it_has_an_order() {
        assert_eq!(
            interface(json!({"macAddress": "02:00:00:00:00:01", "acpiIndex": 7}), "tap").unwrap(),
            [
                r#"<interface type="ethernet"><source/><model type="virtio-non-transitional"/>"#,
                r#"<mac address="02:00:00:00:00:01"/><alias name="ua-n"/><rom enabled="no"/><acpi index="7"/></interface>"#,
            ]
            .concat()
        );
        let boots = interface(json!({"bootOrder": 1, "model": "e1000", "state": "down"}), "tap").unwrap();
        assert!(boots.contains(r#"<model type="e1000"/>"#) && boots.contains(r#"<boot order="1"/>"#), "{boots}");
        assert!(boots.contains(r#"<link state="down"/>"#) && !boots.contains("<rom"), "{boots}");
    }

    #[test]
    fn interface_that_libvirt_does_not_make_is_left_out() {
        assert_eq!(interface(json!({"state": "absent"}), "tap").unwrap(), "");
        assert_eq!(interface(json!({"sriov": {}}), "").unwrap(), "");
        assert_eq!(interface(json!({"binding": {"name": "plugin"}}), "").unwrap(), "");
        assert_ne!(interface(json!({"binding": {"name": "plugin"}}), "tap").unwrap(), "");
    }

    #[test]
    fn interface_queues_are_as_many_as_vcpus() {
        let devices = json!({"networkInterfaceMultiqueue": true, "interfaces": [{"name": "n"}]});
        let mut vmi = vmi(json!({"cpu": {"cores": 300}, "devices": devices}));
        vmi["spec"]["networks"] = json!([{"name": "n", "pod": {}}]);
        let queues = |vmi: &Value| run(super::interfaces, vmi.clone(), json!({})).unwrap();
        assert!(queues(&vmi).contains(r#"<driver name="vhost" queues="256"/>"#), "{}", queues(&vmi));
        vmi["spec"]["domain"]["cpu"]["cores"] = json!(3);
        assert!(queues(&vmi).contains(r#"<driver name="vhost" queues="3"/>"#), "{}", queues(&vmi));
    }

    #[test]
    fn passt_forwards_the_ports_of_the_vmi_or_all() {
        let passt = |ports: Value| interface(json!({"passtBinding": {}, "ports": ports}), "").unwrap();
        let all = passt(json!([]));
        assert!(all.contains(r#"<portForward proto="tcp"/><portForward proto="udp"/>"#), "{all}");
        assert!(all.contains(r#"<source dev="eth0"/>"#), "{all}");
        let some = passt(json!([{"port": 80}, {"port": 22, "protocol": "TCP"}]));
        let forwarded = r#"<portForward proto="tcp"><range start="80"/><range start="22"/></portForward>"#;
        assert!(some.contains(forwarded) && !some.contains("udp"), "{some}");
    }

    #[test]
    fn interface_without_a_network_is_refused_at_its_field() {
        let vmi = vmi(json!({"devices": {"interfaces": [{"name": "lost"}]}}));
        assert_eq!(
            run(super::interfaces, vmi, json!({})).unwrap_err(),
            "spec.domain.devices.interfaces[0].name: failed to find network lost"
        );
    }

    #[test]
    fn passt_interface_needs_the_name_of_its_link() {
        let mut vmi = vmi(json!({"devices": {"interfaces": [{"name": "n", "passtBinding": {}}]}}));
        vmi["spec"]["networks"] = json!([{"name": "n", "pod": {}}]);
        assert_eq!(
            run(super::interfaces, vmi, json!({})).unwrap_err(),
            "status.interfaces: pod interface name not found in vmi vm status, for interface n"
        );
    }
}
