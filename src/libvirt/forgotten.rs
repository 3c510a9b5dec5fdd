//! Devices that the hypervisor has and libvirt has forgotten: its daemon was killed after QEMU had taken the device and
//! before libvirt had written that down. libvirt would refuse to plug the device again for as long as the VM lives.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use virt::domain::Domain;

use super::connection::Connection;
use super::error::{Error, VirError, code};

/// For the guest to let go of a device.
const LETS_GO: Duration = Duration::from_secs(5);
/// Between two looks whether it has: QEMU's event of it goes to libvirt, which knows no such device.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// For libvirt to handle that event. It does so in its own thread without an event; a device of the same alias that is
/// plugged before would be taken for the one that is gone, and forgotten in its turn.
const HEARS: Duration = Duration::from_millis(500);

/// How QEMU refuses a device whose alias it knows, and a NIC's back end, which libvirt plugs first.
const DUPLICATES: [&str; 2] = ["Duplicate device ID '", "Duplicate ID '"];
/// libvirt calls the back end of a NIC by this and the NIC's alias.
const BACK_END: &str = "host";

/// The alias of the device in `xml`, if `error` says that QEMU has it already.
pub(super) fn forgotten_alias(error: &Error, xml: &str) -> Option<String> {
    let Error::Libvirt(VirError { message, .. }) = error else { return None };
    let (_, after) = DUPLICATES.iter().find_map(|duplicate| message.split_once(duplicate))?;
    let (id, _) = after.split_once('\'')?;
    // Nothing but what is being plugged is taken out.
    let is_plugged = |alias: &&str| xml.contains(&format!("\"{alias}\""));
    [Some(id), id.strip_prefix(BACK_END)].into_iter().flatten().find(is_plugged).map(str::to_owned)
}

impl Connection {
    /// Takes a device that libvirt has forgotten out of the hypervisor, with the image or the tap that it holds open.
    pub(super) async fn unplug_forgotten(&self, name: &str, alias: String) -> Result<(), Error> {
        tracing::warn!("the hypervisor has a device {alias} that libvirt has forgotten, taking it out");
        self.on_domain("virDomainQemuMonitorCommand", self.deadlines().control, name, move |domain| {
            unplug(domain, &alias)
        })
        .await
    }
}

fn unplug(domain: &Domain, alias: &str) -> Result<(), VirError> {
    let ask = |command: &Value| answer(&domain.qemu_monitor_command(&command.to_string(), 0)?);
    let node = node_of(&ask(&json!({"execute": "query-block"}))?, alias);
    // An earlier request may still wait for the guest, which QEMU calls an error.
    let asked = ask(&json!({"execute": "device_del", "arguments": {"id": alias}}));
    let begun = Instant::now();
    while has(&ask(&json!({"execute": "qom-list", "arguments": {"path": "/machine/peripheral"}}))?, alias) {
        if begun.elapsed() >= LETS_GO {
            let why = asked.err().map(|error| format!(" ({})", error.message)).unwrap_or_default();
            return Err(failure(format!("the guest has not let go of device {alias} within {LETS_GO:?}{why}")));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    std::thread::sleep(HEARS);
    for node in node.iter().flat_map(|node| [node.clone(), node.replace("-format", "-storage")]) {
        // The second is the first where an image is read without a format of its own.
        let _ = ask(&json!({"execute": "blockdev-del", "arguments": {"node-name": node}}));
    }
    // Only a NIC has one.
    let _ = ask(&json!({"execute": "netdev_del", "arguments": {"id": format!("{BACK_END}{alias}")}}));
    Ok(())
}

fn failure(message: String) -> VirError {
    VirError { code: code::INTERNAL_ERROR, domain: 0, message }
}

/// What a command returned.
fn answer(reply: &str) -> Result<Value, VirError> {
    let reply: Value = serde_json::from_str(reply)
        .map_err(|error| failure(format!("QEMU's answer cannot be read: {error}: {reply}")))?;
    match (reply.get("return"), reply.pointer("/error/desc").and_then(Value::as_str)) {
        (Some(value), _) => Ok(value.clone()),
        (None, Some(why)) => Err(failure(why.to_owned())),
        (None, None) => Err(failure(format!("QEMU's answer says nothing: {reply}"))),
    }
}

/// The block node that the device reads, in the answer to `query-block`.
fn node_of(blocks: &Value, alias: &str) -> Option<String> {
    let path = format!("/machine/peripheral/{alias}");
    let of_device = |block: &&Value| {
        let device = block["qdev"].as_str().unwrap_or_default();
        device == alias || device.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let block = blocks.as_array()?.iter().find(of_device)?;
    block.pointer("/inserted/node-name")?.as_str().map(str::to_owned)
}

/// Whether the device is in the answer to `qom-list`.
fn has(devices: &Value, alias: &str) -> bool {
    devices.as_array().is_some_and(|devices| devices.iter().any(|device| device["name"] == alias))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_device_that_is_being_plugged_is_taken_for_forgotten() {
        let error = |message: &str| Error::Libvirt(failure(message.to_owned()));
        let message = "internal error: unable to execute QEMU command 'device_add': Duplicate device ID 'ua-late'";
        let xml = r#"<disk><alias name="ua-late"/></disk>"#;
        assert_eq!(forgotten_alias(&error(message), xml).as_deref(), Some("ua-late"));
        assert_eq!(forgotten_alias(&error(message), r#"<alias name="ua-late2"/>"#), None);
        assert_eq!(forgotten_alias(&error("Duplicate device ID 'ua-late"), xml), None);
        assert_eq!(forgotten_alias(&error("no such device"), xml), None);
        let nic = r#"<interface><alias name="ua-blue"/></interface>"#;
        assert_eq!(forgotten_alias(&error("Duplicate ID 'hostua-blue' for netdev"), nic).as_deref(), Some("ua-blue"));
        assert_eq!(forgotten_alias(&error("Duplicate ID 'hostua-red' for netdev"), nic), None);
    }

    #[test]
    fn node_is_that_of_the_device() {
        let block = |qdev: &str, node: &str| json!({"qdev": qdev, "inserted": {"node-name": node}});
        let blocks = json!([
            block("/machine/peripheral/ua-late2/virtio-backend", "other"),
            {"qdev": "/machine/peripheral/empty"},
            block("/machine/peripheral/ua-late/virtio-backend", "libvirt-3-format"),
            block("scsi", "libvirt-4-storage"),
        ]);
        assert_eq!(node_of(&blocks, "ua-late").as_deref(), Some("libvirt-3-format"));
        assert_eq!(node_of(&blocks, "scsi").as_deref(), Some("libvirt-4-storage"));
        assert_eq!(node_of(&blocks, "empty"), None);
        assert_eq!(node_of(&json!({}), "ua-late"), None);
    }

    #[test]
    fn answers_are_read_with_distrust() {
        assert_eq!(answer(r#"{"return": {}, "id": "libvirt-1"}"#), Ok(json!({})));
        assert_eq!(answer(r#"{"error": {"class": "GenericError", "desc": "in use"}}"#).unwrap_err().message, "in use");
        assert!(answer("{}").is_err() && answer("nothing").is_err());
        assert!(has(&json!([{"name": "type"}, {"name": "ua-late"}]), "ua-late") && !has(&json!([]), "ua-late"));
    }
}
