//! Gathers the cloud-init data of a VMI (contract/lifecycle.md 9.5).

use std::path::{Path, PathBuf};

use base64::Engine;

use crate::storage::{CloudInit, CloudInitSource, MetaData, PublicKeys};
use crate::vmi::{self, VirtualMachineInstance};

/// Where the kubelet puts a VMI's secrets, below the root.
const SECRETS: &str = "var/run/kubevirt-private/secret";
/// Longest host name of a guest.
const HOSTNAME: usize = 63;

/// The data of the first cloud-init volume (contract/lifecycle.md 9.5).
pub(super) fn cloud_init(vmi: &VirtualMachineInstance, root: &Path) -> Result<Option<CloudInit>, String> {
    let secrets = root.join(SECRETS);
    let found = vmi.spec.volumes.iter().find_map(|volume| {
        let no_cloud = volume.cloud_init_no_cloud.as_ref().map(|data| (CloudInitSource::NoCloud, data));
        let drive = || volume.cloud_init_config_drive.as_ref().map(|data| (CloudInitSource::ConfigDrive, data));
        no_cloud.or_else(drive).map(|(source, data)| (volume, source, data))
    });
    let Some((volume, source, data)) = found else { return Ok(None) };
    let secret = |reference: &Option<vmi::LocalObjectReference>, names: [&str; 2]| {
        reference.as_ref().map(|_| {
            names
                .iter()
                .map(|name| secrets.join(&volume.name).join(name))
                .find_map(|path| std::fs::read_to_string(path).ok())
                .ok_or_else(|| format!("secret of volume {} has neither {} nor {}", volume.name, names[0], names[1]))
        })
    };
    let resolve = |from_secret: Option<Result<String, String>>, raw: &str, encoded: &str, field: &str| match from_secret
    {
        Some(found) => found,
        None if !raw.is_empty() => Ok(raw.to_owned()),
        None if !encoded.is_empty() => base64::engine::general_purpose::STANDARD
            .decode(encoded.trim())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(|error| format!("volume {}: {field}: {error}", volume.name)),
        None => Ok(String::new()),
    };
    let user = secret(&data.secret_ref, ["userdata", "userData"]);
    let network = secret(&data.network_data_secret_ref, ["networkdata", "networkData"]);
    let user_data = resolve(user, &data.user_data, &data.user_data_base64, "userDataBase64")?;
    let network_data = resolve(network, &data.network_data, &data.network_data_base64, "networkDataBase64")?;
    if user_data.is_empty() && network_data.is_empty() {
        return Err(format!("volume {} has neither user data nor network data", volume.name));
    }
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
        volume: volume.name.clone(),
        meta_data: MetaData {
            instance_type: instance_type.to_owned(),
            instance_id,
            hostname,
            uuid: uuid.unwrap_or_default(),
            public_keys: public_keys(vmi, source, &secrets),
        },
        user_data,
        network_data,
    }))
}

/// SSH keys that reach the guest through this source, numbered across secrets.
fn public_keys(vmi: &VirtualMachineInstance, source: CloudInitSource, secrets: &Path) -> PublicKeys {
    let mut keys = PublicKeys::new();
    for credential in vmi.spec.access_credentials.iter().filter_map(|credential| credential.ssh_public_key.as_ref()) {
        let method = &credential.propagation_method;
        let wanted = match source {
            CloudInitSource::NoCloud => method.no_cloud.is_some(),
            CloudInitSource::ConfigDrive => method.config_drive.is_some(),
        };
        let Some(secret) = credential.source.secret.as_ref().filter(|_| wanted) else { continue };
        let folder = secrets.join(format!("{}-access-cred", secret.secret_name));
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let mut files: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        files.sort();
        let named = |path: &Path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with(".."));
        for file in files.iter().filter(|path| path.is_file() && named(path)) {
            if let Ok(key) = std::fs::read_to_string(file) {
                keys.insert(keys.len().to_string(), key);
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!((data.user_data.as_str(), data.meta_data.hostname.as_str()), ("hi", "vm"));
        assert_eq!(data.meta_data.instance_id, "u-1");
        let data = read(&vmi(r#""cloudInitConfigDrive":{"userData":"x"}"#)).unwrap().unwrap();
        assert_eq!(data.meta_data.instance_id, "vm.sub.ns");
        assert_eq!(read(&vmi(r#""emptyDisk":{"capacity":"1Mi"}"#)).unwrap(), None);
    }

    #[test]
    fn cloud_init_errors_name_volume_and_field() {
        let error = read(&vmi(r#""cloudInitNoCloud":{"userDataBase64":"?"}"#)).unwrap_err();
        assert!(error.contains("seed") && error.contains("userDataBase64"), "{error}");
        let error = read(&vmi(r#""cloudInitNoCloud":{}"#)).unwrap_err();
        assert!(error.contains("neither user data nor network data"), "{error}");
    }
}
