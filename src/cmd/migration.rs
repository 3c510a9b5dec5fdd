//! Migration (contract/cmd-server.md 6, contract/migration.md 4).

use super::failure::response;
use super::{Action, Driver, Failure, decode};
use crate::proto::cmd_v1::{MigrationRequest, Response, VmiRequest};

/// `MigrateVirtualMachine`.
pub(super) async fn migrate(driver: &dyn Driver, request: MigrationRequest) -> Response {
    let MigrationRequest { vmi, options } = request;
    response(
        async {
            let vmi = decode::vmi("MigrateVirtualMachine", vmi)?;
            if options.is_empty() {
                return Err(Failure::text("migration options object not present in command server request"));
            }
            driver.perform(Action::Migrate(Box::new(super::MigrateRequest { vmi, options }))).await
        }
        .await,
    )
}

/// `CancelVirtualMachineMigration`: succeeds whatever comes of it.
pub(super) async fn cancel(driver: &dyn Driver, request: VmiRequest) -> Response {
    match decode::vmi("CancelVirtualMachineMigration", request.vmi) {
        Ok(_) => response(driver.perform(Action::CancelMigration).await),
        Err(failure) => response(Err(failure)),
    }
}

/// `FinalizeVirtualMachineMigration`. Interfaces whose binding asks for it get a new link.
pub(super) async fn finalize(driver: &dyn Driver, request: VmiRequest) -> Response {
    let VmiRequest { vmi, options } = request;
    let asked = options.into_iter().flat_map(|options| options.interface_migration);
    let refresh = asked.filter(|(_, migration)| migration.method == "link-refresh").map(|(name, _)| name).collect();
    match decode::vmi("FinalizeVirtualMachineMigration", vmi) {
        Ok(_) => response(driver.perform(Action::FinalizeMigration { refresh }).await),
        Err(failure) => response(Err(failure)),
    }
}
