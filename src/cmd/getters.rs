//! Calls that read what the launcher has published (contract/cmd-server.md 4.2).

use super::failure::response;
use super::{Driver, Failure};
use crate::proto::cmd_v1::{
    DomainResponse, GuestFilesystemsResponse, GuestInfoResponse, GuestUserListResponse, LaunchMeasurementResponse,
    QemuVersionResponse, ScreenshotResponse, SevInfoResponse,
};

/// `GetDomain`: no domain is a success with an empty document.
pub(super) fn domain(driver: &dyn Driver) -> DomainResponse {
    match driver.domain() {
        Ok(domain) => DomainResponse {
            response: Some(response(Ok(()))),
            domain: domain.map(|json| json.to_string()).unwrap_or_default(),
        },
        Err(failure) => DomainResponse { response: Some(response(Err(failure))), domain: String::new() },
    }
}

/// `GetQemuVersion`.
pub(super) fn qemu_version(driver: &dyn Driver) -> QemuVersionResponse {
    match driver.hypervisor_version() {
        Ok(version) => QemuVersionResponse { response: Some(response(Ok(()))), version },
        Err(failure) => QemuVersionResponse { response: Some(response(Err(failure))), version: String::new() },
    }
}

/// `GetGuestInfo`.
pub(super) fn guest_info() -> GuestInfoResponse {
    GuestInfoResponse { response: not_yet("GetGuestInfo"), ..Default::default() }
}

/// `GetUsers`.
pub(super) fn users() -> GuestUserListResponse {
    GuestUserListResponse { response: not_yet("GetUsers"), ..Default::default() }
}

/// `GetFilesystems`.
pub(super) fn filesystems() -> GuestFilesystemsResponse {
    GuestFilesystemsResponse { response: not_yet("GetFilesystems"), ..Default::default() }
}

/// `GetSEVInfo`.
pub(super) fn sev_info() -> SevInfoResponse {
    SevInfoResponse { response: not_yet("GetSEVInfo"), ..Default::default() }
}

/// `GetLaunchMeasurement`.
pub(super) fn launch_measurement() -> LaunchMeasurementResponse {
    LaunchMeasurementResponse { response: not_yet("GetLaunchMeasurement"), ..Default::default() }
}

/// `GetScreenshot`.
pub(super) fn screenshot() -> ScreenshotResponse {
    ScreenshotResponse { response: not_yet("GetScreenshot"), ..Default::default() }
}

fn not_yet(rpc: &'static str) -> Option<crate::proto::cmd_v1::Response> {
    Some(response(Err(Failure::NotImplemented(rpc))))
}
