//! The only user of the `virt` crate: an asynchronous, deadlined façade.
//!
//! What the reader can rely on: no call made here waits longer than its deadline; a connection that broke is noticed by
//! libvirt's close callback, one that hangs by calls without an answer; every error says which libvirt call it came from; numbers of libvirt's stay
//! in here.

mod agent;
mod agent_turns;
mod backup;
mod connection;
mod devices;
mod error;
mod events;
mod forgotten;
mod inquiry;
mod numbers;
mod params;
mod raw;

pub use agent::guest_info;
pub use connection::{Connection, Deadlines, DomainSnapshot};
pub use devices::{BlockSize, cpu_map};
pub use error::{Error, VirError, code};
pub use events::{AgentChange, DomainEvent, Event, Lifecycle};
pub use inquiry::{DiskError, JobOperation, JobStats, JobType, Screenshot, StatsRecord};
pub use params::{Params, TypedValue};

/// Flags handed to libvirt, by their C names without the `VIR_` prefix.
pub mod flags {
    /// `DOMAIN_XML_INACTIVE`: the persistent definition.
    pub const DOMAIN_XML_INACTIVE: u32 = 2;
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
}
