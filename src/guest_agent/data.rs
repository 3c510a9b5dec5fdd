//! What the guest's agent has told, in the launcher's own types.

use crate::domain::{FsFreeze, GuestOsInfo, InterfaceStatus};

/// Everything that was learnt from the agent, the latest of each. It is kept when the agent goes away.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GuestData {
    /// The agent itself; absent until it was asked.
    pub agent: Option<AgentInfo>,
    /// Network interfaces but `lo`.
    pub interfaces: Vec<InterfaceStatus>,
    /// The operating system.
    pub os: GuestOsInfo,
    /// `frozen` or `thawed`.
    pub freeze: FsFreeze,
    /// The host name.
    pub hostname: String,
    /// The time zone.
    pub timezone: Timezone,
    /// Who is logged in.
    pub users: Vec<User>,
    /// Mounted file systems.
    pub filesystems: Vec<Filesystem>,
    /// Load averages.
    pub load: Load,
}

impl GuestData {
    /// Whether virt-handler is to be told of the difference to `earlier`: the rest it asks for (contract/notify.md 6.3).
    pub fn tells_more_than(&self, earlier: &GuestData) -> bool {
        self.interfaces != earlier.interfaces || self.os != earlier.os || self.freeze != earlier.freeze
    }
}

/// `guest-info`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentInfo {
    /// The agent's version, such as `7.2.22`.
    pub version: String,
    /// What it could do.
    pub commands: Vec<AgentCommand>,
}

/// A command of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentCommand {
    /// Such as `guest-exec`.
    pub name: String,
    /// Whether the guest's administrator allows it.
    pub enabled: bool,
}

/// The guest's time zone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timezone {
    /// Such as `CET`.
    pub name: String,
    /// Seconds east of UTC.
    pub offset: i64,
}

/// A login.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct User {
    /// The user.
    pub name: String,
    /// The Windows domain, or empty.
    pub domain: String,
    /// Seconds since 1970; 0 if not told.
    pub login_time: f64,
}

/// A mounted file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// The device's name.
    pub name: String,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Such as `ext4`.
    pub kind: String,
    /// Used bytes; 0 if not told.
    pub used_bytes: u64,
    /// Size in bytes; 0 if not told.
    pub total_bytes: u64,
    /// The disks that it lies on.
    pub disks: Vec<FilesystemDisk>,
}

/// A disk below a file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilesystemDisk {
    /// The disk's serial number, or empty.
    pub serial: String,
    /// Such as `virtio` or `scsi`.
    pub bus_type: String,
}

/// Load averages; each is absent if the agent does not tell it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Over one minute.
    pub one: Option<f64>,
    /// Over five minutes.
    pub five: Option<f64>,
    /// Over fifteen minutes.
    pub fifteen: Option<f64>,
}
