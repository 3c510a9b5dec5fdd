//! Calls that look at the VM when they are asked: statistics, dirty rate, screenshot (contract/cmd-server.md 4.2, 4.3).

use super::failure::response;
use super::{Driver, Failure, decode};
use crate::libvirt::Screenshot;
use crate::proto::cmd_v1::{
    DirtyRateStatsResponse, DomainStatsResponse, LaunchMeasurementResponse, ScreenshotResponse, SevInfoResponse,
    VmiRequest,
};

/// `GetDomainStats`.
pub(super) async fn domain_stats(driver: &dyn Driver) -> DomainStatsResponse {
    let (outcome, stats) = parted(driver.domain_stats().await);
    DomainStatsResponse {
        response: Some(response(outcome)),
        domain_stats: stats.as_deref().unwrap_or_default().to_owned(),
    }
}

/// `GetDomainDirtyRateStats`.
pub(super) async fn dirty_rate(driver: &dyn Driver) -> DirtyRateStatsResponse {
    let (outcome, rate) = parted(driver.dirty_rate().await);
    DirtyRateStatsResponse { response: Some(response(outcome)), dirty_rate_mbs: rate.unwrap_or_default() }
}

/// `GetScreenshot`.
pub(super) async fn screenshot(driver: &dyn Driver, request: VmiRequest) -> ScreenshotResponse {
    let (outcome, picture) = parted(match decode::vmi("GetScreenshot", request.vmi) {
        Ok(_) => driver.screenshot().await,
        Err(failure) => Err(failure),
    });
    let Screenshot { mime, data } = picture.unwrap_or_default();
    ScreenshotResponse { response: Some(response(outcome)), mime, data }
}

/// `GetSEVInfo`.
pub(super) async fn sev_info(driver: &dyn Driver) -> SevInfoResponse {
    let (outcome, info) = parted(driver.sev_info().await);
    SevInfoResponse { response: Some(response(outcome)), sev_info: info.unwrap_or_default().into_bytes() }
}

/// `GetLaunchMeasurement`.
pub(super) async fn launch_measurement(driver: &dyn Driver, request: VmiRequest) -> LaunchMeasurementResponse {
    let (outcome, measurement) = parted(match decode::vmi("GetLaunchMeasurement", request.vmi) {
        Ok(_) => driver.launch_measurement().await,
        Err(failure) => Err(failure),
    });
    LaunchMeasurementResponse {
        response: Some(response(outcome)),
        launch_measurement: measurement.unwrap_or_default().into_bytes(),
    }
}

/// How it went, and what came of it.
fn parted<T>(result: Result<T, Failure>) -> (Result<(), Failure>, Option<T>) {
    match result {
        Ok(value) => (Ok(()), Some(value)),
        Err(failure) => (Err(failure), None),
    }
}
