//! The VMI in a request.

use tracing::warn;

use super::Failure;
use crate::proto::cmd_v1;

/// The VMI as the caller sent it.
// Stands in until `vmi` has its types.
#[derive(Debug, Clone)]
pub struct Vmi(pub serde_json::Value);

/// Reads the VMI of a request. The reply's text is fixed (contract/cmd-server.md 3.1); what is wrong goes to the log.
pub(super) fn vmi(rpc: &'static str, message: Option<cmd_v1::Vmi>) -> Result<Vmi, Failure> {
    let Some(cmd_v1::Vmi { vmi_json }) = message else {
        warn!("{rpc}: the request has no vmi");
        return Err(Failure::NoVmi);
    };
    match serde_json::from_slice(&vmi_json) {
        Ok(value @ serde_json::Value::Object(_)) => Ok(Vmi(value)),
        Ok(_) => Err(Failure::NoVmi),
        Err(error) => {
            warn!("{rpc}: the vmi of the request cannot be read: {error}");
            Err(Failure::NoVmi)
        }
    }
}

/// The pod that a migration of `vmi` goes to, if there is a migration with a target.
pub(super) fn target_pod(vmi: &Vmi) -> Option<String> {
    let pod = vmi.0.get("status")?.get("migrationState")?.get("targetPod")?.as_str()?;
    (!pod.is_empty()).then(|| pod.to_owned())
}
