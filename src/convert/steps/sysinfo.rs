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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{run, vmi, written};

    const REST: &str = "<bios/><baseBoard/>";

    #[test]
    fn sysinfo_is_there_even_if_it_is_empty() {
        assert_eq!(
            written(super::sysinfo, json!({})),
            format!(r#"<sysinfo type="smbios"><system/>{REST}<chassis/></sysinfo>"#)
        );
    }

    #[test]
    fn sysinfo_has_the_vmis_texts_before_the_clusters() {
        let smbios = json!({"manufacturer": "m", "family": "f", "product": "p", "sku": "s", "version": "v"});
        let domain = json!({"firmware": {"uuid": "u", "serial": "n"}, "chassis": {"asset": "a"}});
        let entries = |entries: &[(&str, &str)]| {
            let entry = |(name, value): &(&str, &str)| match *value {
                "" => format!(r#"<entry name="{name}"/>"#),
                value => format!(r#"<entry name="{name}">{value}</entry>"#),
            };
            entries.iter().map(entry).collect::<String>()
        };
        let system = entries(&[
            ("uuid", "u"),
            ("serial", "n"),
            ("manufacturer", "m"),
            ("family", "f"),
            ("product", "p"),
            ("sku", "s"),
            ("version", "v"),
        ]);
        let chassis = entries(&[("manufacturer", ""), ("version", ""), ("serial", ""), ("asset", "a"), ("sku", "")]);
        assert_eq!(
            run(super::sysinfo, vmi(domain), json!({"optionsPresent": true, "smbios": smbios})).unwrap(),
            format!(r#"<sysinfo type="smbios"><system>{system}</system>{REST}<chassis>{chassis}</chassis></sysinfo>"#)
        );
    }
}
