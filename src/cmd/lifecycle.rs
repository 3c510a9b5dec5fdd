//! Calls that start, stop and steer the VM (contract/cmd-server.md 4.1, 5).

use super::failure::response;
use super::options::{Options, OptionsError};
use super::{Action, Driver, Failure, SyncRequest, decode};
use crate::proto::cmd_v1::{FreezeRequest, Response, VmiRequest};
use crate::vmi::VirtualMachineInstance;

/// `SyncVirtualMachine`.
pub(super) async fn sync(driver: &dyn Driver, request: VmiRequest) -> Response {
    with_options(driver, "SyncVirtualMachine", Action::Sync, request).await
}

/// A call that needs what the node adds to the VMI.
pub(super) async fn with_options(
    driver: &dyn Driver,
    rpc: &'static str,
    action: fn(Box<SyncRequest>) -> Action,
    request: VmiRequest,
) -> Response {
    response(
        async {
            let VmiRequest { vmi, options } = request;
            let Options { sync: options, plugins } = options
                .unwrap_or_default()
                .try_into()
                .map_err(|error: OptionsError| Failure::text(error.to_string()))?;
            let vmi_json = vmi.as_ref().map(|vmi| vmi.vmi_json.clone()).unwrap_or_default();
            let vmi = decode::vmi(rpc, vmi)?;
            driver.perform(action(Box::new(SyncRequest { vmi, options, plugins, vmi_json }))).await
        }
        .await,
    )
}

/// A call that needs nothing but the VMI.
pub(super) async fn steer(
    driver: &dyn Driver,
    rpc: &'static str,
    action: fn(Box<VirtualMachineInstance>) -> Action,
    request: VmiRequest,
) -> Response {
    match decode::vmi(rpc, request.vmi) {
        Ok(vmi) => response(driver.perform(action(Box::new(vmi))).await),
        Err(failure) => response(Err(failure)),
    }
}

/// `FreezeVirtualMachine`.
pub(super) async fn freeze(driver: &dyn Driver, request: FreezeRequest) -> Response {
    let FreezeRequest { vmi, unfreeze_timeout_seconds } = request;
    match decode::vmi("FreezeVirtualMachine", vmi) {
        Ok(vmi) => {
            let request = super::FreezeRequest { vmi, unfreeze_timeout_seconds };
            response(driver.perform(Action::Freeze(Box::new(request))).await)
        }
        Err(failure) => response(Err(failure)),
    }
}

/// `SignalTargetPodCleanup`: succeeds also for another VMI.
pub(super) async fn signal_target_pod_cleanup(driver: &dyn Driver, request: VmiRequest) -> Response {
    match decode::vmi("SignalTargetPodCleanup", request.vmi) {
        Ok(vmi) => match decode::target_pod(vmi) {
            Some(target_pod) => response(driver.perform(Action::SignalTargetPodCleanup { target_pod }).await),
            None => response(Ok(())),
        },
        Err(failure) => response(Err(failure)),
    }
}
