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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{refused, run, vmi, written};

    fn firmware(firmware: Value) -> String {
        let written = written(super::os, json!({"firmware": firmware}));
        written.strip_prefix(AMD64).unwrap().to_owned()
    }

    const AMD64: &str = r#"<type arch="x86_64" machine="q35">hvm</type><smbios mode="sysinfo"/>"#;

    #[test]
    fn os_has_the_machine_of_the_architecture_unless_the_vmi_names_one() {
        let on = |arch: &str, domain: Value| run(super::os, vmi(domain), json!({"hostArch": arch})).unwrap();
        assert_eq!(on("amd64", json!({})), AMD64);
        assert_eq!(on("arm64", json!({})), r#"<type arch="aarch64" machine="virt">hvm</type><smbios mode="sysinfo"/>"#);
        assert_eq!(on("s390x", json!({})), r#"<type arch="s390x" machine="s390-ccw-virtio">hvm</type>"#);
        let named = on("amd64", json!({"machine": {"type": "pc-q35-9.2"}}));
        assert!(named.contains(r#"machine="pc-q35-9.2""#), "{named}");
    }

    #[test]
    fn os_shows_the_boot_menu_of_a_vm_that_starts_paused() {
        let mut paused = vmi(json!({}));
        paused["spec"]["startStrategy"] = json!("Paused");
        let menu = r#"<bootmenu enable="yes" timeout="10000"/>"#;
        assert!(run(super::os, paused, json!({})).unwrap().contains(menu));
        assert!(!written(super::os, json!({})).contains("bootmenu"));
    }

    #[test]
    fn os_boots_the_kernel_of_the_container() {
        let container = json!({"image": "i", "kernelPath": "/boot/vmlinuz", "initrdPath": "/boot/initrd"});
        let folder = "/var/run/kubevirt/container-disks/kernel-boot";
        assert_eq!(
            firmware(json!({"kernelBoot": {"kernelArgs": "console=ttyS0", "container": container}})),
            format!(
                "<kernel>{folder}/vmlinuz</kernel><initrd>{folder}/initrd</initrd><cmdline>console=ttyS0</cmdline>"
            )
        );
        let no_initrd = firmware(json!({"kernelBoot": {"container": {"kernelPath": "vmlinuz"}}}));
        assert_eq!(no_initrd, format!("<kernel>{folder}/vmlinuz</kernel>"));
    }

    #[test]
    fn os_has_efi_files_and_variables_of_the_vms_own() {
        let facts = |auto: bool| {
            let files = ["OVMF_CODE.fd", "OVMF_VARS.fd", "OVMF_CODE.secboot.fd", "OVMF_VARS.secboot.fd"];
            json!({"ovmf": {"path": "/f", "files": files, "firmwareAutoSelection": auto}})
        };
        let efi = |secure: bool, auto: bool| {
            let domain = json!({"firmware": {"bootloader": {"efi": {"secureBoot": secure}}}});
            run(super::os, vmi(domain), facts(auto)).unwrap()
        };
        let nvram = "/var/lib/libvirt/qemu/nvram/vm_VARS.fd";
        let files = [
            r#"<loader readonly="yes" secure="yes" type="pflash">/f/OVMF_CODE.secboot.fd</loader>"#,
            &format!(r#"<nvram template="/f/OVMF_VARS.secboot.fd">{nvram}</nvram>"#),
        ]
        .concat();
        assert!(efi(true, false).contains(&files), "{}", efi(true, false));
        assert!(efi(false, true).contains(r#"secure="no""#), "{}", efi(false, true));
        let chosen = efi(true, true);
        assert!(chosen.contains(r#"<feature enabled="yes" name="secure-boot"/>"#), "{chosen}");
        assert!(chosen.contains(&format!(r#"<nvram format="raw">{nvram}</nvram>"#)), "{chosen}");
    }

    #[test]
    fn os_acpi_tables_are_files_of_secrets() {
        let acpi = |acpi: Value, volumes: Value| {
            let mut vmi = vmi(json!({"firmware": {"acpi": acpi}}));
            vmi["spec"]["volumes"] = volumes;
            run(super::os, vmi, json!({}))
        };
        let secret = json!([{"name": "s", "secret": {"secretName": "x"}}]);
        let table = r#"<acpi><table type="slic">/var/run/kubevirt-private/secret/s/slic.bin</table></acpi>"#;
        let written = acpi(json!({"slicNameRef": "s"}), secret).unwrap();
        assert!(written.contains(table), "{written}");
        let slic = |volumes| acpi(json!({"slicNameRef": "s"}), volumes).unwrap_err();
        let path = "spec.domain.firmware.acpi";
        assert_eq!(slic(json!([])), format!("{path}.slicNameRef: firmware's volume for slic was not found"));
        let other = slic(json!([{"name": "s", "emptyDisk": {"capacity": "1Gi"}}]));
        assert_eq!(other, format!("{path}.slicNameRef: firmware's volume type is unsupported for slic"));
        assert_eq!(
            refused(super::os, json!({"firmware": {"acpi": {}}})),
            format!("{path}: no ACPI tables were set, expecting at least one")
        );
    }

    #[test]
    fn os_shows_the_bios_on_the_serial_port_where_that_is_asked_for() {
        assert_eq!(firmware(json!({"bootloader": {"bios": {"useSerial": true}}})), r#"<bios useserial="yes"/>"#);
        assert_eq!(firmware(json!({"bootloader": {"bios": {}}})), "");
    }
}
