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
    /// An agent is connected and has not told of itself.
    waiting: Option<Waiting>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    since: Instant,
    /// [`Introductions::overdue`] has ended for it.
    announced: bool,
}

impl Introductions {
    /// Changes the document of a VM that is not down so that it shows an agent only when it may be shown. `introduced`: the
    /// agent has told of itself, or failed to.
    pub(super) fn show(&mut self, spec: &mut DomainSpec, introduced: bool) {
        if introduced || !has_agent(spec) {
            self.waiting = None;
            return;
        }
        let waiting = self.waiting.get_or_insert_with(|| Waiting { since: Instant::now(), announced: false });
        if waiting.since.elapsed() < PATIENCE {
            write_agent_state(spec, DISCONNECTED);
        }
    }

    /// Undoes [`Introductions::show`] in a document that is to be shown once more.
    pub(super) fn restore(&self, spec: &mut DomainSpec) {
        if self.waiting.is_some() {
            write_agent_state(spec, CONNECTED);
        }
    }

    /// Waits until an agent is to be shown although it has not told of itself, once for each; for ever if there is none. A
    /// moment that passes while nobody waits is not missed.
    pub(super) async fn overdue(&mut self) {
        match &mut self.waiting {
            Some(waiting) if !waiting.announced => {
                tokio::time::sleep_until(waiting.since + PATIENCE).await;
                waiting.announced = true;
            }
            Some(_) | None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn overdue_agent_is_announced_once_even_if_nobody_waited_at_that_moment() {
        let xml = "<domain><devices><channel type='unix'>\
            <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel></devices></domain>";
        let mut introductions = Introductions::default();
        introductions.show(&mut DomainSpec::from_xml(xml).unwrap(), false);
        // A look at the domain is under way.
        tokio::time::advance(PATIENCE).await;
        tokio::time::timeout(Duration::from_secs(1), introductions.overdue()).await.unwrap();
        tokio::time::timeout(PATIENCE * 2, introductions.overdue()).await.unwrap_err();
        let mut shown = DomainSpec::from_xml(xml).unwrap();
        introductions.show(&mut shown, false);
        assert!(has_agent(&shown), "it counts as connected");
    }
}
