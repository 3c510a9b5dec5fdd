//! A double of the launcher behind the command service: its measurements are made up, and it counts what it is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use virt_launcher::cmd::{
    Action, AgentAnswers, AgentStats, Answer, Driver, Failure, GuestCommand, GuestOutput, Measures,
};
use virt_launcher::libvirt::{Error, VirError};

/// Measures at once, and fails where told to.
#[derive(Default)]
pub struct Measuring {
    /// `--vm-stats-collector`.
    pub collects: bool,
    /// Every measurement fails with a libvirt error.
    pub fails: bool,
    /// Questions to the agent so far.
    pub asked: AtomicUsize,
}

impl Measuring {
    fn outcome<T>(&self, value: T) -> Result<T, Failure> {
        let broken = VirError { code: 1, domain: 2, message: "broken".into() };
        if self.fails { Err(Failure::wrapped("failed", Error::Libvirt(broken))) } else { Ok(value) }
    }

    fn answer<T: Send + 'static>(&self, value: T) -> Answer<T> {
        Box::pin(std::future::ready(self.outcome(value)))
    }
}

impl Measures for Measuring {
    fn domain_stats(&self) -> Answer<Arc<str>> {
        self.answer("{}".into())
    }

    fn dirty_rate(&self) -> Answer<i64> {
        self.answer(7)
    }

    fn collects_vm_stats(&self) -> bool {
        self.collects
    }

    fn agent_version(&self) -> String {
        "7.2.22".to_owned()
    }

    fn agent_stats(&self, questions: Vec<AgentStats>) -> AgentAnswers {
        self.asked.fetch_add(questions.len(), Ordering::SeqCst);
        let answers = questions.iter().map(|question| self.outcome(question.command().into())).collect();
        Box::pin(std::future::ready(answers))
    }
}

impl Driver for Measuring {
    fn perform(&self, _: Action) -> Answer<()> {
        self.answer(())
    }

    fn domain(&self) -> Result<Option<Arc<str>>, Failure> {
        Ok(None)
    }

    fn hypervisor_version(&self) -> Result<String, Failure> {
        self.outcome("QEMU 10.0.13".to_owned())
    }

    fn guest_info(&self) -> Result<String, Failure> {
        self.outcome(String::new())
    }

    fn users(&self) -> Result<String, Failure> {
        self.outcome(String::new())
    }

    fn filesystems(&self) -> Result<String, Failure> {
        self.outcome(String::new())
    }

    fn exec(&self, _: GuestCommand) -> Answer<GuestOutput> {
        self.answer(GuestOutput { exit_code: 0, stdout: String::new() })
    }

    fn guest_ping(&self, _: String) -> Answer<()> {
        self.answer(())
    }
}
