//! `VirtualMachineOptions` from the wire.

use crate::proto::cmd_v1::VirtualMachineOptions;

/// What the node knows and the VMI does not say.
// Stands in until `convert` has its type.
pub type SyncOptions = VirtualMachineOptions;

/// Options that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// `pluginsJson` is not an array of plugins.
    #[error("failed to deserialize plugins from options: {0}")]
    Plugins(serde_json::Error),
}

/// The plugins of `options`; none if the field is empty.
pub(super) fn plugins(json: &[u8]) -> Result<Vec<serde_json::Value>, OptionsError> {
    if json.is_empty() {
        return Ok(Vec::new());
    }
    let plugins: Option<Vec<serde_json::Value>> = serde_json::from_slice(json).map_err(OptionsError::Plugins)?;
    Ok(plugins.unwrap_or_default())
}
