//! What GetVMStats asks the guest's agent, remembered for as long as it stays true enough (contract/cmd-server.md 4.3).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::coalesce::Coalesced;
use super::{Statistics, ended};
use crate::cmd::AgentStats;
use crate::launcher::error::Error;

type Answer = Result<Arc<str>, Error>;

/// The answers, by question.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<Mutex<BTreeMap<AgentStats, Arc<Coalesced<Answer>>>>>);

impl Answers {
    fn of(&self, question: AgentStats) -> Arc<Coalesced<Answer>> {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(answers.entry(question).or_insert_with(|| Arc::new(Coalesced::new(kept(question)))))
    }
}

/// How long an answer counts.
fn kept(question: AgentStats) -> Duration {
    let seconds = match question {
        AgentStats::Load | AgentStats::CpuStats | AgentStats::DiskStats => 20,
        AgentStats::Time | AgentStats::Vcpus | AgentStats::MemoryBlockInfo | AgentStats::Users => 60,
        AgentStats::OsInfo
        | AgentStats::Disks
        | AgentStats::HostName
        | AgentStats::Timezone
        | AgentStats::NetworkRoute
        | AgentStats::NetworkInterfaces => 5 * 60,
        AgentStats::MemoryBlocks => 30 * 60,
    };
    Duration::from_secs(seconds)
}

impl Statistics {
    /// The answers to `questions`, in their order. The agent takes one at a time; what it leaves unanswered until the
    /// deadline fails, and so does everything behind it.
    pub async fn agent_stats(&self, questions: Vec<AgentStats>) -> Vec<Answer> {
        let until = Instant::now() + self.timings.agent;
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            let (own, within) = (self.clone(), until.saturating_duration_since(Instant::now()));
            let ask = move || async move { own.ask(question, within).await };
            let answer = self.agent.of(question).get(Result::is_ok, ask).await;
            answers.push(answer.unwrap_or_else(|| Err(ended(question.command()))));
        }
        answers
    }

    async fn ask(&self, question: AgentStats, within: Duration) -> Answer {
        let command = question.command();
        let execute = json!({ "execute": command }).to_string();
        let answer = self.vm.connection.in_background().agent_command(&self.vm.domain, execute, within).await;
        answer.map(Arc::from).map_err(|error| Error::during(format!("failed to get agent data for {command}"), error))
    }
}
