//! GuestPing (contract/cmd-server.md 8.2): does the agent answer, or has it a good reason not to?

use std::sync::atomic::Ordering;

use super::Guest;
use crate::domain::KubeVirtMetadata;
use crate::guest_agent::{self, AgentError, LibvirtAgent};
use crate::launcher::error::Error;
use crate::libvirt::{Connection, code};

impl Guest {
    /// Asks the agent of `domain`. `metadata` says whether a migration is under way.
    pub async fn ping(&self, domain: String, metadata: &KubeVirtMetadata) -> Result<(), Error> {
        if self.shared.probes_paused.load(Ordering::Relaxed) {
            return Ok(());
        }
        let agent = LibvirtAgent { domain, ..self.shared.agent.clone() };
        let within = agent.connection.deadlines().agent;
        let Err(error) = guest_agent::ping(&agent, within).await else { return Ok(()) };
        if is_silence(&error)
            && (metadata.migration_under_way().is_some() || paused_but_healthy(&agent.connection, &agent.domain).await)
        {
            return Ok(());
        }
        let name = &self.shared.object.name;
        self.warning("GuestAgentPingFailed", format!("GuestAgentPing probe failed for VMI {name}"));
        Err(error.into())
    }
}

/// The agent does not answer, or there is no domain that has one. libvirt calls a paused domain an invalid operation,
/// which the original takes for a failure although it means to let paused domains pass.
fn is_silence(error: &AgentError) -> bool {
    matches!(error.code(), Some(code::AGENT_UNRESPONSIVE | code::NO_DOMAIN | code::OPERATION_INVALID))
}

async fn paused_but_healthy(connection: &Connection, domain: &str) -> bool {
    match connection.exists(domain).await {
        Ok(true) => match connection.state(domain).await {
            Ok(now) => now.is_paused_on_purpose(),
            Err(_) => true,
        },
        Ok(false) => true,
        Err(_) => false,
    }
}
