//! Statistics on demand (contract/cmd-server.md 4.2, 9.2): measured when somebody asks, once for all who ask at the same
//! time, and with a deadline below the client's.

mod agent;
pub mod coalesce;
pub mod document;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use self::coalesce::Coalesced;
use crate::domain::stats::{Load, LoadStats};
use crate::hypervisor::ControlError;
use crate::launcher::error::Error;
use crate::launcher::migration::progress;
use crate::launcher::publish::publisher::Published;
use crate::launcher::vm::Vm;
use crate::libvirt::Screenshot;

/// How long a measured dirty rate is passed on, as with the original: measuring costs a second and slows the guest.
const DIRTY_RATE_KEPT: Duration = Duration::from_secs(3);
/// How long libvirt measures, its shortest.
const DIRTY_RATE_SECONDS: i32 = 1;

/// `virDomainDirtyRateStatus`.
mod calc_status {
    pub const UNSTARTED: i32 = 0;
    pub const MEASURING: i32 = 1;
    pub const MEASURED: i32 = 2;
}

/// How long statistics may take.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// The whole of GetDomainStats; its client waits 5 s.
    pub stats: Duration,
    /// From the start of a dirty-rate measurement to its result, beyond the second that it takes; the client waits 20 s.
    pub dirty_rate: Duration,
    /// All that GetVMStats asks the guest's agent; its client waits 5 s.
    pub agent: Duration,
    /// Between two looks at whether a measurement has ended: libvirt has no event for it.
    pub dirty_rate_pause: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            stats: Duration::from_secs(4),
            dirty_rate: Duration::from_secs(2),
            agent: Duration::from_secs(4),
            dirty_rate_pause: Duration::from_millis(100),
        }
    }
}

/// The one VM's statistics. Clones share what they measure.
#[derive(Clone)]
pub struct Statistics {
    vm: Vm,
    published: watch::Receiver<Published>,
    timings: Timings,
    stats: Arc<Coalesced<Result<Arc<str>, Error>>>,
    dirty_rate: Arc<Coalesced<Result<i64, Error>>>,
    screenshot: Arc<Coalesced<Result<Screenshot, Error>>>,
    agent: agent::Answers,
}

impl Statistics {
    /// Statistics of `vm`, whose devices have the names that `published` shows.
    pub fn new(vm: Vm, published: watch::Receiver<Published>, timings: Timings) -> Self {
        Statistics {
            vm,
            published,
            timings,
            stats: Arc::new(Coalesced::new(Duration::ZERO)),
            dirty_rate: Arc::new(Coalesced::new(DIRTY_RATE_KEPT)),
            screenshot: Arc::new(Coalesced::new(Duration::ZERO)),
            agent: agent::Answers::default(),
        }
    }

    /// GetDomainStats: the document as JSON.
    pub async fn domain_stats(&self) -> Result<Arc<str>, Error> {
        let own = self.clone();
        let shared = self.stats.get(Result::is_ok, move || async move { own.measure().await });
        shared.await.unwrap_or_else(|| Err(ended("GetDomainStats")))
    }

    /// The version of the guest's agent, as last reported.
    pub fn agent_version(&self) -> String {
        self.vm.guest.data().borrow().agent.as_ref().map(|agent| agent.version.clone()).unwrap_or_default()
    }

    /// The guest's load, as its agent last reported it.
    fn load(&self) -> LoadStats {
        let load = self.vm.guest.data().borrow().load;
        LoadStats { load1m: load.one.map(Load), load5m: load.five.map(Load), load15m: load.fifteen.map(Load) }
    }

    /// GetDomainDirtyRateStats: MiB per second that the guest writes.
    pub async fn dirty_rate(&self) -> Result<i64, Error> {
        let own = self.clone();
        let shared = self.dirty_rate.get(Result::is_ok, move || async move { own.measure_dirty_rate().await });
        shared.await.unwrap_or_else(|| Err(ended("GetDomainDirtyRateStats")))
    }

    /// GetScreenshot.
    pub async fn screenshot(&self) -> Result<Screenshot, Error> {
        let own = self.clone();
        let take = move || async move { Ok(own.vm.control.screenshot().await?) };
        self.screenshot.get(Result::is_ok, take).await.unwrap_or_else(|| Err(ended("GetScreenshot")))
    }

    async fn measure(&self) -> Result<Arc<str>, Error> {
        let failed = |error: ControlError| Error::during("failed to get domain stats", error);
        let until = Instant::now() + self.timings.stats;
        let record = self.vm.control.stats(until).await.map_err(failed)?;
        let mut record = record.ok_or_else(|| Error::other("empty DomainStats"))?;
        let vcpus = record.params.unsigned("vcpu.current").and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        let pins = self.vm.control.vcpu_pins(vcpus, until).await.map_err(failed)?;
        let domain = self.published.borrow().domain.clone();
        if let Some(domain) = &domain {
            // libvirt's may be a shorter one.
            record.name.clone_from(&domain.spec.name);
        }
        let aliases = domain.as_ref().map(|domain| document::aliases(&domain.spec));
        let mut document = document::document(&record, pins, &aliases.unwrap_or_default(), self.load());
        document.migration = self.vm.migration_progress.last().as_ref().map(progress::published).unwrap_or_default();
        let json = serde_json::to_string(&document);
        json.map(Arc::from).map_err(|error| Error::other(format!("failed to get domain stats: {error}")))
    }

    async fn measure_dirty_rate(&self) -> Result<i64, Error> {
        const FAILED: &str = "failed to get domain dirty rate stats: failed to get dirty rate stats";
        let failed = |error: ControlError| Error::during(FAILED, error);
        let control = &self.vm.control;
        control.start_dirty_rate(DIRTY_RATE_SECONDS).await.map_err(failed)?;
        // The rate of the second that begins now, not one that was measured before.
        let measured = Duration::from_secs(DIRTY_RATE_SECONDS.unsigned_abs().into());
        let until = Instant::now() + measured + self.timings.dirty_rate;
        let mut pause = measured;
        loop {
            tokio::time::sleep(pause).await;
            pause = self.timings.dirty_rate_pause;
            let record = control.dirty_rate_stats().await.map_err(failed)?;
            let record = record.ok_or_else(|| Error::other(format!("{FAILED}: the domain is not running")))?;
            let rate = document::dirty_rate(&record.params);
            let unfinished = match rate.calc_status {
                Some(calc_status::MEASURED) => {
                    let rate = rate.megabytes_per_second;
                    return rate.ok_or_else(|| Error::other("Dirty rate MegabytesPerSecondSet is false"));
                }
                Some(calc_status::MEASURING) => "dirty calc status is DOMAIN_DIRTYRATE_MEASURING",
                Some(calc_status::UNSTARTED) => "dirty calc status is DOMAIN_DIRTYRATE_UNSTARTED",
                Some(_) | None => "dirty rate stats calculation status is not set",
            };
            if Instant::now() >= until {
                return Err(Error::other(format!("{FAILED}: {unfinished}")));
            }
        }
    }
}

fn ended(rpc: &str) -> Error {
    Error::other(format!("{rpc} ended without an answer, see the launcher's log"))
}
