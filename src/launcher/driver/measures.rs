//! The driver's door for whoever wants something measured: past the queue of changes, straight to [`Statistics`].
//!
//! [`Statistics`]: crate::launcher::statistics::Statistics

use std::sync::Arc;

use super::DriverHandle;
use crate::cmd::{AgentAnswers, AgentStats, Answer, Failure, Measures};
use crate::libvirt::Screenshot;

impl Measures for DriverHandle {
    fn domain_stats(&self) -> Answer<Arc<str>> {
        let statistics = self.statistics.clone();
        self.answer_if_supported("GetDomainStats", async move { statistics.domain_stats().await })
    }

    fn collects_vm_stats(&self) -> bool {
        self.collects_vm_stats
    }

    fn agent_version(&self) -> String {
        self.statistics.agent_version()
    }

    fn agent_stats(&self, questions: Vec<AgentStats>) -> AgentAnswers {
        let statistics = self.statistics.clone();
        Box::pin(async move {
            let answers = statistics.agent_stats(questions).await;
            answers.into_iter().map(|answer| answer.map_err(Failure::from)).collect()
        })
    }

    fn screenshot(&self) -> Answer<Screenshot> {
        let statistics = self.statistics.clone();
        self.answer_if_supported("GetScreenshot", async move { statistics.screenshot().await })
    }

    fn sev_info(&self) -> Answer<String> {
        let sev = self.sev.clone();
        self.answer_if_supported("GetSEVInfo", async move { sev.info().await })
    }

    fn launch_measurement(&self) -> Answer<String> {
        let sev = self.sev.clone();
        self.answer_if_supported("GetLaunchMeasurement", async move { sev.launch_measurement().await })
    }

    fn dirty_rate(&self) -> Answer<i64> {
        let statistics = self.statistics.clone();
        self.answer_if_supported("GetDomainDirtyRateStats", async move { statistics.dirty_rate().await })
    }
}
