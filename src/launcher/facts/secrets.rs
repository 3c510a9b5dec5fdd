//! Which keys the secrets of cloud-init volumes have. Their content is read where the disk is made, and nowhere else.

use std::collections::BTreeMap;
use std::path::Path;

use super::files::below;
use crate::domain::SECRETS;
use crate::storage::volume_component;
use crate::vmi::{CLOUD_INIT_KEYS, VirtualMachineInstance};

/// Keys by `secret/VOLUME`, as conversion looks them up. A key that is missing in the secret is there as an empty
/// directory, which does not count.
pub fn cloud_init_secrets(root: &Path, vmi: &VirtualMachineInstance) -> BTreeMap<String, Vec<String>> {
    let folder = below(root, SECRETS);
    let sources = vmi.spec.volumes.iter().filter(|volume| {
        let source = volume.cloud_init_no_cloud.as_ref().or(volume.cloud_init_config_drive.as_ref());
        source.is_some_and(|source| source.secret_ref.is_some() || source.network_data_secret_ref.is_some())
    });
    let is_there = |volume: &str, key: &str| {
        let found = std::fs::metadata(folder.join(volume).join(key));
        found.is_ok_and(|found| found.is_file() && found.len() > 0)
    };
    sources
        .filter_map(|volume| volume_component(&volume.name).ok())
        .map(|volume| {
            let keys = CLOUD_INIT_KEYS.into_iter().filter(|key| is_there(volume, key));
            (format!("secret/{volume}"), keys.map(str::to_owned).collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_files_with_content_count() {
        let root = tempfile::tempdir().unwrap();
        let secret = root.path().join("var/run/kubevirt-private/secret/seed");
        std::fs::create_dir_all(secret.join("networkdata")).unwrap();
        std::fs::write(secret.join("userdata"), "").unwrap();
        std::fs::write(secret.join("userData"), "#cloud-config").unwrap();
        let vmi = crate::vmi::parse(
            br#"{"spec":{"domain":{},"volumes":[{"name":"seed","cloudInitNoCloud":{"secretRef":{"name":"s"}}},
                {"name":"inline","cloudInitNoCloud":{"userData":"x"}},
                {"name":"../..","cloudInitNoCloud":{"secretRef":{"name":"s"}}}]}}"#,
        );
        let found = cloud_init_secrets(root.path(), &vmi.unwrap());
        assert_eq!(found, BTreeMap::from([("secret/seed".to_owned(), vec!["userData".to_owned()])]));
    }
}
