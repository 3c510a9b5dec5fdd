//! Devices of the host (contract/domain-xml-qemu.md 10).

use super::{Context, ConvertError};
use crate::domain::DomainSpec;

pub(super) fn host_devices(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    domain.devices.host_devices.extend_from_slice(&context.host_devices);
    Ok(())
}
