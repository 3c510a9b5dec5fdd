//! Disks made from ConfigMaps, Secrets, the downward API, the service account and Sysprep answers
//! (contract/lifecycle.md 9.6, 9.7).

use std::path::{Path, PathBuf};

use super::iso::make_iso_of_entries;
use super::tool::Tools;
use super::{Owner, StorageError, volume_component};

/// Label of a disk whose volume gives none.
const LABEL: &str = "cfgdata";
/// Label that Windows Setup's users know.
const SYSPREP_LABEL: &str = "unattendCD";
/// What Windows Setup looks for; at least one must be there.
const ANSWER_FILES: [&str; 2] = ["autounattend.xml", "unattend.xml"];

/// Where a config disk's content is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConfigSource {
    ConfigMap,
    Secret,
    Sysprep,
    DownwardApi,
    ServiceAccount,
}

impl ConfigSource {
    /// All of them, in the order in which their disks are made (contract/cmd-server.md 5.4).
    pub const ALL: [ConfigSource; 5] = [
        ConfigSource::ConfigMap,
        ConfigSource::Secret,
        ConfigSource::Sysprep,
        ConfigSource::DownwardApi,
        ConfigSource::ServiceAccount,
    ];

    /// What virt-handler's users see before the cause when such a disk cannot be made (contract/cmd-server.md 5.3).
    pub fn failure(self) -> &'static str {
        match self {
            ConfigSource::ConfigMap => "creating config map disks failed",
            ConfigSource::Secret => "creating secret disks failed",
            ConfigSource::Sysprep => "creating sysprep disks failed",
            ConfigSource::DownwardApi => "creating DownwardAPI disks failed",
            ConfigSource::ServiceAccount => "creating service account disk failed",
        }
    }
}

/// One disk to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigDisk {
    /// Where its content is from.
    pub source: ConfigSource,
    /// The volume's name.
    pub volume: String,
    /// The volume label; the usual one if empty.
    pub label: String,
}

impl ConfigDisk {
    /// The directory with the content, below the file system `root`.
    pub fn directory(&self, root: &Path) -> Result<PathBuf, StorageError> {
        let volume = volume_component(&self.volume)?;
        let private = root.join("var/run/kubevirt-private");
        Ok(match self.source {
            ConfigSource::ConfigMap => private.join("config-map").join(volume),
            ConfigSource::Secret => private.join("secret").join(volume),
            ConfigSource::Sysprep => private.join("sysprep").join(volume),
            ConfigSource::DownwardApi => private.join("downwardapi").join(volume),
            ConfigSource::ServiceAccount => root.join("var/run/secrets/kubernetes.io/serviceaccount"),
        })
    }

    /// The image, below the file system `root`. All service account disks are one.
    pub fn image(&self, root: &Path) -> Result<PathBuf, StorageError> {
        let file = format!("{}.iso", volume_component(&self.volume)?);
        let private = root.join("var/run/kubevirt-private");
        Ok(match self.source {
            ConfigSource::ConfigMap => private.join("config-map-disks").join(file),
            ConfigSource::Secret => private.join("secret-disks").join(file),
            ConfigSource::Sysprep => private.join("sysprep-disks").join(file),
            ConfigSource::DownwardApi => private.join("downwardapi-disks").join(file),
            ConfigSource::ServiceAccount => private.join("service-account-disk/service-account.iso"),
        })
    }

    /// The volume label that the guest sees.
    pub fn volume_label(&self) -> &str {
        match self.source {
            ConfigSource::Sysprep => SYSPREP_LABEL,
            ConfigSource::ServiceAccount => LABEL,
            ConfigSource::ConfigMap | ConfigSource::Secret | ConfigSource::DownwardApi => match self.label.as_str() {
                "" => LABEL,
                label => label,
            },
        }
    }
}

/// Makes the disk from what its directory holds now, in place of one from an earlier attempt.
pub async fn make_config_disk(tools: &Tools, disk: &ConfigDisk, root: &Path, owner: Owner) -> Result<(), StorageError> {
    let (directory, image) = (disk.directory(root)?, disk.image(root)?);
    if disk.source == ConfigSource::Sysprep {
        has_answer_file(&directory).await?;
    }
    make_iso_of_entries(tools, &image, disk.volume_label(), &directory, owner).await?.publish().await
}

async fn has_answer_file(directory: &Path) -> Result<(), StorageError> {
    let mut entries = tokio::fs::read_dir(directory).await.map_err(StorageError::io(directory, "list it"))?;
    while let Some(entry) = entries.next_entry().await.map_err(StorageError::io(directory, "list it"))? {
        let name = entry.file_name();
        if ANSWER_FILES.iter().any(|wanted| name.eq_ignore_ascii_case(wanted)) {
            return Ok(());
        }
    }
    Err(StorageError::NoAnswerFile { directory: directory.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::process::Command;

    use super::*;

    /// A directory as the kubelet makes it: links through `..data` to a directory named by time.
    fn kubelet_volume(directory: &Path, files: &[(&str, &str)]) {
        let version = directory.join("..2026_08_01_12_00_00.1");
        std::fs::create_dir_all(&version).unwrap();
        symlink("..2026_08_01_12_00_00.1", directory.join("..data")).unwrap();
        for (name, content) in files {
            std::fs::write(version.join(name), content).unwrap();
            symlink(Path::new("..data").join(name), directory.join(name)).unwrap();
        }
    }

    /// One file of an image, read back through Rock Ridge (`nojoliet`) or Joliet (`norock`).
    fn read_back(image: &Path, tree: &str, name: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let mut command = Command::new("xorriso");
        command.args(["-abort_on", "FAILURE", "-read_fs", tree, "-osirrox", "on", "-indev"]).arg(image);
        let output = command.args(["-extract_single", name]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read_to_string(file).unwrap()
    }

    /// The volume identifier of the primary descriptor: 32 bytes, filled up with blanks.
    fn label(image: &Path) -> String {
        let image = std::fs::read(image).unwrap();
        String::from_utf8_lossy(&image[0x8028..0x8028 + 32]).trim_end().to_owned()
    }

    fn disk(source: ConfigSource, label: &str) -> ConfigDisk {
        ConfigDisk { source, volume: "vol".into(), label: label.into() }
    }

    #[tokio::test]
    async fn every_kind_has_its_place_label_and_content() {
        for (source, given, wanted, image) in [
            (ConfigSource::ConfigMap, "", "cfgdata", "config-map-disks/vol.iso"),
            (ConfigSource::ConfigMap, "mine", "mine", "config-map-disks/vol.iso"),
            (ConfigSource::Secret, "", "cfgdata", "secret-disks/vol.iso"),
            (ConfigSource::DownwardApi, "", "cfgdata", "downwardapi-disks/vol.iso"),
            (ConfigSource::ServiceAccount, "", "cfgdata", "service-account-disk/service-account.iso"),
            (ConfigSource::Sysprep, "", "unattendCD", "sysprep-disks/vol.iso"),
        ] {
            let root = tempfile::tempdir().unwrap();
            let disk = disk(source, given);
            kubelet_volume(&disk.directory(root.path()).unwrap(), &[("Unattend.XML", "answers"), ("a=b\\c", "equal")]);
            make_config_disk(&Tools::default(), &disk, root.path(), Owner::me()).await.unwrap();
            let image = root.path().join("var/run/kubevirt-private").join(image);
            assert_eq!(label(&image), wanted, "{source:?}");
            assert_eq!(read_back(&image, "nojoliet", "/Unattend.XML"), "answers", "{source:?}");
            assert_eq!(read_back(&image, "nojoliet", "/a=b\\c"), "equal", "{source:?}");
            assert_eq!(read_back(&image, "norock", "/Unattend.XML"), "answers", "{source:?}");
            assert_eq!(read_back(&image, "nojoliet", "/..data/Unattend.XML"), "answers", "{source:?}");
            assert_eq!(std::fs::metadata(&image).unwrap().mode() & 0o777, 0o640);
            assert_eq!(std::fs::read_dir(image.parent().unwrap()).unwrap().count(), 1, "nothing else stays");
        }
    }

    #[tokio::test]
    async fn new_attempt_takes_the_new_content() {
        let root = tempfile::tempdir().unwrap();
        let disk = disk(ConfigSource::Secret, "");
        let directory = disk.directory(root.path()).unwrap();
        std::fs::create_dir_all(&directory).unwrap();
        for content in ["old", "new"] {
            std::fs::write(directory.join("key"), content).unwrap();
            make_config_disk(&Tools::default(), &disk, root.path(), Owner::me()).await.unwrap();
        }
        assert_eq!(read_back(&disk.image(root.path()).unwrap(), "nojoliet", "/key"), "new");
    }

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let root = tempfile::tempdir().unwrap();
        let text = make_config_disk(&Tools::default(), &disk(ConfigSource::ConfigMap, ""), root.path(), Owner::me())
            .await
            .unwrap_err()
            .to_string();
        assert!(text.contains("config-map/vol") && text.contains("No such file"), "{text}");
        let sysprep = disk(ConfigSource::Sysprep, "");
        kubelet_volume(&sysprep.directory(root.path()).unwrap(), &[("other.xml", "")]);
        let text =
            make_config_disk(&Tools::default(), &sysprep, root.path(), Owner::me()).await.unwrap_err().to_string();
        assert!(text.contains("sysprep/vol") && text.contains("autounattend.xml"), "{text}");
        // Root reads every file; a link that leads nowhere is closed to it, too.
        let directory = disk(ConfigSource::Secret, "").directory(root.path()).unwrap();
        kubelet_volume(&directory, &[("good", "x")]);
        symlink("..data/gone", directory.join("token")).unwrap();
        let text = make_config_disk(&Tools::default(), &disk(ConfigSource::Secret, ""), root.path(), Owner::me())
            .await
            .unwrap_err()
            .to_string();
        assert!(text.ends_with("secret/vol/token: cannot read it: No such file or directory (os error 2)"), "{text}");
        let escape = ConfigDisk { volume: "../x".into(), ..sysprep };
        assert!(make_config_disk(&Tools::default(), &escape, root.path(), Owner::me()).await.is_err());
    }
}
