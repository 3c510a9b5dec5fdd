//! The VMI in a request.

use tracing::warn;

use super::Failure;
use crate::proto::cmd_v1;
use crate::vmi::{self, ParseError, VirtualMachineInstance};

/// Reads the VMI of a request. The reply to what is not a VMI at all is fixed (contract/cmd-server.md 3.1) and its cause
/// goes to the log; that to a VMI with an unreadable field begins with the same words and names the field.
pub(super) fn vmi(rpc: &'static str, message: Option<cmd_v1::Vmi>) -> Result<VirtualMachineInstance, Failure> {
    let Some(cmd_v1::Vmi { vmi_json }) = message else {
        warn!("{rpc}: the request has no vmi");
        return Err(Failure::NoVmi);
    };
    vmi::parse(&vmi_json).map_err(|error| {
        warn!("{rpc}: the vmi of the request cannot be read: {error}");
        match error {
            ParseError::Syntax(_) => Failure::NoVmi,
            ParseError::Field { .. } => Failure::VmiField(error.to_string()),
        }
    })
}

/// The pod that a migration of `vmi` goes to, if there is a migration with a target.
pub(super) fn target_pod(vmi: VirtualMachineInstance) -> Option<String> {
    vmi.status.migration_state.map(|migration| migration.target_pod).filter(|pod| !pod.is_empty())
}
