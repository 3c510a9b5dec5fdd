//! SMBIOS texts (contract/domain-xml-qemu.md 5.6).

use super::{Context, ConvertError};
use crate::domain::{DomainSpec, Entry, SysInfo};

pub(super) fn sysinfo(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let entry = |name: &str, value: &str| Entry { name: name.into(), value: value.into() };
    let mut info = SysInfo { type_: "smbios".into(), ..SysInfo::default() };
    let spec = &context.vmi.spec.domain;
    if let Some(firmware) = &spec.firmware {
        info.system.push(entry("uuid", &firmware.uuid));
        if !firmware.serial.is_empty() {
            info.system.push(entry("serial", &firmware.serial));
        }
    }
    if let Some(smbios) = &context.facts.options().smbios {
        info.system.extend([
            entry("manufacturer", &smbios.manufacturer),
            entry("family", &smbios.family),
            entry("product", &smbios.product),
            entry("sku", &smbios.sku),
            entry("version", &smbios.version),
        ]);
    }
    if let Some(chassis) = &spec.chassis {
        info.chassis.extend([
            entry("manufacturer", &chassis.manufacturer),
            entry("version", &chassis.version),
            entry("serial", &chassis.serial),
            entry("asset", &chassis.asset),
            entry("sku", &chassis.sku),
        ]);
    }
    domain.sys_info = Some(info);
    Ok(())
}
