//! The agent of a domain, asked through libvirt.

use std::time::Duration;

use super::agent::{Agent, Answer, COMMANDS};
use super::error::AgentError;
use super::poll_schedule::Question;
use super::{commands, parse};
use crate::libvirt::{Connection, Params};

/// The agent of a domain, through libvirt.
#[derive(Clone)]
pub struct LibvirtAgent {
    /// The connection.
    pub connection: Connection,
    /// libvirt's name of the domain.
    pub domain: String,
}

impl LibvirtAgent {
    /// The same agent for background questions, see [`Connection::in_background`].
    #[must_use]
    pub fn in_background(&self) -> Self {
        LibvirtAgent { connection: self.connection.in_background(), domain: self.domain.clone() }
    }

    /// A command without arguments.
    pub(super) async fn bare(&self, command: &'static str) -> Result<String, AgentError> {
        self.command(commands::bare(command), self.connection.deadlines().agent).await
    }

    /// A command, and how long it may take.
    pub(super) async fn command(&self, command: String, within: Duration) -> Result<String, AgentError> {
        Ok(self.connection.agent_command(&self.domain, command, within).await?)
    }

    async fn info(&self, types: u32) -> Result<Params, AgentError> {
        Ok(self.connection.guest_info(&self.domain, types, self.connection.deadlines().agent).await?)
    }

    /// All of `types` at once; where the agent does not know one of them, each by itself, since libvirt then gives none. One
    /// that does not answer is not asked again for each.
    async fn infos(&self, types: u32) -> Result<Answer, AgentError> {
        match self.info(types).await {
            Err(error)
                if types.count_ones() > 1
                    && matches!(&error, AgentError::Libvirt(error) if !error.is_agent_silent()) =>
            {
                let (mut known, mut params) = (0, Params::default());
                for one in COMMANDS.iter().map(|(one, _)| one & types).filter(|one| *one != 0) {
                    if let Ok(more) = self.info(one).await {
                        params.extend(more);
                        known |= one;
                    }
                }
                if known != 0 { Ok(Answer::Info(known, params)) } else { Err(error) }
            }
            all => Ok(Answer::Info(types, all?)),
        }
    }
}

impl Agent for LibvirtAgent {
    async fn ask(&self, question: Question) -> Result<Answer, AgentError> {
        Ok(match question {
            Question::Info(types) => self.infos(types).await?,
            Question::FreezeStatus => {
                Answer::FreezeStatus(parse::freeze_status(&self.bare(commands::FREEZE_STATUS).await?)?)
            }
            Question::Agent => Answer::Agent(parse::info(&self.bare(commands::INFO).await?)?),
            Question::Filesystems => Answer::Filesystems(parse::filesystems(&self.bare(commands::FSINFO).await?)?),
        })
    }
}
