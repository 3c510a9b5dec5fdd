//! What has to be on disk before a domain is defined (contract/cmd-server.md 5.4).

use std::path::{Path, PathBuf};

use tokio::task::JoinSet;

use super::error::wrapped;
use crate::convert::HostFacts;
use crate::domain::VMI_DISKS;
use crate::launcher::error::Error;
use crate::launcher::facts::below;
use crate::storage::{self, ConfigDisk, ConfigSource, Owner, StorageError, Tools};
use crate::vmi::{VirtualMachineInstance, Volume};

/// Where empty disks are made, below the root.
const EMPTY_DISKS: &str = "var/run/libvirt/empty-disks";
/// The disk with the host's metrics, below the root.
const METRICS_DISK: &str = "var/run/kubevirt-private/downwardapi-disks/vhostmd0";

/// Where a VMI's disks are, and the means to make them.
pub(crate) struct Disks<'a> {
    /// The image's tools.
    pub(crate) tools: &'a Tools,
    /// Whether the hypervisor follows backing files.
    pub(crate) backing_chains: bool,
    /// Owner of everything the hypervisor opens.
    pub(crate) owner: Owner,
    /// The file system that holds the pod's directories.
    pub(crate) root: &'a Path,
    /// `--ephemeral-disk-dir`.
    pub(crate) ephemeral_disk_dir: &'a Path,
    /// `--container-disk-dir`.
    pub(crate) container_disk_dir: &'a Path,
}

impl Disks<'_> {
    /// The image of the container disk that is number `index` of the volumes.
    pub(crate) fn container_disk(&self, index: usize) -> PathBuf {
        self.container_disk_dir.join(format!("disk_{index}.img"))
    }

    /// Makes everything that has to be there before the define, in the contract's order. Overlays and empty disks that
    /// exist are kept; disks with the cluster's data are made anew at every attempt.
    pub(crate) async fn prepare(&self, vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<(), Error> {
        self.ignition(vmi).await?;
        for (index, volume) in vmi.spec.volumes.iter().enumerate() {
            self.volume(index, volume, facts).await?;
        }
        self.config_disks(vmi).await?;
        if vmi.spec.volumes.iter().any(|volume| volume.downward_metrics.is_some()) {
            storage::make_metrics_disk(&self.root.join(METRICS_DISK))
                .await
                // Spelled so by the original (contract/cmd-server.md 5.3).
                .map_err(wrapped("failed to craete downwardMetric disk"))?;
        }
        Ok(())
    }

    /// All at once, since xorrisofs sleeps most of its time; the first one's failure is the one to report.
    async fn config_disks(&self, vmi: &VirtualMachineInstance) -> Result<(), Error> {
        let mut making = JoinSet::new();
        for (index, disk) in config_disks(vmi).into_iter().enumerate() {
            let (tools, root, owner) = (self.tools.clone(), self.root.to_owned(), self.owner);
            let place = vmi.spec.volumes.iter().position(|volume| volume.name == disk.volume).unwrap_or_default();
            making.spawn(async move {
                let made = storage::make_config_disk(&tools, &disk, &root, owner).await;
                let context = format!("{}: spec.volumes[{place}] ({})", disk.source.failure(), disk.volume);
                (index, made.map_err(|error| Error::storage(format!("{context}: {error}"))))
            });
        }
        let mut made = making.join_all().await;
        made.sort_by_key(|(index, _)| *index);
        made.into_iter().try_for_each(|(_, made)| made)
    }

    async fn ignition(&self, vmi: &VirtualMachineInstance) -> Result<(), Error> {
        let Some(ignition) = vmi.annotation("kubevirt.io/ignitiondata") else { return Ok(()) };
        let meta = &vmi.metadata;
        let component = |name| storage::volume_component(name).map_err(wrapped("PrepareLocalPath failed"));
        let folder = self.ephemeral_disk_dir.join("ignition-data");
        let folder = folder.join(component(&meta.namespace)?).join(component(&meta.name)?);
        storage::write_file(&folder.join("data.ign"), ignition.as_bytes(), 0o644)
            .await
            .map_err(wrapped("PrepareLocalPath failed"))
    }

    /// The guest's own image over or of one that stays as it is.
    async fn make_writable(&self, image: &Path, from: &Path, format: &str, volume: &str) -> Result<(), StorageError> {
        match self.backing_chains {
            true => storage::create_overlay(self.tools, image, from, format, self.owner).await,
            false => storage::copy_image(self.tools, image, from, format, volume, self.owner).await,
        }
    }

    async fn volume(&self, index: usize, volume: &Volume, facts: &HostFacts) -> Result<(), Error> {
        let name = storage::volume_component(&volume.name).map_err(|error| Error::vmi(error.to_string()))?;
        let overlay = self.ephemeral_disk_dir.join("disk-data").join(name).join("disk.qcow2");
        if volume.container_disk.is_some() {
            let format = facts.container_disks.get(name).map(|info| info.format.clone()).unwrap_or_default();
            self.make_writable(&overlay, &self.container_disk(index), &format, name)
                .await
                .map_err(wrapped("preparing ephemeral container disk images failed"))?;
        } else if volume.ephemeral.is_some() {
            let backing = match facts.block_volumes.iter().any(|block| block == name) {
                true => self.root.join("dev").join(name),
                false => below(self.root, VMI_DISKS).join(name).join("disk.img"),
            };
            self.make_writable(&overlay, &backing, "raw", name)
                .await
                .map_err(wrapped("preparing ephemeral images failed"))?;
        } else if let Some(empty) = &volume.empty_disk {
            let path = self.root.join(EMPTY_DISKS).join(format!("{name}.qcow2"));
            let bytes = u64::try_from(empty.capacity.value()).unwrap_or_default();
            storage::create_empty_disk(self.tools, &path, name, bytes, self.owner)
                .await
                .map_err(wrapped("creating empty disks failed"))?;
        }
        Ok(())
    }
}

/// The config disks of a VMI, kind by kind: those that a disk refers to, and every Sysprep volume with a source. A
/// volume may instead be a file system of the guest; then it needs no disk.
fn config_disks(vmi: &VirtualMachineInstance) -> Vec<ConfigDisk> {
    let used = |volume: &Volume| vmi.spec.domain.devices.disks.iter().any(|disk| disk.name == volume.name);
    let label = |volume: &Volume, source| {
        let with_label = |volume: &crate::vmi::ConfigVolume| volume.volume_label.clone();
        match source {
            ConfigSource::ConfigMap => volume.config_map.as_ref().map(with_label),
            ConfigSource::Secret => volume.secret.as_ref().map(with_label),
            ConfigSource::DownwardApi => volume.downward_api.as_ref().map(with_label),
            ConfigSource::ServiceAccount => volume.service_account.as_ref().map(|_| String::new()),
            ConfigSource::Sysprep => {
                let sysprep = volume.sysprep.as_ref();
                sysprep.filter(|found| found.config_map.is_some() || found.secret.is_some()).map(|_| String::new())
            }
        }
    };
    let mut disks: Vec<ConfigDisk> = Vec::new();
    for source in ConfigSource::ALL {
        for volume in vmi.spec.volumes.iter().filter(|volume| source == ConfigSource::Sysprep || used(volume)) {
            let once = source == ConfigSource::ServiceAccount && disks.iter().any(|disk| disk.source == source);
            if let Some(label) = label(volume, source).filter(|_| !once) {
                disks.push(ConfigDisk { source, volume: volume.name.clone(), label });
            }
        }
    }
    disks
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::vmi;

    fn vmi(disks: &str, volumes: &str) -> VirtualMachineInstance {
        let disks: Vec<String> = disks.split_whitespace().map(|name| format!(r#"{{"name":"{name}"}}"#)).collect();
        let text = format!(
            r#"{{"metadata":{{"name":"vm","namespace":"ns","annotations":{{"kubevirt.io/ignitiondata":"ignition!"}}}},
            "spec":{{"volumes":[{volumes}],"domain":{{"devices":{{"disks":[{}]}}}}}}}}"#,
            disks.join(",")
        );
        vmi::parse(text.as_bytes()).unwrap()
    }

    async fn prepare(root: &Path, vmi: &VirtualMachineInstance) -> Result<(), String> {
        let owner = std::fs::metadata(root).map(|found| Owner { uid: found.uid(), gid: found.gid() }).unwrap();
        let (ephemeral, container) = (root.join("eph"), root.join("containers"));
        let disks = Disks {
            tools: &Tools::default(),
            backing_chains: true,
            owner,
            root,
            ephemeral_disk_dir: &ephemeral,
            container_disk_dir: &container,
        };
        disks.prepare(vmi, &HostFacts::default()).await.map_err(|failure| format!("{failure:?}"))
    }

    const VOLUMES: &str = r#"{"name":"cm","configMap":{"name":"x","volumeLabel":"mine"}},{"name":"unused","secret":{}},
        {"name":"sa","serviceAccount":{}},{"name":"sa2","serviceAccount":{}},{"name":"bare","sysprep":{}},
        {"name":"win","sysprep":{"configMap":{"name":"y"}}},{"name":"m","downwardMetrics":{}}"#;

    #[test]
    fn config_disks_are_those_that_a_disk_uses() {
        let found = config_disks(&vmi("cm sa sa2", VOLUMES));
        let found: Vec<(&str, &str)> = found.iter().map(|disk| (disk.volume.as_str(), disk.label.as_str())).collect();
        assert_eq!(found, [("cm", "mine"), ("win", ""), ("sa", "")]);
    }

    #[tokio::test]
    async fn every_path_that_the_domain_names_is_made() {
        let root = tempfile::tempdir().unwrap();
        let private = root.path().join("var/run/kubevirt-private");
        for folder in ["config-map/cm", "sysprep/win"] {
            std::fs::create_dir_all(private.join(folder)).unwrap();
            std::fs::write(private.join(folder).join("unattend.xml"), "x").unwrap();
        }
        std::fs::create_dir_all(root.path().join("var/run/secrets/kubernetes.io/serviceaccount")).unwrap();
        prepare(root.path(), &vmi("cm sa m", VOLUMES)).await.unwrap();
        for made in [
            "config-map-disks/cm.iso",
            "sysprep-disks/win.iso",
            "service-account-disk/service-account.iso",
            "downwardapi-disks/vhostmd0",
        ] {
            assert!(private.join(made).is_file(), "{made}");
        }
        let ignition = root.path().join("eph/ignition-data/ns/vm/data.ign");
        assert_eq!(std::fs::read_to_string(ignition).unwrap(), "ignition!");
        assert!(!private.join("secret-disks").exists());
    }

    #[tokio::test]
    async fn failure_says_for_which_kind() {
        let root = tempfile::tempdir().unwrap();
        let text = prepare(root.path(), &vmi("s", r#"{"name":"s","secret":{}}"#)).await.unwrap_err();
        assert!(text.contains("creating secret disks failed: spec.volumes[0] (s): "), "{text}");
        assert!(text.contains("secret/s"), "{text}");
    }
}
