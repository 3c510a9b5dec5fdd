//! Cloud-init data of a VMI and its disk (contract/lifecycle.md 9.5).

use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use tracing::debug;

use super::error::wrapped;
use super::hooks::Extensions;
use super::tagged_devices;
use crate::domain::{DomainSpec, SECRETS};
use crate::files::is_component;
use crate::hypervisor::{Hypervisor, XmlKind};
use crate::launcher::error::Error;
use crate::launcher::facts::below;
use crate::launcher::sync::means::Boot;
use crate::launcher::sync::storage_io::storage_io;
use crate::launcher::vm::Vm;
use crate::storage::{
    self, CloudInit, CloudInitSource, ImageKind, MetaData, PublicKeys, Staged, StorageError, volume_component,
};
use crate::vmi::{CloudInitKind, VirtualMachineInstance};

/// Longest host name of a guest.
const HOSTNAME: usize = 63;

impl Boot {
    pub(crate) fn cloud_init_dir(&self) -> PathBuf {
        self.config.ephemeral_disk_dir.join("cloud-init-data")
    }

    /// The data as the hooks want it.
    pub(crate) async fn gather_cloud_init(
        &self,
        vmi: &VirtualMachineInstance,
        extensions: &Extensions<'_>,
    ) -> Result<Option<CloudInit>, Error> {
        let (asked, root) = (vmi.clone(), self.root.clone());
        let data = storage_io("reading the cloud-init data", move || cloud_init(&asked, &root))
            .await?
            .map_err(|why| Error::vmi(format!("ReadCloudInitVolumeDataSource failed: {why}")))?;
        match data {
            Some(data) => extensions.pre_cloud_init_iso(data).await.map(Some),
            None => Ok(None),
        }
    }

    /// Makes the disk but for its name, unless it has to wait for the define, as [`Boot::make_late_cloud_init`] does.
    pub(crate) async fn stage_cloud_init(
        &self,
        vmi: &VirtualMachineInstance,
        data: Option<CloudInit>,
    ) -> Result<Option<Staged>, Error> {
        let tells_devices =
            |data: &CloudInit| data.source == CloudInitSource::ConfigDrive && tagged_devices::has_tags(vmi);
        let (late, data) = if data.as_ref().is_some_and(tells_devices) { (data, None) } else { (None, data) };
        *self.cloud_init.lock().unwrap_or_else(PoisonError::into_inner) = late;
        match data {
            Some(data) => self.staged(vmi, &data).await.map(Some),
            None => Ok(None),
        }
    }

    /// Makes the disk that tells of devices.
    pub(crate) async fn make_late_cloud_init(&self, vm: &Vm, vmi: &VirtualMachineInstance) -> Result<(), Error> {
        let data = self.cloud_init.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(mut data) = data else { return Ok(()) };
        let xml = vm.control.xml(XmlKind::Inactive).await?;
        let domain = DomainSpec::from_xml(&xml).map_err(|error| Error::other(error.to_string()))?;
        let (root, tagged) = (self.root.clone(), vmi.clone());
        data.meta_data.devices =
            storage_io("looking at the VM's devices", move || tagged_devices::tagged_devices(&root, &tagged, &domain))
                .await?;
        self.staged(vmi, &data).await?.publish().await.map_err(failed)
    }

    async fn staged(&self, vmi: &VirtualMachineInstance, data: &CloudInit) -> Result<Staged, Error> {
        let (meta, folder) = (&vmi.metadata, self.cloud_init_dir());
        let kind = if self.runtime.supports_iso() { ImageKind::Iso } else { ImageKind::Fat };
        let name = (meta.namespace.as_str(), meta.name.as_str());
        storage::stage_cloud_init_disk(&self.tools, data, kind, &folder, name, self.owner).await.map_err(failed)
    }
}

/// What is said of a disk that cannot be made.
pub(crate) fn failed(error: StorageError) -> Error {
    wrapped("generating local cloud-init data failed")(error)
}

/// The data of the first cloud-init volume (contract/lifecycle.md 9.5).
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
fn cloud_init(vmi: &VirtualMachineInstance, root: &Path) -> Result<Option<CloudInit>, String> {
    vmi.spec.check_cloud_init_size()?;
    let secrets = below(root, SECRETS);
    let unreadable = RefCell::new(None);
    let secret = |volume: &str, key: &str| {
        let path = secrets.join(volume_component(volume).ok()?).join(key);
        let error = match std::fs::read(&path) {
            Ok(data) => return Some(data),
            Err(error) => error,
        };
        // A key that the secret does not have is there as an empty directory.
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::IsADirectory => debug!("cloud-init: {}: {error}", path.display()),
            _ => {
                let index = vmi.spec.volumes.iter().position(|known| known.name == volume).unwrap_or_default();
                let why = format!("spec.volumes[{index}] ({volume}): {} cannot be read: {error}", path.display());
                unreadable.borrow_mut().get_or_insert(why);
            }
        }
        None
    };
    let data = vmi.spec.cloud_init_data(&secret);
    // What is there and cannot be read is not what the VMI says where there is none.
    if let Some(why) = unreadable.take() {
        return Err(why);
    }
    let Some(data) = data? else { return Ok(None) };
    let source = match data.kind {
        CloudInitKind::NoCloud => CloudInitSource::NoCloud,
        CloudInitKind::ConfigDrive => CloudInitSource::ConfigDrive,
    };
    let meta = &vmi.metadata;
    let uuid = vmi.spec.domain.firmware.as_ref().map(|firmware| firmware.uuid.clone());
    let first_label = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let hostname = if vmi.spec.hostname.is_empty() { first_label(&meta.name) } else { vmi.spec.hostname.clone() };
    let hostname: String = hostname.chars().take(HOSTNAME).collect();
    let instance_id = match source {
        CloudInitSource::NoCloud => uuid.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
        CloudInitSource::ConfigDrive => format!("{}.{}", meta.name, meta.namespace),
    };
    let instance_type = ["kubevirt.io/cluster-instancetype-name", "kubevirt.io/instancetype-name"]
        .into_iter()
        .find_map(|name| vmi.annotation(name))
        .unwrap_or_default();
    Ok(Some(CloudInit {
        source,
        volume: data.volume,
        meta_data: MetaData {
            instance_type: instance_type.to_owned(),
            instance_id,
            hostname,
            uuid: uuid.unwrap_or_default(),
            devices: Vec::new(),
            public_keys: public_keys(vmi, source, &secrets)?,
        },
        user_data: data.user_data,
        network_data: data.network_data,
    }))
}

/// SSH keys that reach the guest through this source, numbered across secrets. One that is not text is left out.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
fn public_keys(vmi: &VirtualMachineInstance, source: CloudInitSource, secrets: &Path) -> Result<PublicKeys, String> {
    let mut keys = PublicKeys::new();
    for (index, credential) in vmi.spec.access_credentials.iter().enumerate() {
        let Some(credential) = credential.ssh_public_key.as_ref() else { continue };
        let method = &credential.propagation_method;
        let wanted = match source {
            CloudInitSource::NoCloud => method.no_cloud.is_some(),
            CloudInitSource::ConfigDrive => method.config_drive.is_some(),
        };
        let Some(secret) = credential.source.secret.as_ref().filter(|_| wanted) else { continue };
        let name = format!("{}-access-cred", secret.secret_name);
        let Some(folder) = is_component(&name).then(|| secrets.join(name)) else { continue };
        let unreadable = |path: &Path, error: &std::io::Error| {
            format!("spec.accessCredentials[{index}].sshPublicKey: {} cannot be read: {error}", path.display())
        };
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(&folder, &error)),
        };
        let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        files.sort();
        let named = |path: &Path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with(".."));
        for file in files.iter().filter(|path| path.is_file() && named(path)) {
            let key = std::fs::read(file).map_err(|error| unreadable(file, &error))?;
            keys.extend(String::from_utf8(key).ok().map(|key| (keys.len().to_string(), key)));
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmi;

    fn vmi(volume: &str) -> VirtualMachineInstance {
        let text = format!(
            r#"{{"metadata":{{"name":"vm.sub","namespace":"ns"}},"spec":{{"volumes":[{{"name":"seed",{volume}}}],
            "domain":{{"firmware":{{"uuid":"u-1"}}}}}}}}"#
        );
        vmi::parse(text.as_bytes()).unwrap()
    }

    fn read(vmi: &VirtualMachineInstance) -> Result<Option<CloudInit>, String> {
        cloud_init(vmi, Path::new("/nonexistent"))
    }

    #[test]
    fn cloud_init_data_is_decoded_and_named() {
        let data = read(&vmi(r#""cloudInitNoCloud":{"userDataBase64":"aGk="}"#)).unwrap().unwrap();
        assert_eq!((data.user_data.as_slice(), data.meta_data.hostname.as_str()), (b"hi".as_slice(), "vm"));
        assert_eq!(data.meta_data.instance_id, "u-1");
        let data = read(&vmi(r#""cloudInitConfigDrive":{"userData":"x"}"#)).unwrap().unwrap();
        assert_eq!(data.meta_data.instance_id, "vm.sub.ns");
        assert_eq!(read(&vmi(r#""emptyDisk":{"capacity":"1Mi"}"#)).unwrap(), None);
    }

    /// Root reads every file, but not itself in place of a folder.
    #[test]
    fn what_is_there_and_cannot_be_read_is_named() {
        let root = tempfile::tempdir().unwrap();
        let secrets = below(root.path(), SECRETS);
        std::fs::create_dir_all(&secrets).unwrap();
        std::fs::write(secrets.join("seed"), "a file in the folder's place").unwrap();
        let said = cloud_init(&vmi(r#""cloudInitNoCloud":{"secretRef":{"name":"s"},"userData":"x"}"#), root.path());
        let said = said.unwrap_err();
        assert!(said.starts_with("spec.volumes[0] (seed): ") && said.contains("secret/seed/user"), "{said}");
        assert!(said.contains("cannot be read: Not a directory"), "{said}");

        let mut vmi = vmi(r#""cloudInitNoCloud":{"userData":"x"}"#);
        vmi.spec.access_credentials = serde_json::from_str(
            r#"[{"sshPublicKey":{"source":{"secret":{"secretName":"k"}},"propagationMethod":{"noCloud":{}}}}]"#,
        )
        .unwrap();
        assert_eq!(cloud_init(&vmi, root.path()).unwrap().unwrap().meta_data.public_keys.len(), 0, "not there yet");
        std::fs::write(secrets.join("k-access-cred"), "a file in the folder's place").unwrap();
        let said = cloud_init(&vmi, root.path()).unwrap_err();
        assert!(said.starts_with("spec.accessCredentials[0].sshPublicKey: "), "{said}");
        assert!(said.contains("k-access-cred cannot be read: Not a directory"), "{said}");
    }

    #[test]
    fn secrets_name_leads_nowhere_else() {
        let root = tempfile::tempdir().unwrap();
        let secrets = below(root.path(), SECRETS);
        for folder in ["mine-access-cred", "../elsewhere-access-cred"] {
            std::fs::create_dir_all(secrets.join(folder)).unwrap();
            std::fs::write(secrets.join(folder).join("key"), folder).unwrap();
        }
        let key = |secret: &str| {
            format!(
                r#"{{"sshPublicKey":{{"source":{{"secret":{{"secretName":"{secret}"}}}},"propagationMethod":{{"noCloud":{{}}}}}}}}"#
            )
        };
        let mut vmi = vmi(r#""cloudInitNoCloud":{"userData":"x"}"#);
        vmi.spec.access_credentials =
            serde_json::from_str(&format!("[{}, {}]", key("../elsewhere"), key("mine"))).unwrap();
        let data = cloud_init(&vmi, root.path()).unwrap().unwrap();
        assert_eq!(data.meta_data.public_keys.into_values().collect::<Vec<_>>(), ["mine-access-cred"]);
    }
}
