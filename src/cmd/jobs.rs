//! Calls that set off work on the VM beside its life cycle: memory dump, launch secret (contract/cmd-server.md 4.2, 7).

use serde::Deserialize;

use super::failure::response;
use super::{Action, Driver, Failure, decode};
use crate::proto::cmd_v1::{InjectLaunchSecretRequest, MemoryDumpRequest, Response};
use crate::vmi::strict::reads_only_maps;

/// `VirtualMachineMemoryDump`.
pub(super) async fn memory_dump(driver: &dyn Driver, request: MemoryDumpRequest) -> Response {
    let MemoryDumpRequest { vmi, dump_path } = request;
    match decode::vmi("VirtualMachineMemoryDump", vmi) {
        Ok(_) => response(driver.perform(Action::MemoryDump { path: dump_path }).await),
        Err(failure) => response(Err(failure)),
    }
}

/// `options` of InjectLaunchSecret.
#[derive(Deserialize, Default)]
#[serde(default, remote = "Self", expecting = "a map")]
struct SecretOptions {
    header: String,
    secret: String,
}
reads_only_maps!(SecretOptions);

/// `InjectLaunchSecret`.
pub(super) async fn inject_launch_secret(driver: &dyn Driver, request: InjectLaunchSecretRequest) -> Response {
    match secret(request) {
        Ok(action) => response(driver.perform(action).await),
        Err(failure) => response(Err(failure)),
    }
}

fn secret(request: InjectLaunchSecretRequest) -> Result<Action, Failure> {
    const RPC: &str = "InjectLaunchSecret";
    decode::vmi(RPC, request.vmi)?;
    // null is what an empty document looks like where the options are a pointer.
    let options: Option<SecretOptions> = serde_json::from_slice(&request.options).map_err(|error| {
        // The text around the error is the secret's: only the place is reported.
        tracing::warn!("{RPC}: the options cannot be read: line {} column {}", error.line(), error.column());
        Failure::text("No valid secret options present in command server request")
    })?;
    let SecretOptions { header, secret } = options.unwrap_or_default();
    if header.is_empty() {
        return Err(Failure::text("Header is required"));
    }
    if secret.is_empty() {
        return Err(Failure::text("Secret is required"));
    }
    Ok(Action::InjectLaunchSecret { header, secret })
}
