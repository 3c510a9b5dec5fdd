//! Calls that look at the VM when they are asked: statistics, dirty rate, screenshot (contract/cmd-server.md 4.2, 4.3).

use std::sync::Arc;

use super::failure::response;
use super::{Answer, Driver, Failure};
use crate::proto::cmd_v1::{DirtyRateStatsResponse, DomainStatsResponse};

/// What the launcher can measure of its VM. Several who ask for the same at the same time get one measurement; none of
/// it holds up published state or changes. Each answer comes before the deadline of its client.
pub trait Measures: Send + Sync + 'static {
    /// The GetDomainStats document (contract/cmd-server.md 9.2).
    fn domain_stats(&self) -> Answer<Arc<str>> {
        not_measured("GetDomainStats")
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

/// How it went, and what came of it.
fn parted<T>(result: Result<T, Failure>) -> (Result<(), Failure>, Option<T>) {
    match result {
        Ok(value) => (Ok(()), Some(value)),
        Err(failure) => (Err(failure), None),
    }
}
