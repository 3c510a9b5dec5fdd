//! Disk artefacts: overlays, empty disks, cloud-init and other small disks (contract/lifecycle.md 9).
//!
//! What the reader can rely on: an artefact appears under its final name only when it is whole; every tool has a
//! deadline and its output is in the error; nothing that exists is touched again; a volume's name cannot leave its folder.
#![allow(
    clippy::disallowed_methods,
    reason = "emptyDirs and projected volumes, which the kubelet has on its own disk; claims go through `files::with_deadline`"
)]

mod cloud_init;
mod config_disk;
mod copy;
mod fat;
mod image;
pub mod image_volume;
mod inspection;
mod iso;
mod metrics_disk;
mod probe;
mod qcow2;
mod staged;
mod tool;
mod tracking_overlay;

pub use cloud_init::{
    CloudInit, CloudInitSource, ImageKind, MetaData, NoCloudMetaData, PublicKeys, TaggedDevice, stage_cloud_init_disk,
};
pub use config_disk::{ConfigDisk, ConfigSource, make_config_disk};
pub use copy::copy_image;
pub use image::{create_empty_disk, create_overlay, grow_image};
pub use inspection::{ImageInfo, inspect, kind};
pub use metrics_disk::make_metrics_disk;
pub use staged::Staged;
pub use tool::{Timings, Tools};
pub use tracking_overlay::create_tracking_overlay;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::files::is_component;

/// Owner of everything QEMU opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
}

impl Owner {
    /// This process's user and group.
    pub fn me() -> Self {
        Owner { uid: nix::unistd::geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() }
    }
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
    /// The volume's name is not a plain file name.
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
    is_component(name).then_some(name).ok_or_else(|| StorageError::VolumeName { name: name.to_owned() })
}

/// Writes a small file whole, its folder included; the content appears under the name only when it is complete.
pub async fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), StorageError> {
    let content = content.to_owned();
    Staged::new(path, Owner::me(), mode).await?.write(move |mut file| file.write_all(&content)).await?.publish().await
}

/// Runs what may wait for storage in a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(StorageError::Image(format!("the work on a disk was given up: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn link_in_the_place_of_a_file_to_come_is_not_followed() {
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
