//! When virt-handler is told that an agent is connected. At such a document it asks for the agent's version and commands
//! and, where it gets none, sets the condition AgentVersionNotSupported, which then stands until the next document. So an
//! agent is shown as connected once it has told them, or has failed to.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::DomainSpec;
use crate::launcher::guest::{CONNECTED, DISCONNECTED, has_agent, write_agent_state};

/// How long an agent that does not answer is waited for. One that hangs is still shown: as with the original it counts as
/// connected and as not supported.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Which agents are shown. One VM has one.
#[derive(Debug, Default)]
pub(super) struct Introductions {
    /// An agent is connected and not shown yet, since then.
    waiting: Option<Instant>,
}

impl Introductions {
    /// Changes the document of a VM that is not down so that it shows an agent only when it may be shown. `introduced`: the
    /// agent has told of itself, or failed to.
    pub(super) fn show(&mut self, spec: &mut DomainSpec, introduced: bool) {
        if introduced || !has_agent(spec) {
            self.waiting = None;
            return;
        }
        let since = *self.waiting.get_or_insert_with(Instant::now);
        if since.elapsed() < PATIENCE {
            write_agent_state(spec, DISCONNECTED);
        }
    }

    /// Undoes [`Introductions::show`] in a document that is to be shown once more.
    pub(super) fn restore(&self, spec: &mut DomainSpec) {
        if self.waiting.is_some() {
            write_agent_state(spec, CONNECTED);
        }
    }

    /// Waits until an agent is to be shown although it has not told of itself; for ever if there is none.
    pub(super) async fn overdue(&self) {
        match self.waiting.map(|since| since + PATIENCE).filter(|at| *at > Instant::now()) {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}
