//! Flags handed to libvirt, by their C names without the `VIR_` prefix.

/// `DOMAIN_XML_INACTIVE`: the persistent definition.
pub const DOMAIN_XML_INACTIVE: u32 = 2;
/// `DOMAIN_XML_MIGRATABLE`: what a peer of another version understands.
pub const DOMAIN_XML_MIGRATABLE: u32 = 8;
/// `DOMAIN_XML_SECURE | DOMAIN_XML_MIGRATABLE`.
pub const DOMAIN_XML_SECURE_MIGRATABLE: u32 = 1 | 8;
/// `DOMAIN_START_PAUSED`.
pub const DOMAIN_START_PAUSED: u32 = 1;
/// `DOMAIN_DESTROY_GRACEFUL`: SIGTERM only, never SIGKILL.
pub const DOMAIN_DESTROY_GRACEFUL: u32 = 1;
/// `DOMAIN_UNDEFINE_KEEP_NVRAM | DOMAIN_UNDEFINE_CHECKPOINTS_METADATA` (contract/cmd-server.md 4.1, Delete).
pub const DOMAIN_UNDEFINE: u32 = 8 | 16;
/// `DOMAIN_REBOOT_ACPI_POWER_BTN`.
pub const DOMAIN_REBOOT_ACPI: u32 = 1;
/// `DOMAIN_REBOOT_GUEST_AGENT`.
pub const DOMAIN_REBOOT_AGENT: u32 = 2;
/// `DOMAIN_SHUTDOWN_ACPI_POWER_BTN`.
pub const DOMAIN_SHUTDOWN_ACPI: u32 = 1;
/// `DOMAIN_SHUTDOWN_GUEST_AGENT`.
pub const DOMAIN_SHUTDOWN_AGENT: u32 = 2;
