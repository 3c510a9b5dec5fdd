//! Whether the VMI's cloud-init volume has data: without it nothing is defined (contract/domain-xml-qemu.md 15).

use super::context::Context;
use super::error::ConvertError;

/// Fails for a first cloud-init volume that has neither user nor network data, secrets included, or bad base64.
pub(super) fn check(context: &Context<'_>) -> Result<(), ConvertError> {
    let files = &context.facts.volume_files;
    let secret = |volume: &str, key: &str| {
        let keys = files.get(&format!("secret/{volume}"))?;
        // The facts know that the key is there, and conversion needs no more.
        keys.iter().any(|known| known == key).then(|| b"present".to_vec())
    };
    match context.vmi.spec.cloud_init_data(&secret) {
        Ok(_) => Ok(()),
        Err(why) => {
            let volumes = &context.vmi.spec.volumes;
            let index = volumes
                .iter()
                .position(|volume| volume.cloud_init_no_cloud.is_some() || volume.cloud_init_config_drive.is_some());
            let path = format!("spec.volumes[{}]", index.unwrap_or_default());
            Err(ConvertError::at(path, format!("ReadCloudInitVolumeDataSource failed: {why}")))
        }
    }
}
