//! Disk artefacts: overlays, empty disks, cloud-init and other small disks (contract/lifecycle.md 9).
//!
//! What the reader can rely on: an artefact appears under its final name only when it is whole; every tool has a
//! deadline and its output is in the error; nothing that exists is touched again; a volume's name cannot leave its folder.

mod cloud_init;
mod config_disk;
mod copy;
mod fat;
mod image;
pub mod image_volume;
mod iso;
mod metrics_disk;
mod staged;
mod tool;
mod tracking_overlay;

pub use cloud_init::{
    CloudInit, CloudInitSource, ImageKind, MetaData, NoCloudMetaData, PublicKeys, TaggedDevice, stage_cloud_init_disk,
};
pub use config_disk::{ConfigDisk, ConfigSource, make_config_disk, make_config_disk_placeholder};
pub use copy::copy_image;
pub use image::{ImageInfo, InspectionLimits, create_empty_disk, create_overlay, grow_image, inspect};
pub use metrics_disk::make_metrics_disk;
pub use staged::Staged;
pub use tool::{Timings, Tools};
pub use tracking_overlay::create_tracking_overlay;

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt as _;

/// Owner of everything QEMU opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
}

/// Why an artefact could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The file system refused.
    #[error("{path}: cannot {what}: {source}")]
    Io {
        /// The path concerned.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A tool said no.
    #[error("{tool} could not {what} {path}: {output}")]
    Tool {
        /// The tool's name.
        tool: &'static str,
        /// What it was to do.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What it said, or how it ended.
        output: String,
    },
    /// A tool took too long and was killed.
    #[error("{tool} did not {what} {path} within {seconds} s")]
    TooSlow {
        /// The tool's name.
        tool: &'static str,
        /// What it was to do.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Its deadline.
        seconds: u64,
    },
    /// The volume's name is no plain file name.
    #[error("spec.volumes: {name:?} cannot name a file")]
    VolumeName {
        /// The name.
        name: String,
    },
    /// An empty disk of less than 1 MiB.
    #[error("the size for volume {volume} is too low")]
    TooSmall {
        /// The volume.
        volume: String,
    },
    /// Windows Setup would find nothing to do.
    #[error("{directory} has neither autounattend.xml nor unattend.xml")]
    NoAnswerFile {
        /// Where one was looked for.
        directory: PathBuf,
    },
    /// An image volume that does not say by itself which file is the disk.
    #[error("{directory} does not hold a single file: {what}")]
    NoSingleFile {
        /// Where it was looked for.
        directory: PathBuf,
        /// What was found instead.
        what: &'static str,
    },
    /// A path that escapes.
    #[error("{path} leads out of the image volume {volume}")]
    OutsideVolume {
        /// The path.
        path: PathBuf,
        /// The volume's root.
        volume: PathBuf,
    },
    /// An image that a VM cannot boot from as it is.
    #[error("{0}")]
    Image(String),
}

impl StorageError {
    fn io(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> StorageError {
        let path = path.to_owned();
        move |source| StorageError::Io { path, what, source }
    }
}

/// A volume's name as one component of a path.
pub fn volume_component(name: &str) -> Result<&str, StorageError> {
    match name {
        "" | "." | ".." => Err(StorageError::VolumeName { name: name.to_owned() }),
        _ if name.contains('/') || name.contains('\0') => Err(StorageError::VolumeName { name: name.to_owned() }),
        _ => Ok(name),
    }
}

/// Makes a directory and its parents with mode 0755, whatever the umask.
pub(crate) async fn make_directory(path: &Path) -> Result<(), StorageError> {
    use std::os::unix::fs::PermissionsExt;
    if tokio::fs::metadata(path).await.is_ok_and(|found| found.is_dir()) {
        return Ok(());
    }
    tokio::fs::create_dir_all(path).await.map_err(StorageError::io(path, "make the directory"))?;
    tokio::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .await
        .map_err(StorageError::io(path, "set its mode"))
}

/// Writes a small file whole, its folder included; the content appears under the name only when it is complete.
pub async fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), StorageError> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(directory) = path.parent() {
        make_directory(directory).await?;
    }
    let staged = staging(path);
    let mut new = tokio::fs::OpenOptions::new();
    new.write(true).create_new(true).custom_flags(libc::O_NOFOLLOW);
    let mut file = new.open(&staged).await.map_err(StorageError::io(&staged, "make it"))?;
    let written = async {
        file.write_all(content).await?;
        file.flush().await
    };
    written.await.map_err(StorageError::io(&staged, "write it"))?;
    tokio::fs::set_permissions(&staged, std::fs::Permissions::from_mode(mode))
        .await
        .map_err(StorageError::io(&staged, "set its mode"))?;
    tokio::fs::rename(&staged, path).await.map_err(StorageError::io(path, "give the finished file its name"))
}

/// chown, only where it changes something.
pub(crate) fn own(path: &Path, owner: Owner) -> Result<(), StorageError> {
    use std::os::unix::fs::MetadataExt;
    let found = std::fs::symlink_metadata(path).map_err(StorageError::io(path, "look at it"))?;
    if (found.uid(), found.gid()) == (owner.uid, owner.gid) {
        return Ok(());
    }
    std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
        .map_err(StorageError::io(path, "change its owner"))
}

/// The name under which a file is made. Whatever is there goes away first: the leftover of a launcher that was killed, or a
/// link that somebody with access to the directory has laid, which a tool would follow.
pub(crate) fn staging(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".staging");
    // What cannot be removed shows when the file is made.
    let _ = std::fs::remove_file(&name);
    PathBuf::from(name)
}

#[cfg(test)]
pub(crate) fn me() -> Owner {
    Owner { uid: nix::unistd::getuid().as_raw(), gid: nix::unistd::getgid().as_raw() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_link_in_the_place_of_a_file_to_come_is_not_followed() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (victim, path) = (outside.path().join("victim"), folder.path().join("data.ign"));
        std::fs::write(&victim, "precious").unwrap();
        for link in ["data.ign", "data.ign.staging"] {
            std::os::unix::fs::symlink(&victim, folder.path().join(link)).unwrap();
        }
        write_file(&path, b"new", 0o644).await.unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn volume_names_stay_in_their_folder() {
        for name in ["", ".", "..", "a/b", "../x", "/etc", "a\0"] {
            assert!(volume_component(name).is_err(), "{name:?}");
        }
        assert_eq!(volume_component("disk-0.a").unwrap(), "disk-0.a");
    }
}
