//! Migration (contract/cmd-server.md 6): this launcher does not send a VM. Whether it can receive one the driver decides.

use tracing::info;

use super::failure::response;
use super::{Failure, decode};
use crate::proto::cmd_v1::{MigrationRequest, Response, VmiRequest};

/// `MigrateVirtualMachine`.
pub(super) fn migrate(request: MigrationRequest) -> Response {
    const RPC: &str = "MigrateVirtualMachine";
    let why = format!("not implemented yet: {RPC}: this launcher cannot migrate a virtual machine to another node yet");
    response(decode::vmi(RPC, request.vmi).and_then(|_| Err(Failure::text(why))))
}

/// `CancelVirtualMachineMigration`: as with the original a success, there is no migration to cancel.
pub(super) fn cancel(request: VmiRequest) -> Response {
    const RPC: &str = "CancelVirtualMachineMigration";
    let known = decode::vmi(RPC, request.vmi);
    response(known.map(|_| info!("{RPC}: there is no migration to cancel")))
}

/// `FinalizeVirtualMachineMigration`: as with the original a success where nothing is to be done. Interfaces that need a
/// new link after a migration cannot be there: no VM came here by one.
pub(super) fn finalize(request: VmiRequest) -> Response {
    const RPC: &str = "FinalizeVirtualMachineMigration";
    let refresh = request.options.iter().flat_map(|options| &options.interface_migration);
    let refresh = refresh.filter(|(_, migration)| migration.method == "link-refresh").map(|(name, _)| name.as_str());
    let refresh: Vec<&str> = refresh.collect();
    let outcome = decode::vmi(RPC, request.vmi).and_then(|_| match refresh.as_slice() {
        [] => Ok(()),
        names => Err(Failure::text(format!(
            "no migration brought this virtual machine here: its links are not refreshed: {}",
            names.join(", ")
        ))),
    });
    response(outcome)
}
