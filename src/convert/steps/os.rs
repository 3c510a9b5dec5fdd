//! Machine, firmware and boot (contract/domain-xml-qemu.md 5.5).

use super::super::arch::Arch;
use super::super::context::PRIVATE;
use super::super::firmware::EfiChoice;
use super::{Context, ConvertError, beneath, yes_no};
use crate::domain::{
    AcpiTable, Bios, BootMenu, DomainSpec, FirmwareFeature, FirmwareInfo, Loader, Nvram, Os, OsAcpi, OsType, Smbios,
};
use crate::vmi::{Firmware, FirmwareAcpi};

/// Milliseconds that the boot menu stays, so that a paused VM's console can be opened in time.
const BOOT_MENU_TIMEOUT: u64 = 10_000;
/// Where virt-handler puts a kernel boot image's files.
const KERNEL_BOOT: &str = "/var/run/kubevirt/container-disks/kernel-boot";

pub(super) fn os(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let spec = &context.vmi.spec;
    let (arch, machine) = match context.arch {
        Arch::Amd64 => ("x86_64", "q35"),
        Arch::Arm64 => ("aarch64", "virt"),
        Arch::S390x => ("s390x", "s390-ccw-virtio"),
    };
    let wanted = spec.domain.machine.as_ref().map(|machine| machine.r#type.as_str()).filter(|kind| !kind.is_empty());
    domain.os = Os {
        type_: OsType { os: "hvm".into(), arch: arch.into(), machine: wanted.unwrap_or(machine).into() },
        smbios: (context.arch != Arch::S390x).then(|| Smbios { mode: "sysinfo".into() }),
        boot_menu: (spec.start_strategy == "Paused")
            .then(|| BootMenu { enable: "yes".into(), timeout: Some(BOOT_MENU_TIMEOUT) }),
        ..Os::default()
    };
    match &spec.domain.firmware {
        Some(firmware) => firmware_elements(context, firmware, &mut domain.os),
        None => Ok(()),
    }
}

fn firmware_elements(context: &Context<'_>, firmware: &Firmware, os: &mut Os) -> Result<(), ConvertError> {
    if let Some(acpi) = &firmware.acpi {
        os.acpi = Some(acpi_tables(context, acpi)?);
    }
    let bios = firmware.bootloader.as_ref().and_then(|loader| loader.bios.as_ref());
    if bios.is_some_and(|bios| bios.use_serial == Some(true)) {
        os.bios = Some(Bios { use_serial: "yes".into() });
    }
    if let Some(choice) = &context.efi {
        efi_elements(context, choice, os);
    }
    if let Some(boot) = &firmware.kernel_boot {
        if let Some(container) = &boot.container {
            let path = |path: &str| if path.is_empty() { String::new() } else { beneath(KERNEL_BOOT, path) };
            os.kernel = path(&container.kernel_path);
            os.initrd = path(&container.initrd_path);
        }
        os.kernel_args.clone_from(&boot.kernel_args);
    }
    Ok(())
}

fn acpi_tables(context: &Context<'_>, acpi: &FirmwareAcpi) -> Result<OsAcpi, ConvertError> {
    if acpi.slic_name_ref.is_empty() && acpi.msdm_name_ref.is_empty() {
        return Err(ConvertError::at("spec.domain.firmware.acpi", "no ACPI tables were set, expecting at least one"));
    }
    let mut tables = OsAcpi::default();
    let path = |kind: &str| format!("spec.domain.firmware.acpi.{kind}NameRef");
    for (kind, volume) in [("slic", &acpi.slic_name_ref), ("msdm", &acpi.msdm_name_ref)] {
        if volume.is_empty() {
            continue;
        }
        match context.volume(volume) {
            None => return Err(ConvertError::at(path(kind), format!("firmware's volume for {kind} was not found"))),
            Some((_, found)) if found.secret.is_none() => {
                return Err(ConvertError::at(path(kind), format!("firmware's volume type is unsupported for {kind}")));
            }
            Some(_) => {}
        }
        tables.table.push(AcpiTable { type_: kind.into(), path: format!("{PRIVATE}/secret/{volume}/{kind}.bin") });
    }
    Ok(tables)
}

fn efi_elements(context: &Context<'_>, choice: &EfiChoice, os: &mut Os) {
    let vars_file = format!("{}/{}_VARS.fd", context.libvirt_state("nvram"), context.vmi.metadata.name);
    match choice {
        EfiChoice::Automatic => {
            let feature = |name: &str| FirmwareFeature { enabled: "yes".into(), name: name.into() };
            os.firmware = "efi".into();
            os.firmware_info = Some(FirmwareInfo { features: vec![feature("secure-boot"), feature("enrolled-keys")] });
            if context.vmi.spec.architecture != "arm64" {
                os.nvram = Some(Nvram { format: "raw".into(), nvram: vars_file, ..Nvram::default() });
            }
        }
        EfiChoice::Files { code, vars, secure, rom } => {
            os.boot_loader = Some(Loader {
                read_only: "yes".into(),
                secure: yes_no(*secure),
                type_: if *rom { "rom" } else { "pflash" }.into(),
                path: code.clone(),
            });
            if !rom {
                os.nvram = Some(Nvram { template: vars.clone(), nvram: vars_file, ..Nvram::default() });
            }
        }
    }
}
