//! Calls that look at the VM when they are asked: statistics, dirty rate, screenshot (contract/cmd-server.md 4.2, 4.3).

use std::pin::Pin;
use std::sync::Arc;

use super::failure::response;
use super::{AgentStats, Answer, Driver, Failure, decode};
use crate::libvirt::Screenshot;
use crate::proto::cmd_v1::{
    DirtyRateStatsResponse, DomainStatsResponse, LaunchMeasurementResponse, ScreenshotResponse, SevInfoResponse,
    VmiRequest,
};

/// The answers to several questions, when they are there.
pub type AgentAnswers = Pin<Box<dyn Future<Output = Vec<Result<Arc<str>, Failure>>> + Send>>;

/// What the launcher can measure of its VM. Several who ask for the same at the same time get one measurement; none of
/// it holds up published state or changes. Each answer comes before the deadline of its client.
pub trait Measures: Send + Sync + 'static {
    /// The GetDomainStats document (contract/cmd-server.md 9.2).
    fn domain_stats(&self) -> Answer<Arc<str>> {
        not_measured("GetDomainStats")
    }

    /// Whether GetVMStats is served (`--vm-stats-collector`).
    fn collects_vm_stats(&self) -> bool {
        false
    }

    /// The version of the guest's agent, empty if it is not known.
    fn agent_version(&self) -> String {
        String::new()
    }

    /// The agent's raw answers, one for each question in their order; all together before the client's deadline.
    fn agent_stats(&self, questions: Vec<AgentStats>) -> AgentAnswers {
        let answers = questions.iter().map(|_| Err(Failure::NotImplemented("GetVMStats"))).collect();
        Box::pin(std::future::ready(answers))
    }

    /// A picture of the guest's first screen.
    fn screenshot(&self) -> Answer<Screenshot> {
        not_measured("GetScreenshot")
    }

    /// What the platform says about its memory encryption, as JSON (contract/cmd-server.md 9.6).
    fn sev_info(&self) -> Answer<String> {
        not_measured("GetSEVInfo")
    }

    /// What the guest's owner needs to trust the started guest, as JSON (contract/cmd-server.md 9.6).
    fn launch_measurement(&self) -> Answer<String> {
        not_measured("GetLaunchMeasurement")
    }

    /// MiB of memory that the guest writes per second.
    fn dirty_rate(&self) -> Answer<i64> {
        not_measured("GetDomainDirtyRateStats")
    }
}

fn not_measured<T: Send + 'static>(rpc: &'static str) -> Answer<T> {
    Box::pin(std::future::ready(Err(Failure::NotImplemented(rpc))))
}

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
