//! The sockets through which a migration leaves the source's pod and enters the target's (contract/migration.md 3.1).

use std::path::{Path, PathBuf};

/// What goes through a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// libvirt's calls, in one connection for the whole migration.
    Control,
    /// Memory and device state.
    Memory,
    /// Contents of disks, over NBD.
    Disks,
}

impl Channel {
    /// The port that stands for it in names; none for the control channel.
    pub fn port(self) -> Option<u16> {
        match self {
            Channel::Control => None,
            Channel::Memory => Some(49152),
            Channel::Disks => Some(49153),
        }
    }
}

/// The folder of the sockets below `--kubevirt-share-dir`.
pub fn folder(share_dir: &Path) -> PathBuf {
    share_dir.join("migrationproxy")
}

/// The socket's path, the same in both pods: `uid` is that of the source's VMI.
pub fn path(share_dir: &Path, uid: &str, channel: Channel) -> PathBuf {
    let name = match channel.port() {
        None => format!("{uid}-source.sock"),
        Some(port) => format!("{uid}-{port}-source.sock"),
    };
    folder(share_dir).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_that_virt_handler_knows() {
        let path = |channel| path(Path::new("/var/run/kubevirt"), "u", channel).display().to_string();
        assert_eq!(path(Channel::Control), "/var/run/kubevirt/migrationproxy/u-source.sock");
        assert_eq!(path(Channel::Memory), "/var/run/kubevirt/migrationproxy/u-49152-source.sock");
        assert_eq!(path(Channel::Disks), "/var/run/kubevirt/migrationproxy/u-49153-source.sock");
    }
}
