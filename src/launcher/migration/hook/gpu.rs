//! A vGPU that goes along is another mediated device at the target (contract/migration.md 9.4, 10.5).

use super::incoming::{EditError, Incoming};
use crate::convert;
use crate::domain::xml_text::{Edits, XmlText};

pub(super) fn replace<'d>(
    incoming: &Incoming,
    document: &'d XmlText<'_>,
    edits: &mut Edits<'d>,
) -> Result<(), EditError> {
    let fault = |why: &str| EditError::Gpu(why.to_owned());
    let devices = document.root().child("devices");
    let there: Vec<_> = devices.into_iter().flat_map(|devices| devices.all("hostdev")).collect();
    if there.is_empty() {
        return Ok(());
    }
    let ours = convert::gpus(&incoming.vmi, &incoming.facts).map_err(|error| EditError::Gpu(error.to_string()))?;
    if ours.is_empty() {
        return Ok(());
    }
    let ([there], [ours]) = (there.as_slice(), ours.as_slice()) else {
        return Err(fault("the migrating vmi should only have one vGPU"));
    };
    let address = ours.source.address.as_ref().ok_or_else(|| fault("failed to retrieve host GPU address"))?;
    if ours.type_ != "mdev" {
        return Err(EditError::Gpu(format!("unsupporting gpu type for migration: {}", ours.type_)));
    }
    let is_mediated = there.attribute("type").is_some_and(|kind| kind == "mdev");
    let place = there.find(&["source", "address"]).filter(|_| is_mediated);
    let place = place.ok_or_else(|| fault("failed to retrieve mdev vGPU from domain"))?;
    edits.set(place, "uuid", &address.uuid);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OLD: &str = "11111111-8b16-4d01-a136-25a0f3c73123";
    const NEW: &str = "22222222-8b16-4d01-a136-25a0f3c73123";

    /// `variable` names the pod's devices for its GPUs.
    fn incoming(gpus: usize, variable: &str, addresses: &str) -> Incoming {
        let gpu = |at| json!({"name": format!("g{at}"), "deviceName": "v/g"});
        let gpus: Vec<_> = (0..gpus).map(gpu).collect();
        let vmi = json!({"spec": {"domain": {"devices": {"gpus": gpus}}}}).to_string();
        Incoming {
            vmi: crate::vmi::parse(vmi.as_bytes()).unwrap(),
            facts: serde_json::from_value(json!({"env": {variable: addresses}})).unwrap(),
            vgpu: true,
            ..Incoming::default()
        }
    }

    fn document(devices: &str) -> String {
        format!("<domain>\n  <devices>{devices}</devices>\n</domain>")
    }

    fn mediated(uuid: &str) -> String {
        format!("<hostdev mode='subsystem' type='mdev'><source>\n<address uuid='{uuid}'/></source></hostdev>")
    }

    const MEDIATED: &str = "MDEV_PCI_RESOURCE_V_G";

    #[test]
    fn one_vgpu_is_replaced_by_the_targets() {
        let one = incoming(1, MEDIATED, NEW);
        let (old, new) = (document(&mediated(OLD)), document(&mediated(NEW)));
        assert_eq!(one.adapt(&old).unwrap(), new);
        assert_eq!(one.adapt(&new).unwrap(), new);
        assert_eq!(Incoming { vgpu: false, ..one }.adapt(&old).unwrap(), old, "without the flag");
        assert_eq!(incoming(0, MEDIATED, NEW).adapt(&old).unwrap(), old, "without a GPU");
        let none = document("");
        assert_eq!(incoming(1, "X", "").adapt(&none).unwrap(), none, "without a device");
    }

    #[test]
    fn vgpu_that_cannot_be_replaced_is_reported() {
        let error = |incoming: &Incoming, devices: &str| incoming.adapt(&document(devices)).unwrap_err().to_string();
        let one = incoming(1, MEDIATED, NEW);
        let only = "the migrating vmi should only have one vGPU";
        assert_eq!(error(&one, &[mediated(OLD), mediated(OLD)].concat()), only);
        assert_eq!(error(&incoming(2, MEDIATED, &format!("{NEW},{OLD}")), &mediated(OLD)), only);
        let pci = incoming(1, "PCI_RESOURCE_V_G", "0000:01:00.0");
        assert_eq!(error(&pci, &mediated(OLD)), "unsupporting gpu type for migration: pci");
        let missing = "failed to retrieve mdev vGPU from domain";
        assert_eq!(error(&one, "<hostdev type='mdev'/>"), missing);
        assert_eq!(error(&one, "<hostdev type='pci'><source><address bus='1'/></source></hostdev>"), missing);
        let without = error(&incoming(1, "X", ""), &mediated(OLD));
        assert!(without.contains("failed to create GPU host-devices"), "{without}");
    }
}
