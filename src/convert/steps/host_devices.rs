//! Devices of the host (contract/domain-xml-qemu.md 10). Not implemented yet: a VMI that asks for one is refused.

use super::{Context, ConvertError};
use crate::domain::DomainSpec;

pub(super) fn host_devices(context: &Context<'_>, _: &mut DomainSpec) -> Result<(), ConvertError> {
    let devices = &context.vmi.spec.domain.devices;
    let not_yet = |path: &str, feature| Err(ConvertError::NotYet { path: path.into(), feature });
    if !devices.host_devices.is_empty() {
        return not_yet("spec.domain.devices.hostDevices", "host devices");
    }
    if !devices.gpus.is_empty() {
        return not_yet("spec.domain.devices.gpus", "GPUs");
    }
    if let Some(index) = devices.interfaces.iter().position(|interface| interface.sriov.is_some()) {
        return not_yet(&format!("spec.domain.devices.interfaces[{index}].sriov"), "SR-IOV");
    }
    Ok(())
}
