//! Boot: machine type, firmware, kernel, boot menu, and the SMBIOS tables the guest sees.

use crate::domain::elements::elements;

elements! {
    /// `<os>`.
    pub struct Os {
        firmware: String = "Firmware" [attr? "firmware"];
        firmware_info: Option<FirmwareInfo> = "FirmwareInfo" [child "firmware"];
        type_: OsType = "Type" [child "type"];
        acpi: Option<OsAcpi> = "ACPI" [child "acpi"];
        smbios: Option<Smbios> = "SMBios" [child "smbios"];
        boot_order: Vec<Boot> = "BootOrder" [child "boot"];
        boot_menu: Option<BootMenu> = "BootMenu" [child "bootmenu"];
        bios: Option<Bios> = "BIOS" [child "bios"];
        boot_loader: Option<Loader> = "BootLoader" [child "loader"];
        nvram: Option<Nvram> = "NVRam" [child "nvram"];
        kernel: String = "Kernel" [child? "kernel"];
        initrd: String = "Initrd" [child? "initrd"];
        kernel_args: String = "KernelArgs" [child? "cmdline"];
    }

    /// `os/firmware`: firmware features libvirt should select by.
    pub struct FirmwareInfo {
        features: Vec<FirmwareFeature> = "Features" [child "feature"];
    }

    /// `os/firmware/feature`: one wanted or unwanted firmware feature.
    pub struct FirmwareFeature {
        enabled: String = "Enabled" [attr "enabled"];
        name: String = "Name" [attr "name"];
    }

    /// `<type>`: `hvm` with architecture and machine type.
    pub struct OsType {
        os: String = "OS" [text];
        arch: String = "Arch" [attr? "arch"];
        machine: String = "Machine" [attr? "machine"];
    }

    /// `os/acpi`: ACPI tables given by the user.
    pub struct OsAcpi {
        table: Vec<AcpiTable> = "Table" [child "table"];
    }

    /// `os/acpi/table`: one ACPI table file.
    pub struct AcpiTable {
        path: String = "Path" [text];
        type_: String = "Type" [attr? "type"];
    }

    /// `os/smbios`: where the guest's SMBIOS strings come from.
    pub struct Smbios {
        mode: String = "Mode" [attr "mode"];
    }

    /// `os/boot`: one boot device class.
    pub struct Boot {
        dev: String = "Dev" [attr "dev"];
    }

    /// `os/bootmenu`: the boot menu; timeout in milliseconds.
    pub struct BootMenu {
        enable: String = "Enable" [attr "enable"];
        timeout: Option<u64> = "Timeout" [attr "timeout"];
    }

    /// `os/bios`: serial output of the BIOS.
    pub struct Bios {
        use_serial: String = "UseSerial" [attr? "useserial"];
    }

    /// `os/loader`: the firmware image.
    pub struct Loader {
        read_only: String = "ReadOnly" [attr? "readonly"];
        secure: String = "Secure" [attr? "secure"];
        type_: String = "Type" [attr? "type"];
        path: String = "Path" [text];
    }

    /// `os/nvram`: the firmware's variable store.
    pub struct Nvram {
        template: String = "Template" [attr? "template"];
        format: String = "Format" [attr? "format"];
        nvram: String = "NVRam" [text];
    }

    /// `<sysinfo>`: the SMBIOS tables.
    pub struct SysInfo {
        type_: String = "Type" [attr "type"];
        system: Vec<Entry> = "System" [path "system" "entry"];
        bios: Vec<Entry> = "BIOS" [path "bios" "entry"];
        base_board: Vec<Entry> = "BaseBoard" [path "baseBoard" "entry"];
        chassis: Vec<Entry> = "Chassis" [path "chassis" "entry"];
    }

    /// `sysinfo/system>entry`: one SMBIOS string.
    pub struct Entry {
        name: String = "Name" [attr "name"];
        value: String = "Value" [text];
    }
}
