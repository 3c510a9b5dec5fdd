//! Shared filesystems (contract/domain-xml-qemu.md 7.1).

use super::{Context, ConvertError};
use crate::domain::{DomainSpec, FilesystemDevice, FilesystemDriver, FilesystemSource, FilesystemTarget};

/// Where the virtiofs sidecars listen.
const SOCKETS: &str = "/var/run/kubevirt/virtiofs-containers";

pub(super) fn filesystems(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let filesystems = &context.vmi.spec.domain.devices.filesystems;
    for filesystem in filesystems.iter().filter(|filesystem| filesystem.virtiofs.is_some()) {
        let name = &filesystem.name;
        domain.devices.filesystems.push(FilesystemDevice {
            type_: "mount".into(),
            access_mode: "passthrough".into(),
            source: Some(FilesystemSource { dir: String::new(), socket: format!("{SOCKETS}/{name}.sock") }),
            target: Some(FilesystemTarget { dir: name.clone() }),
            driver: Some(FilesystemDriver { type_: "virtiofs".into(), queue: "1024".into() }),
            ..FilesystemDevice::default()
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::written;

    #[test]
    fn filesystems_are_the_sockets_of_virtiofs_sidecars() {
        let filesystems = json!([{"name": "data", "virtiofs": {}}, {"name": "unknown"}]);
        assert_eq!(
            written(super::filesystems, json!({"devices": {"filesystems": filesystems}})),
            [
                r#"<filesystem type="mount" accessMode="passthrough">"#,
                r#"<source dir="" socket="/var/run/kubevirt/virtiofs-containers/data.sock"/><target dir="data"/>"#,
                r#"<driver type="virtiofs" queue="1024"/></filesystem>"#,
            ]
            .concat()
        );
        assert_eq!(written(super::filesystems, json!({})), "");
    }
}
