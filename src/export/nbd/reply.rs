//! One chunk of a structured reply.

use tokio::io::{AsyncRead, AsyncReadExt};

use super::wire::{self, chunk};
use super::{NbdError, Part};

/// Longest status of one meta context, in bytes; QEMU's own bound is 1 MiB of parts.
const LONGEST_STATUS: u32 = 2 << 20;
/// Longest text of an error, in bytes, with what is before it.
const LONGEST_ERROR: u32 = 8192;
/// Bytes of a part in a status.
const PART: usize = 8;

/// What a chunk holds.
pub enum Chunk {
    /// Nothing: the reply ends.
    Nothing,
    /// Bytes of the export.
    Data {
        /// Where in the export they are.
        offset: u64,
        /// They.
        data: Vec<u8>,
    },
    /// Zeroes of the export.
    Hole {
        /// Where in the export they are.
        offset: u64,
        /// How many.
        length: u32,
    },
    /// What one meta context says.
    Status {
        /// The server's number of the context.
        context: u32,
        /// One after the other, from the request's offset on.
        parts: Vec<Part>,
    },
    /// The request failed.
    Failed(String),
}

/// Reads the next chunk of the reply to the request `cookie`, with at most `most` bytes of data. True if it is the last.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S, cookie: u64, most: u32) -> Result<(Chunk, bool), NbdError> {
    let protocol = |why: String| Err(NbdError::Protocol(why));
    let magic = stream.read_u32().await?;
    if magic == wire::SIMPLE_REPLY {
        let (error, about) = (stream.read_u32().await?, stream.read_u64().await?);
        return match (about == cookie, error) {
            (true, 1..) => Ok((Chunk::Failed(reason(error, &[])), true)),
            (true, 0) => protocol("a simple reply where structured ones were agreed on".to_owned()),
            (false, _) => protocol(format!("a reply to request {about}, not {cookie}")),
        };
    }
    if magic != wire::STRUCTURED_REPLY {
        return protocol(format!("{magic:#010x} is not a reply"));
    }
    let (flags, kind) = (stream.read_u16().await?, stream.read_u16().await?);
    let (about, length) = (stream.read_u64().await?, stream.read_u32().await?);
    if about != cookie {
        return protocol(format!("a reply to request {about}, not {cookie}"));
    }
    let bounds = match kind {
        chunk::NONE => 0..=0,
        chunk::OFFSET_DATA => 9..=most.saturating_add(8),
        chunk::OFFSET_HOLE => 12..=12,
        chunk::BLOCK_STATUS => 12..=LONGEST_STATUS,
        error if error & chunk::ERROR != 0 => 6..=LONGEST_ERROR,
        other => return protocol(format!("a chunk of kind {other}")),
    };
    if !bounds.contains(&length) {
        return protocol(format!("{length} bytes in a chunk of kind {kind}"));
    }
    let done = flags & wire::DONE != 0;
    let chunk = match kind {
        chunk::NONE if !done => return protocol("an empty chunk that is not the last".to_owned()),
        chunk::NONE => Chunk::Nothing,
        chunk::OFFSET_DATA => {
            let offset = stream.read_u64().await?;
            let mut data = vec![0; length.saturating_sub(8) as usize];
            stream.read_exact(&mut data).await?;
            Chunk::Data { offset, data }
        }
        chunk::OFFSET_HOLE => Chunk::Hole { offset: stream.read_u64().await?, length: stream.read_u32().await? },
        chunk::BLOCK_STATUS => {
            let context = stream.read_u32().await?;
            let mut data = vec![0; length.saturating_sub(4) as usize];
            stream.read_exact(&mut data).await?;
            let (parts, []) = data.as_chunks::<PART>() else {
                return protocol(format!("{length} bytes in a status"));
            };
            let parts = parts.iter().map(|[a, b, c, d, e, f, g, h]| Part {
                length: u64::from(u32::from_be_bytes([*a, *b, *c, *d])),
                flags: u32::from_be_bytes([*e, *f, *g, *h]),
            });
            Chunk::Status { context, parts: parts.collect() }
        }
        // An error: its number, the length of its text, the text; what may follow is not needed.
        _ => {
            let (error, text) = (stream.read_u32().await?, stream.read_u16().await?);
            let mut data = vec![0; length.saturating_sub(6) as usize];
            stream.read_exact(&mut data).await?;
            Chunk::Failed(reason(error, data.get(..usize::from(text)).unwrap_or(&data)))
        }
    };
    Ok((chunk, done))
}

/// NBD's error numbers are Linux's.
fn reason(error: u32, text: &[u8]) -> String {
    let error = nix::errno::Errno::from_raw(i32::try_from(error).unwrap_or_default());
    match String::from_utf8_lossy(text).trim() {
        "" => error.desc().to_owned(),
        text => format!("{text} ({})", error.desc()),
    }
}
