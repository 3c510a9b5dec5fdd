//! Cache and IO modes of disks, from what was probed (contract/domain-xml-qemu.md 8.8).

use super::context::Context;
use super::error::ConvertError;
use super::facts::DirectIo;
use crate::domain::{Disk, DomainSpec};

/// Fills in cache and IO mode of every disk.
pub(super) fn probe(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    domain.devices.disks.iter_mut().try_for_each(|disk| probe_disk(context, disk))
}

fn works(direct_io: &DirectIo, path: &str) -> bool {
    direct_io.paths.get(path).map_or(direct_io.default, |answer| answer == "yes")
}

/// The path of a field of the disk in the VMI.
fn field(context: &Context<'_>, disk: &Disk, name: &str) -> String {
    let own = disk.alias_name();
    let index = context.disks().iter().position(|disk| disk.name == own).unwrap_or_default();
    format!("spec.domain.devices.disks[{index}].{name}")
}

/// Fills in cache and IO mode of one disk.
pub(super) fn probe_disk(context: &Context<'_>, disk: &mut Disk) -> Result<(), ConvertError> {
    let source = disk.backend();
    let is_block = source.file.is_empty();
    let path = if is_block { source.dev.clone() } else { source.file.clone() };
    if path.is_empty() {
        if disk.device == "cdrom" {
            return Ok(());
        }
        return Err(ConvertError::at(
            field(context, disk, "cache"),
            "unable to set a driver cache mode, disk has no backend path",
        ));
    }
    let backing = disk.backing_store.as_ref().and_then(|store| store.source.as_ref());
    let backing = backing.map(|source| source.file.clone());
    let direct = &context.facts.direct_io;
    let possible = works(direct, &path) && backing.is_none_or(|backing| works(direct, &backing));
    let Some(driver) = disk.driver.as_mut() else { return Ok(()) };
    match driver.cache.as_str() {
        // libvirt refuses the pair, in words that name neither the disk nor its storage.
        "" if !possible && driver.io == "native" => {
            return Err(ConvertError::at(
                field(context, disk, "io"),
                format!(
                    "Unable to use 'native' IO mode, file system where {path} is stored does not support direct I/O"
                ),
            ));
        }
        "" => driver.cache = if possible { "none" } else { "writethrough" }.to_owned(),
        "none" if !possible => {
            return Err(ConvertError::at(
                field(context, disk, "cache"),
                format!(
                    "Unable to use 'none' cache mode, file system where {path} is stored does not support direct I/O"
                ),
            ));
        }
        _ => {}
    }
    let allocated = is_block || context.facts.preallocated_images.contains(&path);
    if driver.io.is_empty() && driver.cache == "none" && allocated {
        driver.io = "native".to_owned();
    }
    Ok(())
}
