//! `kubevirt.nbd.NBD`: what QEMU serves of a backup, mapped and read (contract/cmd-server.md 7.3). Each call has an NBD
//! connection of its own, which ends with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc::{self, Sender};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::map::{Kind, Messages, merged};
use super::nbd::{BASE_ALLOCATION, Client, DIRTY_BITMAP, Deadlines, LONGEST_READ, NbdError};
use crate::proto::nbd::nbd_server::Nbd;
use crate::proto::nbd::{DataChunk, MapRequest, MapResponse, ReadRequest};

/// Messages that wait for a peer that is slower than QEMU.
const AHEAD: usize = 2;

/// The service on one NBD socket.
#[derive(Debug, Clone)]
pub struct NbdService {
    socket: Arc<Path>,
    deadlines: Deadlines,
}

impl NbdService {
    /// Serves what is served at `socket`.
    pub fn new(socket: PathBuf, deadlines: Deadlines) -> Self {
        NbdService { socket: socket.into(), deadlines }
    }
}

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Nbd(#[from] NbdError),
    #[error("offset {offset} is beyond export size {size}")]
    Offset { offset: u64, size: u64 },
    /// It is not reported: the client has gone.
    #[error("the caller is gone")]
    CallerGone,
}

type Messenger<T> = Sender<Result<T, Status>>;
type Streamed<T> = Result<Response<ReceiverStream<Result<T, Status>>>, Status>;

#[tonic::async_trait]
impl Nbd for NbdService {
    type MapStream = ReceiverStream<Result<MapResponse, Status>>;
    type ReadStream = ReceiverStream<Result<DataChunk, Status>>;

    async fn map(&self, request: Request<MapRequest>) -> Streamed<MapResponse> {
        let service = self.clone();
        Ok(streamed(move |to| async move { service.map_to(request.into_inner(), &to).await }))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Streamed<DataChunk> {
        let service = self.clone();
        Ok(streamed(move |to| async move { service.read_to(request.into_inner(), &to).await }))
    }
}

/// The messages of `work`, and its error as the last. `work` ends when the client has gone.
fn streamed<T: Send + 'static, F>(work: impl FnOnce(Messenger<T>) -> F) -> Response<ReceiverStream<Result<T, Status>>>
where
    F: Future<Output = Result<(), CallError>> + Send + 'static,
{
    let (to, messages) = mpsc::channel(AHEAD);
    let work = work(to.clone());
    tokio::spawn(async move {
        let outcome = tokio::select! {
            outcome = work => outcome,
            () = to.closed() => Err(CallError::CallerGone),
        };
        if let Err(error) = outcome {
            // The code that Go gives an error that has none.
            let _ = to.send(Err(Status::unknown(error.to_string()))).await;
        }
    });
    Response::new(ReceiverStream::new(messages))
}

async fn send<T>(to: &Messenger<T>, message: T) -> Result<(), CallError> {
    to.send(Ok(message)).await.map_err(|_| CallError::CallerGone)
}

/// The end of what is asked for: an absent length, and one that goes too far, mean all there is.
fn end(offset: u64, length: u64, size: u64) -> Result<u64, CallError> {
    if offset >= size {
        return Err(CallError::Offset { offset, size });
    }
    Ok(match (length, offset.checked_add(length)) {
        (1.., Some(end)) => end.min(size),
        (0, _) | (_, None) => size,
    })
}

impl NbdService {
    async fn map_to(&self, request: MapRequest, to: &Messenger<MapResponse>) -> Result<(), CallError> {
        let MapRequest { export_name, bitmap_name, offset, length } = request;
        let mut contexts = vec![BASE_ALLOCATION.to_owned()];
        let kind = match bitmap_name.as_str() {
            "" => Kind::Full,
            name => {
                contexts.push(format!("{DIRTY_BITMAP}{name}"));
                Kind::Changed
            }
        };
        let mut client = Client::connect(&self.socket, &export_name, &contexts, self.deadlines).await?;
        let end = end(offset, length, client.size())?;
        let mut messages = Messages::new(kind, offset);
        while messages.next_offset() < end {
            let at = messages.next_offset();
            // Each status covers one byte at least, so this ends.
            let parts = match client.status(at, end.saturating_sub(at)).await?.as_slice() {
                [allocation, dirty] => merged(allocation, dirty),
                [allocation] => allocation.clone(),
                other => {
                    return Err(NbdError::Protocol(format!("{} contexts in a status", other.len())).into());
                }
            };
            for part in parts {
                if let Some(full) = messages.add(part) {
                    send(to, full).await?;
                }
            }
        }
        if let Some(last) = messages.finish() {
            send(to, last).await?;
        }
        client.close().await;
        Ok(())
    }

    async fn read_to(&self, request: ReadRequest, to: &Messenger<DataChunk>) -> Result<(), CallError> {
        let ReadRequest { export_name, offset, length } = request;
        let mut client = Client::connect(&self.socket, &export_name, &[], self.deadlines).await?;
        let end = end(offset, length, client.size())?;
        let mut at = offset;
        while at < end {
            let length = u32::try_from(end.saturating_sub(at)).unwrap_or(u32::MAX).min(LONGEST_READ);
            let data = client.read(at, length).await?;
            send(to, DataChunk { offset: at, data }).await?;
            at = at.saturating_add(u64::from(length));
        }
        client.close().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_ends_where_the_export_does() {
        for ((offset, length, size), expected) in [
            ((0, 0, 10), Some(10)),
            ((3, 4, 10), Some(7)),
            ((3, 40, 10), Some(10)),
            ((3, u64::MAX, 10), Some(10)),
            ((10, 0, 10), None),
            ((0, 0, 0), None),
        ] {
            assert_eq!(end(offset, length, size).ok(), expected, "{offset} {length} {size}");
        }
        assert_eq!(end(10, 1, 10).unwrap_err().to_string(), "offset 10 is beyond export size 10");
    }
}
