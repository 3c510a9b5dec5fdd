//! Freezing and thawing the guest's file systems (contract/cmd-server.md 7.1).

use std::time::Duration;

use super::agent::THAWED;
use super::error::AgentError;
use super::libvirt_agent::LibvirtAgent;
use super::{commands, parse};

/// `guest-fsfreeze-status`: `frozen`, `thawed`, or whatever else the agent says.
pub async fn status(agent: &LibvirtAgent, within: Duration) -> Result<String, AgentError> {
    let answer = agent.command(commands::bare(commands::FREEZE_STATUS), within).await?;
    Ok(parse::freeze_status(&answer)?.status)
}

/// Freezes all file systems.
pub async fn freeze(agent: &LibvirtAgent, within: Duration) -> Result<(), AgentError> {
    agent.connection.fs_freeze(&agent.domain, within).await?;
    Ok(())
}

/// Thaws all file systems that are not known to be thawed.
pub async fn thaw(agent: &LibvirtAgent, status_within: Duration, within: Duration) -> Result<(), AgentError> {
    match status(agent, status_within).await {
        Ok(now) if now == THAWED => Ok(()),
        Err(AgentError::Libvirt(error)) if error.is_agent_silent() => Err(error.into()),
        // A frozen guest's agent may refuse the question and still thaw.
        Ok(_) | Err(_) => thaw_frozen(agent, within).await,
    }
}

/// Thaws all file systems.
pub async fn thaw_frozen(agent: &LibvirtAgent, within: Duration) -> Result<(), AgentError> {
    agent.connection.fs_thaw(&agent.domain, within).await?;
    Ok(())
}
