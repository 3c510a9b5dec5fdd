//! From the server's first word to the transmission of one export: fixed newstyle, structured replies, meta contexts, GO.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use super::wire::{self, option, option_reply};
use super::{LONGEST_NAME, NbdError};

/// Longest reply to an option, in bytes: a string, and what is before it.
const LONGEST_REPLY: u32 = 8192;
/// How many replies one option may have; a server that says nothing new for ever is left.
const MOST_REPLIES: usize = 64;

/// What was agreed on.
pub struct Agreed {
    /// The export's size in bytes.
    pub size: u64,
    /// The server's number of each meta context.
    pub contexts: Vec<u32>,
}

/// One reply to an option.
struct Reply {
    kind: u32,
    data: Vec<u8>,
}

pub async fn negotiate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    export: &str,
    contexts: &[String],
) -> Result<Agreed, NbdError> {
    for name in contexts.iter().map(String::as_str).chain([export]) {
        if name.len() > LONGEST_NAME {
            return Err(NbdError::Name(name.len()));
        }
    }
    greet(stream).await?;
    let step = "structured replies";
    send(stream, option::STRUCTURED_REPLY, &[]).await?;
    acknowledged(stream, option::STRUCTURED_REPLY, step, |_| Ok(())).await?;
    let contexts = match contexts {
        [] => Vec::new(),
        contexts => meta_contexts(stream, export, contexts).await?,
    };
    let no_more_than_export = [0; 2];
    send(stream, option::GO, &[&wire::string(export)[..], &no_more_than_export].concat()).await?;
    let mut size = None;
    acknowledged(stream, option::GO, "the export", |reply| {
        if reply.kind == option_reply::INFO
            && let Some((kind, rest)) = reply.data.split_first_chunk()
            && u16::from_be_bytes(*kind) == wire::INFO_EXPORT
        {
            let told = rest.first_chunk().ok_or_else(|| NbdError::Protocol("an export without size".to_owned()))?;
            size = Some(u64::from_be_bytes(*told));
        }
        Ok(())
    })
    .await?;
    let size = size.ok_or_else(|| NbdError::Protocol("an export without size".to_owned()))?;
    Ok(Agreed { size, contexts })
}

async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>) -> Result<(), NbdError> {
    let (first, second) = (stream.read_u64().await?, stream.read_u64().await?);
    if (first, second) != (wire::SERVER, wire::OPTION) {
        return Err(NbdError::Protocol(format!(
            "{first:#018x} {second:#018x} is not the greeting of a newstyle server"
        )));
    }
    let offered = stream.read_u16().await?;
    if offered & wire::FIXED_NEWSTYLE == 0 {
        return Err(NbdError::Protocol("a server without fixed newstyle negotiation".to_owned()));
    }
    let flags = u32::from(offered & (wire::FIXED_NEWSTYLE | wire::NO_ZEROES));
    stream.get_mut().write_all(&flags.to_be_bytes()).await?;
    Ok(())
}

async fn meta_contexts<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    export: &str,
    contexts: &[String],
) -> Result<Vec<u32>, NbdError> {
    let count = u32::try_from(contexts.len()).unwrap_or(u32::MAX);
    let mut data = wire::string(export);
    data.extend(count.to_be_bytes());
    for context in contexts {
        data.extend(wire::string(context));
    }
    send(stream, option::SET_META_CONTEXT, &data).await?;
    let mut found: Vec<Option<u32>> = vec![None; contexts.len()];
    acknowledged(stream, option::SET_META_CONTEXT, "meta contexts", |reply| {
        if reply.kind == option_reply::META_CONTEXT
            && let Some((id, name)) = reply.data.split_first_chunk()
        {
            for (found, _) in found.iter_mut().zip(contexts).filter(|(_, context)| context.as_bytes() == name) {
                *found = Some(u32::from_be_bytes(*id));
            }
        }
        Ok(())
    })
    .await?;
    let had = found.into_iter().zip(contexts);
    had.map(|(id, context)| id.ok_or_else(|| NbdError::NoContext(context.clone()))).collect()
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut BufReader<S>,
    option: u32,
    data: &[u8],
) -> Result<(), NbdError> {
    let stream = stream.get_mut();
    stream.write_all(&wire::option_request(option, data)).await?;
    stream.flush().await?;
    Ok(())
}

/// Takes the replies to `option` up to its acknowledgement.
async fn acknowledged<S: AsyncRead + Unpin>(
    stream: &mut BufReader<S>,
    option: u32,
    step: &'static str,
    mut take: impl FnMut(Reply) -> Result<(), NbdError>,
) -> Result<(), NbdError> {
    for _ in 0..MOST_REPLIES {
        let magic = stream.read_u64().await?;
        let (about, kind, length) = (stream.read_u32().await?, stream.read_u32().await?, stream.read_u32().await?);
        if (magic, about) != (wire::OPTION_REPLY, option) {
            return Err(NbdError::Protocol(format!("{magic:#018x} about option {about} in reply to option {option}")));
        }
        if length > LONGEST_REPLY {
            return Err(NbdError::Protocol(format!("a reply of {length} bytes to option {option}")));
        }
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data).await?;
        if kind & option_reply::ERROR != 0 {
            let said = String::from_utf8_lossy(&data);
            let reason = match said.trim() {
                "" => format!("error {}", kind & !option_reply::ERROR),
                said => said.to_owned(),
            };
            return Err(NbdError::Refused { step, reason });
        }
        if kind == option_reply::ACK {
            return Ok(());
        }
        take(Reply { kind, data })?;
    }
    Err(NbdError::Protocol(format!("more than {MOST_REPLIES} replies to option {option}")))
}
