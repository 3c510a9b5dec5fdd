//! Commands in the guest, and the question whether its agent answers (contract/cmd-server.md 8.1, 8.2).

use std::time::Duration;

use base64::Engine;
use tokio::time::{Instant, sleep};

use super::commands;
use super::error::AgentError;
use super::libvirt_agent::LibvirtAgent;
use super::parse::{self, ExecStatus};

/// The pause after the first look at a process; it doubles up to the longest one, or a tenth of the time limit.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The original looks ten times within the time limit.
const LOOKS: u32 = 10;

/// What is to be run in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The program's path in the guest.
    pub path: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How long it may run, in seconds.
    pub timeout_seconds: i32,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its exit code; 128 and the signal's number if a signal ended it.
    pub exit_code: i32,
    /// What it wrote to its standard output; bytes that are no UTF-8 are replaced.
    pub output: String,
}

/// Runs `command` and waits for its end.
pub async fn exec(agent: &LibvirtAgent, command: &Command) -> Result<Finished, AgentError> {
    let limit = match u64::try_from(command.timeout_seconds) {
        Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
        Ok(_) | Err(_) => return Err(AgentError::NoTime(command.timeout_seconds)),
    };
    let within = agent.connection.deadlines().agent;
    let deadline = Instant::now() + limit;
    let started = agent.command(commands::exec(&command.path, &command.arguments), within).await?;
    let pid = parse::started(&started)?;
    let mut pause = FIRST_PAUSE;
    loop {
        let status = parse::exec_status(&agent.command(commands::exec_status(pid), within).await?)?;
        if status.exited {
            return finished(status);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AgentError::Timeout { pid, command: command.path.clone() });
        }
        sleep(pause.min(left)).await;
        pause = (pause * 2).min(limit / LOOKS);
    }
}

fn finished(status: ExecStatus) -> Result<Finished, AgentError> {
    let ExecStatus { exited: _, exit_code, signal, out_data } = status;
    let output = base64::engine::general_purpose::STANDARD
        .decode(out_data)
        .map_err(|error| AgentError::Reply { command: commands::EXEC_STATUS, why: format!("out-data: {error}") })?;
    // A process that a signal ended has no exit code; a shell would say it so.
    let killed = || signal.map(|signal| signal.saturating_add(128));
    Ok(Finished {
        exit_code: exit_code.or_else(killed).unwrap_or_default(),
        output: String::from_utf8_lossy(&output).into_owned(),
    })
}

/// Whether the agent answers.
pub async fn ping(agent: &LibvirtAgent, within: Duration) -> Result<(), AgentError> {
    agent.command(commands::bare(commands::PING), within).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(exit_code: Option<i32>, signal: Option<i32>, out_data: &str) -> Result<Finished, AgentError> {
        finished(ExecStatus { exited: true, exit_code, signal, out_data: out_data.into() })
    }

    #[test]
    fn end_has_a_code_and_an_output() {
        assert_eq!(ended(Some(3), None, "aGk="), Ok(Finished { exit_code: 3, output: "hi".into() }));
        assert_eq!(ended(None, Some(9), ""), Ok(Finished { exit_code: 137, output: String::new() }));
        assert_eq!(ended(Some(0), None, "/w==").unwrap().output, "\u{fffd}");
        assert!(ended(Some(0), None, "!").unwrap_err().to_string().contains("out-data"));
    }
}
