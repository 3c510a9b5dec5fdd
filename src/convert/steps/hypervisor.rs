//! Domain type and emulator (contract/domain-xml-qemu.md 5.1.1).

use super::{Context, ConvertError};
use crate::domain::DomainSpec;

pub(super) fn hypervisor(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let facts = context.facts;
    let hyperv = facts.hypervisor.name == "hyperv-direct";
    if context.cross_arch && !hyperv {
        let binary = match context.vmi.spec.architecture.as_str() {
            "arm64" => "/usr/bin/qemu-system-aarch64",
            "amd64" => "/usr/bin/qemu-system-x86_64",
            "s390x" => "/usr/bin/qemu-system-s390x",
            other => {
                return Err(ConvertError::field(
                    "spec.architecture",
                    format!("no emulator for guest architecture {other:?}"),
                ));
            }
        };
        if !facts.emulator_binaries.iter().any(|path| path == binary) {
            return Err(ConvertError::known(format!("required emulator binary not found: {binary}")));
        }
        domain.type_ = "qemu".into();
        domain.devices.emulator = binary.into();
        return Ok(());
    }
    domain.type_ = match (facts.hypervisor.device_present, facts.allow_emulation, hyperv) {
        (true, _, true) => "hyperv".into(),
        (true, _, false) => "kvm".into(),
        (false, true, _) => "qemu".into(),
        (false, false, true) => return Err(ConvertError::known("MSHV not present and emulation is not allowed")),
        (false, false, false) => {
            return Err(ConvertError::known("kvm not present and emulation is not allowed"));
        }
    };
    Ok(())
}
