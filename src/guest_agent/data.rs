//! The guest agent's answers, in the launcher's own types.

use serde::{Deserialize, Serialize};

use crate::domain::{FsFreeze, GuestOsInfo, InterfaceStatus};

/// Everything that was learnt from the agent, the latest of each. It is kept when the agent goes away.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GuestData {
    /// The agent itself; absent until it was asked.
    pub agent: Option<AgentInfo>,
    /// `agent` is from the previous launcher; this one has not asked yet.
    pub restored: bool,
    /// An agent was asked for its version and commands and did not answer.
    pub refused: bool,
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
    /// Whether the difference to `earlier` is to be published. Interfaces, system and freeze status are in the
    /// document (contract/notify.md 6.3). The agent's version and commands are not, but at each document of a connected
    /// agent virt-handler asks for them and judges the agent by them; it does not ask again before the next document.
    pub fn tells_more_than(&self, earlier: &GuestData) -> bool {
        self.interfaces != earlier.interfaces
            || self.os != earlier.os
            || self.freeze != earlier.freeze
            || self.agent != earlier.agent
            || self.is_introduced() != earlier.is_introduced()
    }

    /// Whether the agent's version and commands are known, or known not to be had.
    pub fn is_introduced(&self) -> bool {
        self.agent.is_some() || self.refused
    }

    /// What the next launcher cannot read in the last document.
    pub fn introduction(&self) -> Introduction {
        let GuestData { agent, hostname, timezone, .. } = self;
        Introduction { agent: agent.clone(), hostname: hostname.clone(), timezone: timezone.clone() }
    }

    /// Takes what an agent answered to the previous launcher.
    pub fn restore(&mut self, Introduction { agent, hostname, timezone }: Introduction) {
        self.restored = agent.is_some();
        (self.agent, self.hostname, self.timezone) = (agent, hostname, timezone);
    }
}

/// An agent's answers about itself and its guest that are not in the document of the domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Introduction {
    /// The agent itself; absent if it was not asked or did not answer.
    pub agent: Option<AgentInfo>,
    /// The host name.
    pub hostname: String,
    /// The time zone.
    pub timezone: Timezone,
}

/// `guest-info`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentInfo {
    /// The agent's version, such as `7.2.22`.
    pub version: String,
    /// What it could do.
    pub commands: Vec<AgentCommand>,
}

/// A command of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentCommand {
    /// Such as `guest-exec`.
    pub name: String,
    /// Whether the guest's administrator allows it.
    pub enabled: bool,
}

/// The guest's time zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Seconds since 1970; 0 if not reported.
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
    /// Used bytes; 0 if not reported.
    pub used_bytes: u64,
    /// Size in bytes; 0 if not reported.
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

/// Load averages; each is absent if the agent does not report it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Over one minute.
    pub one: Option<f64>,
    /// Over five minutes.
    pub five: Option<f64>,
    /// Over fifteen minutes.
    pub fifteen: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_that_tells_of_itself_for_the_first_time_is_news_and_so_is_another_one() {
        let nothing = GuestData::default();
        let agent = |version: &str| Some(AgentInfo { version: version.to_owned(), commands: Vec::new() });
        let first = GuestData { agent: agent("7"), ..GuestData::default() };
        let other = GuestData { agent: agent("8"), ..GuestData::default() };
        let silent = GuestData { refused: true, ..GuestData::default() };
        assert!(first.tells_more_than(&nothing) && other.tells_more_than(&first) && silent.tells_more_than(&nothing));
        let named = GuestData { hostname: "h".into(), users: vec![User::default()], ..first.clone() };
        assert!(!named.tells_more_than(&first), "virt-handler asks for these when it wants to know them");
        let refused_later = GuestData { refused: true, ..first.clone() };
        assert!(!refused_later.tells_more_than(&first), "earlier answers are kept");
    }
}
