//! GuestPing (contract/cmd-server.md 8.2): does the agent answer, or has it a good reason not to?

use std::sync::atomic::Ordering;

use super::Guest;
use crate::cmd::Failure;
use crate::domain::KubeVirtMetadata;
use crate::guest_agent::{self, AgentError, LibvirtAgent};
use crate::libvirt::{Connection, code};

impl Guest {
    /// Asks the agent of `domain`. `metadata` says whether a migration is under way.
    pub async fn ping(&self, domain: String, metadata: &KubeVirtMetadata) -> Result<(), Failure> {
        if self.shared.probes_paused.load(Ordering::Relaxed) {
            return Ok(());
        }
        let agent = LibvirtAgent { domain, ..self.shared.agent.clone() };
        let within = agent.connection.deadlines().agent;
        let Err(error) = guest_agent::ping(&agent, within).await else { return Ok(()) };
        if is_silence(&error) && (migrating(metadata) || paused_but_healthy(&agent.connection, &agent.domain).await) {
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

/// A migration was started and has not ended (contract/cmd-server.md 6.4).
pub(super) fn migrating(metadata: &KubeVirtMetadata) -> bool {
    let running = |migration: &crate::domain::MigrationMetadata| {
        migration.start_timestamp.is_some() && migration.end_timestamp.is_none()
    };
    metadata.migration.as_ref().is_some_and(running)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{MigrationMetadata, Time};

    #[test]
    fn a_migration_runs_from_its_start_to_its_end() {
        let metadata = |migration| KubeVirtMetadata { migration, ..KubeVirtMetadata::default() };
        assert!(!migrating(&metadata(None)));
        let mut migration = MigrationMetadata::default();
        assert!(!migrating(&metadata(Some(migration.clone()))));
        migration.start_timestamp = Some(Time::now());
        assert!(migrating(&metadata(Some(migration.clone()))));
        migration.end_timestamp = Some(Time::now());
        assert!(!migrating(&metadata(Some(migration))));
    }
}
