//! A client of QEMU's NBD server, as far as a backup needs one: sizes, which parts of an export hold what, and their bytes.
//!
//! Why no crate does it: a dirty bitmap needs structured replies and meta contexts. `nbd` 0.3 has a client, which blocks
//! and knows neither; `tokio-nbd` 0.3 is a server. libnbd does all of it, but is a C library that would have to be linked
//! statically, for the small part of it that is here.
//!
//! QEMU is trusted with its data, not with its lengths: each has a bound here, and each wait a deadline.

mod negotiate;
mod reply;
mod wire;

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use reply::Chunk;
use wire::command;

/// The meta context of holes and zeroes.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// Before the name of a dirty bitmap; what QEMU calls its meta context.
pub const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

/// Longest name of an export or of a meta context, in bytes: the protocol's bound of strings.
const LONGEST_NAME: usize = 4096;
/// Longest read, in bytes.
pub const LONGEST_READ: u32 = 256 << 10;
/// Longest part that is asked about at once, in bytes: what a 32-bit length holds at any alignment.
const LONGEST_STATUS: u64 = 2 << 30;

/// How long the client waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// Connecting and negotiating.
    pub negotiation: Duration,
    /// One request: QEMU may have to look through much of an image.
    pub request: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Deadlines { negotiation: Duration::from_secs(10), request: Duration::from_secs(60) }
    }
}

/// Why an export cannot be had or read.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// The socket has no server.
    #[error("failed to connect to {path}: {source}")]
    Connect {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the NBD connection broke: {0}")]
    Broken(#[from] io::Error),
    /// No answer in time.
    #[error("no answer to NBD {what} within {:.1} s", .within.as_secs_f32())]
    Late {
        /// What was asked for.
        what: &'static str,
        /// How long was waited.
        within: Duration,
    },
    /// A name that the protocol cannot carry.
    #[error("the name of an NBD export or context may have {LONGEST_NAME} bytes, not {0}")]
    Name(usize),
    /// The server said what the protocol does not allow here.
    #[error("the NBD server breaks the protocol: {0}")]
    Protocol(String),
    /// The server refused a step of the negotiation.
    #[error("the NBD server refuses {step}: {reason}")]
    Refused {
        /// The step.
        step: &'static str,
        /// Its reason, or the error's number.
        reason: String,
    },
    /// The server does not have a meta context of this name for the export.
    #[error("server does not support requested context: {0}")]
    NoContext(String),
    /// A request failed.
    #[error("NBD {what} at offset {offset} failed: {reason}")]
    Failed {
        /// The request.
        what: &'static str,
        /// Of what, in bytes.
        offset: u64,
        /// The server's reason or the error's number.
        reason: String,
    },
}

/// A part of an export: its length in bytes (never 0) and the flags of one meta context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Bytes.
    pub length: u64,
    /// What the meta context says of them.
    pub flags: u32,
}

/// A connection to one export. After an error it is of no use any more.
#[derive(Debug)]
pub struct Client<S = UnixStream> {
    stream: BufReader<S>,
    size: u64,
    /// The server's numbers of the contexts, in the order they were asked for.
    contexts: Vec<u32>,
    cookie: u64,
    within: Duration,
}

impl Client {
    /// Connects to the server on the unix socket at `path` and asks for `export` with these meta contexts.
    pub async fn connect(
        path: &Path,
        export: &str,
        contexts: &[String],
        deadlines: Deadlines,
    ) -> Result<Self, NbdError> {
        let start = async {
            let stream = UnixStream::connect(path).await;
            let stream = stream.map_err(|source| NbdError::Connect { path: path.display().to_string(), source })?;
            Client::over(stream, export, contexts, deadlines.request).await
        };
        within(deadlines.negotiation, "negotiation", start).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Negotiates on `stream`, without a deadline of its own.
    async fn over(stream: S, export: &str, contexts: &[String], within: Duration) -> Result<Self, NbdError> {
        let mut stream = BufReader::new(stream);
        let agreed = negotiate::negotiate(&mut stream, export, contexts).await?;
        Ok(Client { stream, size: agreed.size, contexts: agreed.contexts, cookie: 0, within })
    }

    /// The export's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the export holds from `offset` on, for each meta context in the order they were asked for. The answer covers
    /// at least one byte and at most `length`, and the contexts may cover different lengths.
    pub async fn status(&mut self, offset: u64, length: u64) -> Result<Vec<Vec<Part>>, NbdError> {
        let (what, deadline) = ("BLOCK_STATUS", self.within);
        let length = length.min(self.size.saturating_sub(offset)).min(LONGEST_STATUS);
        let answer = async {
            let cookie = self.request(command::BLOCK_STATUS, offset, length as u32).await?;
            let mut found = vec![Vec::new(); self.contexts.len()];
            loop {
                let (chunk, done) = reply::read(&mut self.stream, cookie, LONGEST_READ).await?;
                match chunk {
                    Chunk::Nothing => {}
                    Chunk::Status { context, parts } => {
                        let place = self.contexts.iter().position(|known| *known == context);
                        let place = place.and_then(|place| found.get_mut(place)).filter(|place| place.is_empty());
                        let told = || NbdError::Protocol(format!("status of context {context}, which is not expected"));
                        *place.ok_or_else(told)? = clipped(parts, length)?;
                    }
                    Chunk::Failed(reason) => return Err(NbdError::Failed { what, offset, reason }),
                    Chunk::Data { .. } | Chunk::Hole { .. } => return Err(misplaced("data", what)),
                }
                if done {
                    break;
                }
            }
            match found.iter().any(Vec::is_empty) {
                true => Err(NbdError::Protocol("a status that leaves out a meta context".to_owned())),
                false => Ok(found),
            }
        };
        within(deadline, what, answer).await
    }

    /// Reads `length` bytes, at most [`LONGEST_READ`], from `offset` on.
    pub async fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, NbdError> {
        let (what, deadline) = ("READ", self.within);
        let length = length.min(LONGEST_READ);
        let answer = async {
            let cookie = self.request(command::READ, offset, length).await?;
            let mut found = vec![0; length as usize];
            // The protocol forbids chunks that overlap; with that, the sum shows whether all was there.
            let mut had: u64 = 0;
            loop {
                let (chunk, done) = reply::read(&mut self.stream, cookie, length).await?;
                let outside = |at: u64| NbdError::Protocol(format!("data at {at}, outside of what was asked for"));
                let (at, length_of_chunk, data) = match chunk {
                    Chunk::Nothing => (offset, 0, None),
                    Chunk::Data { offset, data } => (offset, data.len(), Some(data)),
                    Chunk::Hole { offset, length } => (offset, length as usize, None),
                    Chunk::Failed(reason) => return Err(NbdError::Failed { what, offset, reason }),
                    Chunk::Status { .. } => return Err(misplaced("a status", what)),
                };
                let start = at.checked_sub(offset).and_then(|start| usize::try_from(start).ok());
                let start = start.ok_or_else(|| outside(at))?;
                let end = start.checked_add(length_of_chunk).ok_or_else(|| outside(at))?;
                let place = found.get_mut(start..end).ok_or_else(|| outside(at))?;
                if let Some(data) = data {
                    place.copy_from_slice(&data);
                }
                had += length_of_chunk as u64;
                if done {
                    break;
                }
            }
            match had == u64::from(length) {
                true => Ok(found),
                false => Err(NbdError::Protocol(format!("{had} bytes where {length} were asked for"))),
            }
        };
        within(deadline, what, answer).await
    }

    async fn request(&mut self, command: u16, offset: u64, length: u32) -> Result<u64, NbdError> {
        self.cookie += 1;
        let request = wire::request(command, self.cookie, offset, length);
        let stream = self.stream.get_mut();
        stream.write_all(&request).await?;
        stream.flush().await?;
        Ok(self.cookie)
    }

    /// Takes leave, so that the server does not take the end for an accident.
    pub async fn close(mut self) {
        let within = self.within;
        let _ = tokio::time::timeout(within, self.request(command::DISCONNECT, 0, 0)).await;
    }
}

/// The parts up to `length`: the last one may go on beyond what was asked about.
fn clipped(parts: Vec<Part>, length: u64) -> Result<Vec<Part>, NbdError> {
    let mut left = length;
    let mut clipped = Vec::with_capacity(parts.len());
    for part in parts {
        if part.length == 0 {
            return Err(NbdError::Protocol("a part without length".to_owned()));
        }
        let length = part.length.min(left);
        if length == 0 {
            break;
        }
        left -= length;
        clipped.push(Part { length, ..part });
    }
    Ok(clipped)
}

fn misplaced(what: &str, request: &str) -> NbdError {
    NbdError::Protocol(format!("{what} in reply to {request}"))
}

async fn within<T>(
    within: Duration,
    what: &'static str,
    work: impl Future<Output = Result<T, NbdError>>,
) -> Result<T, NbdError> {
    tokio::time::timeout(within, work).await.unwrap_or(Err(NbdError::Late { what, within }))
}

#[cfg(test)]
mod tests;
