//! Why the guest agent was of no use.

use crate::libvirt;

/// What a question to the agent ends with besides its answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// libvirt did not get an answer; libvirt's numbers say why.
    #[error(transparent)]
    Libvirt(#[from] libvirt::Error),
    /// The answer makes no sense.
    #[error("the guest agent's answer to {command} cannot be used: {why}")]
    Reply {
        /// The agent's command.
        command: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The status of the file systems is none.
    #[error("failed to strip FSFreeze status: {0}")]
    FreezeStatus(String),
    /// The guest did not start the command.
    #[error("Invalid pid [{pid}] returned from qemu agent during access credential injection: {reply}")]
    Pid {
        /// What the agent called its process.
        pid: i64,
        /// The agent's answer.
        reply: String,
    },
    /// The command did not end in time.
    #[error("Timed out waiting for guest pid [{pid}] for command [{command}] to exit")]
    Timeout {
        /// The process in the guest; it goes on.
        pid: i64,
        /// What was run.
        command: String,
    },
    /// The caller's time limit is none.
    #[error("timeoutSeconds is {0}, it must be more than 0")]
    NoTime(i32),
    /// A command that the launcher needs failed in the guest.
    #[error("{command} ended with exit code {code} in the guest")]
    Exit {
        /// What was run.
        command: String,
        /// Its exit code.
        code: i32,
    },
}

impl AgentError {
    /// libvirt's `virErrorNumber`, if libvirt answered.
    pub fn code(&self) -> Option<i32> {
        match self {
            AgentError::Libvirt(error) => error.code(),
            AgentError::Reply { .. }
            | AgentError::FreezeStatus(_)
            | AgentError::Pid { .. }
            | AgentError::Timeout { .. }
            | AgentError::NoTime(_)
            | AgentError::Exit { .. } => None,
        }
    }
}
