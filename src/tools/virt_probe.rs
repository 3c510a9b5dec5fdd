//! A kubelet's probe of the guest, through its agent (contract/lifecycle.md 11.2).

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::call::{CallError, answer, check};
use crate::cmd::client;
use crate::proto::cmd_v1::{ExecRequest, GuestPingRequest};

/// What to ask of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The launcher's socket.
    pub socket: PathBuf,
    /// libvirt's name of the domain.
    pub domain: String,
    /// How long the guest may take, in seconds.
    pub timeout_seconds: i32,
    /// The question.
    pub question: Question,
}

/// What the guest is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Have its agent answer.
    Ping,
    /// Run this with these arguments.
    Run(String, Vec<String>),
}

/// The exit code if the launcher cannot be reached.
const NO_LAUNCHER: i32 = 1;
/// The exit code if the guest did not do it, as the original's panic has it.
const NO_ANSWER: i32 = 2;
/// What the original's client adds to the guest's time.
const FOR_THE_LAUNCHER: Duration = Duration::from_secs(5);

/// Asks, prints the command's output, returns the exit code.
pub fn run(probe: Probe) -> i32 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(reason = %error, "no runtime");
            return NO_LAUNCHER;
        }
    };
    match runtime.block_on(ask(&probe)) {
        Ok((code, output)) => {
            if !output.is_empty() {
                let _ = writeln!(std::io::stdout(), "{output}");
            }
            code
        }
        Err(error @ CallError::Connect(_)) => {
            tracing::error!(reason = %error, "cannot reach the launcher");
            NO_LAUNCHER
        }
        Err(error) => {
            tracing::error!(reason = %error, "the guest cannot be probed");
            NO_ANSWER
        }
    }
}

async fn ask(probe: &Probe) -> Result<(i32, String), CallError> {
    let mut client = client::connect(&probe.socket, client::deadline::SHORT).await?;
    let seconds = u64::try_from(probe.timeout_seconds).unwrap_or_default();
    let within = Duration::from_secs(seconds) + FOR_THE_LAUNCHER;
    let (domain_name, timeout_seconds) = (probe.domain.clone(), probe.timeout_seconds);
    match &probe.question {
        Question::Ping => {
            let request = GuestPingRequest { domain_name, timeout_seconds };
            let reply = answer("GuestPing", within, client.guest_ping(request)).await?;
            check("GuestPing", reply.response)?;
            Ok((0, String::new()))
        }
        Question::Run(command, arguments) => {
            let (command, args) = (command.clone(), arguments.clone());
            let request = ExecRequest { domain_name, command, args, timeout_seconds };
            let reply = answer("Exec", within, client.exec(request)).await?;
            // A command that failed is a success that says which exit code it had.
            if reply.exit_code == 0 {
                check("Exec", reply.response)?;
            }
            Ok((reply.exit_code, reply.std_out))
        }
    }
}
