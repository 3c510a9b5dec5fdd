//! Which EFI firmware a VMI boots by (contract/domain-xml-qemu.md 5.5.2).

use super::arch::Arch;
use super::error::ConvertError;
use super::facts::HostFacts;
use crate::vmi::VirtualMachineInstance;

/// The choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EfiChoice {
    /// libvirt chooses firmware with Secure Boot and enrolled keys.
    Automatic,
    /// Files of the firmware folder.
    Files {
        /// Code image.
        code: String,
        /// Variables template; empty for a read-only image.
        vars: String,
        /// `secure` of the loader.
        secure: bool,
        /// A read-only image without variables (SNP, TDX).
        rom: bool,
    },
}

/// Chooses; `None` for a VMI that does not boot by EFI.
pub(super) fn choose_efi(
    vmi: &VirtualMachineInstance,
    facts: &HostFacts,
    arch: Arch,
) -> Result<Option<EfiChoice>, ConvertError> {
    let bootloader = vmi.spec.domain.firmware.as_ref().and_then(|firmware| firmware.bootloader.as_ref());
    let Some(efi) = bootloader.and_then(|bootloader| bootloader.efi.as_ref()) else { return Ok(None) };
    let secure = efi.secure_boot.unwrap_or(true);
    let security = vmi.spec.domain.launch_security.as_ref();
    let snp = security.is_some_and(|security| security.snp.is_some());
    let sev = security.is_some_and(|security| security.sev.is_some() || security.snp.is_some());
    let tdx = security.is_some_and(|security| security.tdx.is_some());
    let plain_sev = sev && !snp;
    if secure && !sev && !tdx && facts.ovmf.firmware_auto_selection {
        return Ok(Some(EfiChoice::Automatic));
    }
    let present = |file: &str| facts.ovmf.files.iter().any(|known| known == file);
    let (code, vars) = if arch == Arch::Arm64 {
        ("AAVMF_CODE.fd", "AAVMF_VARS.fd")
    } else if plain_sev {
        ("OVMF_CODE.cc.fd", "OVMF_VARS.fd")
    } else if snp {
        ("OVMF.amdsev.fd", "")
    } else if tdx {
        (if secure { "OVMF.inteltdx.secboot.fd" } else { "OVMF.inteltdx.fd" }, "")
    } else if secure {
        ("OVMF_CODE.secboot.fd", "OVMF_VARS.secboot.fd")
    } else if present("OVMF_CODE.secboot.fd") {
        ("OVMF_CODE.secboot.fd", "OVMF_VARS.fd")
    } else {
        ("OVMF_CODE.fd", "OVMF_VARS.fd")
    };
    let missing = !present(code) || (!vars.is_empty() && !present(vars));
    let impossible = (secure && sev) || (arch == Arch::Arm64 && (secure || sev || tdx));
    if missing || impossible {
        return Err(ConvertError::at(
            "spec.domain.firmware.bootloader.efi",
            format!(
                "EFI OVMF roms missing for booting in EFI mode with SecureBoot={secure}, SEV/SEV-ES={plain_sev}, \
             SEV-SNP={snp}, TDX={tdx}"
            ),
        ));
    }
    let path = |file: &str| match file {
        "" => String::new(),
        file => format!("{}/{file}", facts.ovmf.path.trim_end_matches('/')),
    };
    Ok(Some(EfiChoice::Files { code: path(code), vars: path(vars), secure: secure && !tdx, rom: snp || tdx }))
}
