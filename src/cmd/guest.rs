//! Calls into the guest through its agent; their failures are gRPC errors (contract/cmd-server.md 3.2, 8).

use tonic::Status;

use super::failure::{response, status};
use super::{Driver, GuestCommand, GuestOutput};
use crate::proto::cmd_v1::{ExecRequest, ExecResponse, GuestPingRequest, GuestPingResponse};

/// `Exec`: a command that ends with a code is a success, whatever the code.
pub(super) async fn exec(driver: &dyn Driver, request: ExecRequest) -> Result<ExecResponse, Status> {
    let ExecRequest { domain_name, command, args, timeout_seconds } = request;
    let command = GuestCommand { domain: domain_name, path: command, arguments: args, timeout_seconds };
    let GuestOutput { exit_code, stdout } = driver.exec(command).await.map_err(|failure| status(&failure))?;
    Ok(ExecResponse { response: Some(response(Ok(()))), exit_code, std_out: stdout })
}

/// `GuestPing`.
pub(super) async fn ping(driver: &dyn Driver, request: GuestPingRequest) -> Result<GuestPingResponse, Status> {
    // libvirt's own time limit counts.
    let GuestPingRequest { domain_name, timeout_seconds: _ } = request;
    driver.guest_ping(domain_name).await.map_err(|failure| status(&failure))?;
    Ok(GuestPingResponse { response: Some(response(Ok(()))) })
}
