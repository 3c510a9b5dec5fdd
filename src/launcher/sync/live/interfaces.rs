//! Which interfaces a running domain gains, loses, or sees connected (contract/cmd-server.md 5.7).

use crate::convert::hot_pluggable_tap;
use crate::domain::{Interface, LinkState};
use crate::vmi::VirtualMachineInstance;

/// One change of the domain's interfaces.
#[derive(Debug, Clone, PartialEq)]
pub enum InterfaceChange {
    /// Puts in the interface of this name, whose tap is still to be looked up.
    Attach(String),
    /// Takes this interface of the live domain out.
    Detach(Interface),
    /// Plugs or pulls the cable: the live interface with its new link state.
    SetLink(Interface),
}

/// What has to be done to the `live` interfaces to have the `wanted` ones, in the order in which it has to be done: those
/// that go make room for others of the same MAC address (contract/cmd-server.md 11, W28).
///
/// An interface is known by its alias, which is its name in the VMI, or where it has none of ours by its MAC address; taps
/// have names by other rules in other pods.
pub fn changes(vmi: &VirtualMachineInstance, live: &[Interface], wanted: &[Interface]) -> Vec<InterfaceChange> {
    let spec = &vmi.spec.domain.devices.interfaces;
    let network = |name: &str| vmi.spec.networks.iter().find(|network| network.name == name);
    let in_pod = |name: &str| {
        vmi.status.interfaces.iter().any(|status| status.name == name && status.info_source.contains("multus-status"))
    };
    let there = |name: &str, mac: &str| find(live, name).or_else(|| find_by_mac(live, mac));
    let gone = spec
        .iter()
        .filter(|interface| interface.state == "absent")
        .filter_map(|interface| Some((network(&interface.name)?, there(&interface.name, &interface.mac_address)?)))
        .filter(|(network, device)| {
            device.target.as_ref().is_some_and(|target| target.device == hot_pluggable_tap(network))
        })
        .map(|(_, device)| InterfaceChange::Detach(device.clone()));
    let new = spec
        .iter()
        .filter(|interface| interface.state != "absent" && interface.sriov.is_none())
        .filter(|interface| network(&interface.name).is_some() && in_pod(&interface.name))
        .filter(|interface| there(&interface.name, &interface.mac_address).is_none())
        .map(|interface| InterfaceChange::Attach(interface.name.clone()));
    let links = wanted.iter().filter_map(|wanted| {
        let mac = wanted.mac.as_ref().map(|mac| mac.mac.as_str()).unwrap_or_default();
        let device = there(&wanted.alias.as_ref()?.name, mac)?;
        (is_up(device) != is_up(wanted))
            .then(|| InterfaceChange::SetLink(Interface { link_state: wanted.link_state.clone(), ..device.clone() }))
    });
    gone.chain(new).chain(links).collect()
}

/// The interface with this alias. What libvirt chose for one without may look the same, but is not the VMI's name.
pub fn find<'a>(interfaces: &'a [Interface], name: &str) -> Option<&'a Interface> {
    interfaces.iter().find(|device| device.alias.as_ref().is_some_and(|alias| alias.user_defined && alias.name == name))
}

/// The only interface with this MAC address, if it has no alias of the VMI's. On two networks there may be two of one address.
fn find_by_mac<'a>(interfaces: &'a [Interface], mac: &str) -> Option<&'a Interface> {
    let has = |device: &&Interface| device.mac.as_ref().is_some_and(|own| own.mac.eq_ignore_ascii_case(mac));
    let mut found = interfaces.iter().filter(has);
    let device = found.next().filter(|_| !mac.is_empty() && found.next().is_none())?;
    (!device.alias.as_ref().is_some_and(|alias| alias.user_defined)).then_some(device)
}

/// No word about the link means that it is up.
fn is_up(interface: &Interface) -> bool {
    let LinkState { state } = interface.link_state.clone().unwrap_or_default();
    state != "down"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Alias, InterfaceTarget, Mac};
    use crate::vmi;

    /// What libvirt shows of a network `blue` that was hot-plugged: the tap has the first digits of the name's SHA-256.
    const BLUE_TAP: &str = "tap16477688c0e";

    fn vmi(interfaces: &str, statuses: &str) -> VirtualMachineInstance {
        let text = format!(
            r#"{{"spec":{{"networks":[{{"name":"default","pod":{{}}}},{{"name":"blue","multus":{{"networkName":"b"}}}}],
            "domain":{{"devices":{{"interfaces":[{interfaces}]}}}}}},"status":{{"interfaces":[{statuses}]}}}}"#
        );
        vmi::parse(text.as_bytes()).unwrap()
    }

    fn device(name: &str, tap: &str, link: Option<&str>) -> Interface {
        Interface {
            alias: Some(Alias::user(name)),
            target: Some(InterfaceTarget { device: tap.into(), managed: "no".into() }),
            link_state: link.map(|state| LinkState { state: state.into() }),
            ..Interface::default()
        }
    }

    #[test]
    fn interface_is_put_in_once_its_network_is_in_the_pod() {
        let blue = r#"{"name":"blue","bridge":{}}"#;
        let status = |source: &str| format!(r#"{{"name":"blue","infoSource":"{source}"}}"#);
        let plugged = [InterfaceChange::Attach("blue".into())];
        let there = status("domain, multus-status");
        assert_eq!(changes(&vmi(blue, &there), &[], &[]), plugged);
        assert_eq!(changes(&vmi(blue, &status("domain")), &[], &[]), []);
        assert_eq!(changes(&vmi(blue, ""), &[], &[]), []);
        assert_eq!(changes(&vmi(blue, &there), &[device("blue", BLUE_TAP, None)], &[]), []);
        assert_eq!(changes(&vmi(r#"{"name":"blue","state":"absent"}"#, &there), &[], &[]), []);
        assert_eq!(changes(&vmi(r#"{"name":"blue","sriov":{}}"#, &there), &[], &[]), []);
    }

    #[test]
    fn absent_interface_goes_if_its_tap_is_named_for_it() {
        let absent = vmi(r#"{"name":"blue","state":"absent"},{"name":"default","state":"absent"}"#, "");
        let (blue, primary) = (device("blue", BLUE_TAP, None), device("default", "tap0", None));
        let gone = [InterfaceChange::Detach(blue.clone())];
        assert_eq!(changes(&absent, std::slice::from_ref(&blue), &[]), gone);
        assert_eq!(changes(&absent, std::slice::from_ref(&primary), &[]), [InterfaceChange::Detach(primary)]);
        // An ordinal name means a pod from before hot-plug: its interfaces stay.
        assert_eq!(changes(&absent, &[device("blue", "tap1", None)], &[]), []);
        assert_eq!(changes(&vmi(r#"{"name":"blue"}"#, ""), &[blue], &[]), []);
    }

    #[test]
    fn interfaces_are_known_by_alias_then_by_mac_address_and_the_gone_go_first() {
        let with_mac = |device: Interface, mac: &str| Interface { mac: Some(Mac { mac: mac.into() }), ..device };
        let blue = with_mac(device("blue", BLUE_TAP, None), "02:00:00:00:00:0a");
        let status = r#"{"name":"blue","infoSource":"multus-status"},{"name":"default","infoSource":"multus-status"}"#;
        // Listed first, with the address of the one that goes.
        let replaced =
            vmi(r#"{"name":"default","macAddress":"02:00:00:00:00:0a"},{"name":"blue","state":"absent"}"#, status);
        let changed = [InterfaceChange::Detach(blue.clone()), InterfaceChange::Attach("default".into())];
        assert_eq!(changes(&replaced, std::slice::from_ref(&blue), &[]), changed);

        let wanted = vmi(r#"{"name":"blue","macAddress":"02:00:00:00:00:0A"}"#, status);
        let strange = Interface { alias: Some(Alias::bare("net0")), ..blue.clone() };
        assert_eq!(changes(&wanted, std::slice::from_ref(&strange), &[]), [], "without its alias");
        let plugged = [InterfaceChange::Attach("blue".into())];
        assert_eq!(changes(&wanted, &[strange.clone(), strange], &[]), plugged, "two of one address are nobody");
        assert_eq!(changes(&wanted, &[with_mac(device("red", "tap1", None), "02:00:00:00:00:0a")], &[]), plugged);
        let bare = Interface { alias: Some(Alias::bare("blue")), ..Interface::default() };
        assert_eq!(changes(&wanted, &[bare], &[]), plugged, "libvirt's own alias is not a name of the VMI");
    }

    #[test]
    fn link_is_changed_only_if_it_differs() {
        let vmi = vmi(r#"{"name":"blue"}"#, "");
        let with = |link| device("blue", BLUE_TAP, link);
        let none: [InterfaceChange; 0] = [];
        assert_eq!(changes(&vmi, &[with(Some("up"))], &[with(None)]), none);
        assert_eq!(changes(&vmi, &[with(Some("down"))], &[with(Some("down"))]), none);
        let mut live = with(None);
        live.type_ = "ethernet".into();
        let mut pulled = live.clone();
        pulled.link_state = Some(LinkState { state: "down".into() });
        let set = [InterfaceChange::SetLink(pulled.clone())];
        assert_eq!(changes(&vmi, std::slice::from_ref(&live), &[with(Some("down"))]), set);
        assert_eq!(changes(&vmi, &[pulled], &[with(None)]), [InterfaceChange::SetLink(live)]);
    }
}
