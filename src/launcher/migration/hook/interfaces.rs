//! Taps of old pods are numbered, those of new ones are called by their networks (contract/migration.md 9.4).

use super::incoming::EditError;
use crate::convert::hot_pluggable_tap;
use crate::domain::xml_text::{Edits, XmlText};
use crate::vmi::VirtualMachineInstance;

pub(super) fn rename_taps<'d>(
    vmi: &VirtualMachineInstance,
    document: &'d XmlText<'_>,
    edits: &mut Edits<'d>,
) -> Result<(), EditError> {
    let devices = document.root().child("devices");
    for interface in devices.into_iter().flat_map(|devices| devices.all("interface")) {
        let Some(target) = interface.child("target") else { continue };
        let Some(tap) = target.attribute("dev").filter(|tap| is_numbered(tap)) else { continue };
        let fault = |what| EditError::Tap { what, tap: tap.clone().into_owned() };
        let alias = interface.child("alias").and_then(|alias| alias.attribute("name"));
        let alias = alias.ok_or_else(|| fault("alias cannot be nil"))?;
        let name = alias.strip_prefix("ua-").ok_or_else(|| fault("invalid alias format"))?;
        let network = vmi.spec.networks.iter().find(|network| network.name == name);
        let network = network.ok_or_else(|| fault("could not find pod interface name"))?;
        edits.set(target, "dev", &hot_pluggable_tap(network));
    }
    Ok(())
}

/// The primary network's tap has the same name everywhere.
fn is_numbered(tap: &str) -> bool {
    let number = tap.strip_prefix("tap").unwrap_or_default();
    tap != "tap0" && !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::super::incoming::Incoming;

    fn adapted(interface: &str, upgrade: bool) -> Result<String, String> {
        let vmi = r#"{"spec":{"networks":[{"name":"default","pod":{}},{"name":"red","multus":{"networkName":"n"}}]}}"#;
        let vmi = crate::vmi::parse(vmi.as_bytes()).unwrap();
        let incoming = Incoming { vmi, upgrade_ordinal_interfaces: upgrade, ..Incoming::default() };
        let document = format!("<domain><devices>{interface}</devices></domain>");
        let once = incoming.adapt(&document).map_err(|error| error.to_string())?;
        assert_eq!(incoming.adapt(&once).unwrap(), once, "it is adapted already");
        Ok(once.replace("<domain><devices>", "").replace("</devices></domain>", ""))
    }

    fn interface(tap: &str, alias: &str) -> String {
        format!("<interface type='ethernet'><target dev='{tap}' managed='no'/>{alias}</interface>")
    }

    /// `printf red | sha256sum`.
    const RED: &str = "tapb1f51a511f1";

    #[test]
    fn numbered_taps_get_their_networks_name() {
        let red = "<alias name='ua-red'/>";
        assert_eq!(adapted(&interface("tap1", red), true).unwrap(), interface(RED, red));
        let default = "<alias name='ua-default'/>";
        assert_eq!(adapted(&interface("tap2", default), true).unwrap(), interface("tap0", default));
        assert_eq!(adapted(&interface("tap1", red), false).unwrap(), interface("tap1", red), "without the flag");
        for kept in ["tap0", RED, "tap", "vnet1", "tap1x"] {
            assert_eq!(adapted(&interface(kept, ""), true).unwrap(), interface(kept, ""));
        }
        let without = "<interface type='ethernet'/>";
        assert_eq!(adapted(without, true).unwrap(), without);
    }

    #[test]
    fn tap_whose_network_is_not_known_is_refused() {
        for (alias, expected) in [
            ("", "alias cannot be nil: interface on tap1"),
            ("<alias name='net1'/>", "invalid alias format: interface on tap1"),
            ("<alias name='ua-blue'/>", "could not find pod interface name: interface on tap1"),
        ] {
            assert_eq!(adapted(&interface("tap1", alias), true).unwrap_err(), expected);
        }
    }
}
