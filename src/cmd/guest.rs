//! Calls into the guest through its agent; their failures are gRPC errors (contract/cmd-server.md 3.2, 8).

use tonic::Status;

use super::Failure;
use super::failure::status;
use crate::proto::cmd_v1::{ExecResponse, GuestPingResponse, VmStatsResponse};

/// `Exec`.
pub(super) fn exec() -> Result<ExecResponse, Status> {
    Err(status(&Failure::NotImplemented("Exec")))
}

/// `GuestPing`.
pub(super) fn ping() -> Result<GuestPingResponse, Status> {
    Err(status(&Failure::NotImplemented("GuestPing")))
}

/// `GetVMStats`.
pub(super) fn vm_stats() -> Result<VmStatsResponse, Status> {
    Err(status(&Failure::NotImplemented("GetVMStats")))
}
