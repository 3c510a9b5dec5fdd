//! Files in the guest, small ones, through its agent.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::commands;
use super::error::AgentError;
use super::libvirt_agent::LibvirtAgent;
use super::parse::{self, FilePart};

/// Most bytes that are read of a file.
const FILE: usize = 1024 * 1024;
/// Bytes asked for, and sent, at once.
const PART: usize = 64 * 1024;

/// The content of the file at `path`; a file larger than 1 MiB is an error.
pub async fn read_file(agent: &LibvirtAgent, path: &str) -> Result<Vec<u8>, AgentError> {
    let handle = open(agent, path, "r").await?;
    let read = async {
        let mut content = Vec::new();
        loop {
            let answer = command(agent, commands::file_read(handle, PART)).await?;
            let FilePart { data, eof, .. } = parse::file_part(commands::FILE_READ, &answer)?;
            let more =
                STANDARD.decode(data).map_err(|error| unusable(commands::FILE_READ, format!("buf-b64: {error}")))?;
            let nothing = more.is_empty();
            content.extend(more);
            if content.len() > FILE {
                return Err(unusable(commands::FILE_READ, format!("{path} has more than {FILE} bytes")));
            }
            if eof || nothing {
                return Ok(content);
            }
        }
    }
    .await;
    close(agent, handle, read).await
}

/// Makes or replaces the file at `path`.
pub async fn write_file(agent: &LibvirtAgent, path: &str, content: &[u8]) -> Result<(), AgentError> {
    let handle = open(agent, path, "w").await?;
    let written = async {
        let mut rest = content;
        while !rest.is_empty() {
            let part = rest.get(..PART).unwrap_or(rest);
            let answer = command(agent, commands::file_write(handle, &STANDARD.encode(part))).await?;
            let count = parse::file_part(commands::FILE_WRITE, &answer)?.count;
            rest = match rest.get(count..) {
                Some(rest) if count > 0 => rest,
                Some(_) | None => {
                    return Err(unusable(commands::FILE_WRITE, format!("{count} of {} bytes", part.len())));
                }
            };
        }
        Ok(())
    }
    .await;
    close(agent, handle, written).await
}

async fn open(agent: &LibvirtAgent, path: &str, mode: &str) -> Result<i64, AgentError> {
    parse::file_handle(&command(agent, commands::file_open(path, mode)).await?)
}

/// Closes the file; the first error counts.
async fn close<T>(agent: &LibvirtAgent, handle: i64, result: Result<T, AgentError>) -> Result<T, AgentError> {
    let closed = command(agent, commands::file_close(handle)).await;
    let value = result?;
    closed.map(|_| value)
}

async fn command(agent: &LibvirtAgent, command: String) -> Result<String, AgentError> {
    agent.command(command, agent.connection.deadlines().agent).await
}

fn unusable(command: &'static str, why: String) -> AgentError {
    AgentError::Reply { command, why }
}
