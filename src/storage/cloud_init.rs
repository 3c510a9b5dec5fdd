//! Cloud-init data and its disk (contract/lifecycle.md 9.5).

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::fat::make_fat_image;
use super::iso::make_iso_of_directory;
use super::tool::Tools;
use super::{Owner, Staged, StorageError, blocking, volume_component};
use crate::files::{Folder, split};

/// Public keys, numbered from "0".
pub type PublicKeys = BTreeMap<String, String>;

/// The two layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudInitSource {
    /// Label `cidata`, files at the root.
    NoCloud,
    /// Label `config-2`, files below `openstack/latest`.
    ConfigDrive,
}

impl CloudInitSource {
    /// The volume label.
    pub fn label(self) -> &'static str {
        match self {
            CloudInitSource::NoCloud => "cidata",
            CloudInitSource::ConfigDrive => "config-2",
        }
    }

    /// The image's file name.
    pub fn file_name(self, kind: ImageKind) -> &'static str {
        match (self, kind) {
            (CloudInitSource::NoCloud, ImageKind::Iso) => "noCloud.iso",
            (CloudInitSource::NoCloud, ImageKind::Fat) => "noCloud.img",
            (CloudInitSource::ConfigDrive, ImageKind::Iso) => "configdrive.iso",
            (CloudInitSource::ConfigDrive, ImageKind::Fat) => "configdrive.img",
        }
    }
}

/// What the data is on; guests look for either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// ISO 9660, for a CD-ROM drive.
    Iso,
    /// FAT, for a plain disk: a guest's initramfs has it more often than ISO 9660 (contract/cloud-hypervisor.md 6.3).
    Fat,
}

/// Metadata of either layout; its keys are those of the ConfigDrive layout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetaData {
    /// Instance type's name, if the VM has one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instance_type: String,
    /// Instance id.
    pub instance_id: String,
    /// The guest's host name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Firmware UUID (ConfigDrive).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uuid: String,
    /// Where tagged devices are (ConfigDrive); only the launcher knows.
    #[serde(skip_serializing_if = "Vec::is_empty", skip_deserializing)]
    pub devices: Vec<TaggedDevice>,
    /// SSH keys.
    #[serde(skip_serializing_if = "PublicKeys::is_empty")]
    pub public_keys: PublicKeys,
}

/// A device that the VMI has tagged, as the guest finds it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaggedDevice {
    /// `nic` or `hostdev`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `pci`.
    pub bus: String,
    /// `dddd:bb:ss.f` in the guest.
    pub address: String,
    /// A NIC's hardware address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Its serial number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Its NUMA node; as the original has it, node 0 is left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub numa_node: u32,
    /// Virtual CPUs near it.
    #[serde(rename = "alignedCPUs", skip_serializing_if = "Vec::is_empty")]
    pub aligned_cpus: Vec<u32>,
    /// Its tags.
    pub tags: Vec<String>,
}

/// serde hands over a reference.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Everything that goes onto the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudInit {
    /// Layout.
    pub source: CloudInitSource,
    /// The volume it stands for.
    pub volume: String,
    /// Metadata.
    pub meta_data: MetaData,
    /// User data, decoded.
    pub user_data: Vec<u8>,
    /// Network data, decoded; no file if empty.
    pub network_data: Vec<u8>,
}

/// Metadata with the keys of the NoCloud layout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct NoCloudMetaData {
    #[serde(skip_serializing_if = "String::is_empty")]
    instance_type: String,
    instance_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    local_hostname: String,
    #[serde(skip_serializing_if = "PublicKeys::is_empty")]
    public_keys: PublicKeys,
}

impl From<MetaData> for NoCloudMetaData {
    fn from(data: MetaData) -> Self {
        let MetaData { instance_type, instance_id, hostname: local_hostname, uuid: _, devices: _, public_keys } = data;
        NoCloudMetaData { instance_type, instance_id, local_hostname, public_keys }
    }
}

impl From<NoCloudMetaData> for MetaData {
    fn from(data: NoCloudMetaData) -> Self {
        let NoCloudMetaData { instance_type, instance_id, local_hostname: hostname, public_keys } = data;
        MetaData { instance_type, instance_id, hostname, public_keys, ..MetaData::default() }
    }
}

impl CloudInit {
    /// The image's path below `<ephemeral>/cloud-init-data`.
    pub fn path(&self, kind: ImageKind, cloud_init_dir: &Path, namespace: &str, name: &str) -> PathBuf {
        cloud_init_dir.join(namespace).join(name).join(self.source.file_name(kind))
    }

    fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>, StorageError> {
        let json = match self.source {
            CloudInitSource::NoCloud => serde_json::to_vec(&NoCloudMetaData::from(self.meta_data.clone())),
            CloudInitSource::ConfigDrive => serde_json::to_vec(&self.meta_data),
        }
        .map_err(|error| StorageError::Image(format!("cloud-init metadata of volume {}: {error}", self.volume)))?;
        let (meta_data, user_data, network_data) = match self.source {
            CloudInitSource::NoCloud => ("meta-data", "user-data", "network-config"),
            CloudInitSource::ConfigDrive => {
                ("openstack/latest/meta_data.json", "openstack/latest/user_data", "openstack/latest/network_data.json")
            }
        };
        let mut files = vec![(meta_data, json), (user_data, self.user_data.clone())];
        if !self.network_data.is_empty() {
            files.push((network_data, self.network_data.clone()));
        }
        Ok(files)
    }
}

/// Makes what is to be the disk at `CloudInit::path`. The files that go onto it, which may hold secrets, are removed again
/// whatever happens.
pub async fn stage_cloud_init_disk(
    tools: &Tools,
    data: &CloudInit,
    kind: ImageKind,
    cloud_init_dir: &Path,
    (namespace, name): (&str, &str),
    owner: Owner,
) -> Result<Staged, StorageError> {
    let image = data.path(kind, cloud_init_dir, volume_component(namespace)?, volume_component(name)?);
    if kind == ImageKind::Fat {
        return make_fat_image(&image, data.source.label(), data.files()?, owner).await;
    }
    let content = image.with_file_name("data");
    let made = async {
        for (file, bytes) in data.files()? {
            write_private(&content.join(file), &bytes).await?;
        }
        make_iso_of_directory(tools, &image, data.source.label(), &content, owner).await
    }
    .await;
    let removed = tokio::fs::remove_dir_all(&content).await;
    let staged = made?;
    removed.map_err(StorageError::io(&content, "remove the files of the cloud-init disk"))?;
    Ok(staged)
}

async fn write_private(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let (path, content) = (path.to_owned(), content.to_owned());
    blocking(move || {
        let write = || {
            let (folder, name) = split(&path)?;
            Folder::make(folder, 0o755)?.0.create(name)?.write_all(&content)
        };
        write().map_err(StorageError::io(&path, "write it"))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(source: CloudInitSource) -> CloudInit {
        CloudInit {
            source,
            volume: "seed".into(),
            meta_data: MetaData {
                instance_id: "id-1".into(),
                hostname: "vm1".into(),
                uuid: "u".into(),
                public_keys: [("0".to_owned(), "ssh-ed25519 AAAA".to_owned())].into(),
                ..MetaData::default()
            },
            user_data: "#!/bin/sh\necho hi\n".into(),
            network_data: Vec::new(),
        }
    }

    #[test]
    fn files_have_the_contracts_names_and_keys() {
        let files = data(CloudInitSource::NoCloud).files().unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["meta-data", "user-data"]);
        assert_eq!(
            String::from_utf8_lossy(&files[0].1),
            r#"{"instance-id":"id-1","local-hostname":"vm1","public-keys":{"0":"ssh-ed25519 AAAA"}}"#
        );
        let files = data(CloudInitSource::ConfigDrive).files().unwrap();
        assert_eq!(files[0].0, "openstack/latest/meta_data.json");
        assert_eq!(
            String::from_utf8_lossy(&files[0].1),
            r#"{"instance_id":"id-1","hostname":"vm1","uuid":"u","public_keys":{"0":"ssh-ed25519 AAAA"}}"#
        );
    }

    #[tokio::test]
    async fn disk_carries_label_and_files_and_no_secret_stays_behind() {
        let folder = tempfile::tempdir().unwrap();
        for (source, label) in [(CloudInitSource::NoCloud, "cidata"), (CloudInitSource::ConfigDrive, "config-2")] {
            let data = data(source);
            let (folder, tools) = (folder.path(), Tools::default());
            let staged = stage_cloud_init_disk(&tools, &data, ImageKind::Iso, folder, ("ns", "vm"), Owner::me());
            staged.await.unwrap().publish().await.unwrap();
            let image = std::fs::read(data.path(ImageKind::Iso, folder, "ns", "vm")).unwrap();
            assert_eq!(image[0x8028..].iter().take(label.len()).copied().collect::<Vec<u8>>(), label.as_bytes());
            assert!(String::from_utf8_lossy(&image).contains("echo hi"));
        }
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path().join("ns/vm")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["configdrive.iso", "noCloud.iso"]);
    }
}
