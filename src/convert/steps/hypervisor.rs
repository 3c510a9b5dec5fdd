//! Domain type and emulator (contract/domain-xml-qemu.md 5.1.1).

use super::{Context, ConvertError};
use crate::domain::DomainSpec;

pub(super) fn hypervisor(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let facts = context.facts;
    if !facts.hypervisor.virt_type.is_empty() {
        domain.type_.clone_from(&facts.hypervisor.virt_type);
        return Ok(());
    }
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{run, vmi};

    fn domain_type(name: &str, device_present: bool, emulation: bool) -> Result<String, String> {
        let facts = json!({"hypervisor": {"name": name, "devicePresent": device_present}, "allowEmulation": emulation});
        let domain = run(super::hypervisor, vmi(json!({})), facts)?;
        Ok(domain.trim_start_matches(r#"<domain type=""#).trim_end_matches(r#"">"#).to_owned())
    }

    #[test]
    fn hypervisor_is_emulated_only_where_that_is_allowed() {
        assert_eq!(domain_type("kvm", true, true).unwrap(), "kvm");
        assert_eq!(domain_type("", true, false).unwrap(), "kvm");
        assert_eq!(domain_type("hyperv-direct", true, false).unwrap(), "hyperv");
        assert_eq!(domain_type("kvm", false, true).unwrap(), "qemu");
        assert_eq!(domain_type("hyperv-direct", false, true).unwrap(), "qemu");
        let refused = |name| domain_type(name, false, false).unwrap_err();
        assert_eq!(refused("kvm"), "kvm not present and emulation is not allowed");
        assert_eq!(refused("hyperv-direct"), "MSHV not present and emulation is not allowed");
    }

    #[test]
    fn hypervisor_of_a_driver_without_devices_has_the_drivers_type() {
        let facts = json!({"hypervisor": {"virtType": "lxc"}});
        assert!(run(super::hypervisor, vmi(json!({})), facts).unwrap().contains(r#"<domain type="lxc">"#));
    }

    #[test]
    fn hypervisor_of_another_architecture_needs_its_emulator() {
        let emulated = |arch: &str, binaries: Value| {
            let mut guest = vmi(json!({}));
            guest["spec"]["architecture"] = json!(arch);
            run(super::hypervisor, guest, json!({"allowCrossArchEmulation": true, "emulatorBinaries": binaries}))
        };
        let binary = "/usr/bin/qemu-system-aarch64";
        let written = emulated("arm64", json!([binary])).unwrap();
        assert!(written.contains(r#"<domain type="qemu">"#), "{written}");
        assert!(written.contains(&format!("<emulator>{binary}</emulator>")), "{written}");
        let missing = format!("required emulator binary not found: {binary}");
        assert_eq!(emulated("arm64", json!([])).unwrap_err(), missing);
        let unknown = r#"spec.architecture: no emulator for guest architecture "riscv64""#;
        assert_eq!(emulated("riscv64", json!([])).unwrap_err(), unknown);
    }
}
