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
