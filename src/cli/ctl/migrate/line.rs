//! The connections that a migration needs from the source's side to the target's, and how one of them runs.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf, copy_buf};

use crate::launcher::migration::sockets::Channel;

/// Bytes that are copied at once.
const PIECE: usize = 64 << 10;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// The target launcher's command service.
    Launcher,
    /// libvirt's calls.
    Control,
    /// Memory and state of the devices.
    Memory,
    /// Contents of disks.
    Disks,
}

impl Line {
    const ALL: [Line; 4] = [Line::Launcher, Line::Control, Line::Memory, Line::Disks];

    /// The lines that libvirt and QEMU of the source dial.
    pub(super) fn of_libvirt(copies_disks: bool) -> &'static [Line] {
        if copies_disks { &[Line::Control, Line::Memory, Line::Disks] } else { &[Line::Control, Line::Memory] }
    }

    /// The socket; `None` for the launcher's, which has a name of its own.
    pub(super) fn channel(self) -> Option<Channel> {
        match self {
            Line::Launcher => None,
            Line::Control => Some(Channel::Control),
            Line::Memory => Some(Channel::Memory),
            Line::Disks => Some(Channel::Disks),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Line::Launcher => "launcher",
            Line::Control => "control",
            Line::Memory => "memory",
            Line::Disks => "disks",
        }
    }

    pub(super) fn from_name(name: &str) -> Option<Self> {
        Line::ALL.into_iter().find(|line| line.name() == name)
    }
}

/// A connection, whatever carries it.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Connection for S {}

/// A [`Connection`] of any kind.
pub(super) struct Stream(Box<dyn Connection>);

impl Stream {
    pub(super) fn new(connection: impl Connection + 'static) -> Self {
        Stream(Box::new(connection))
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Copies both ways until one side ends; then both end, as in virt-handler's proxy, which forwards no half-close
/// (contract/migration.md 3.2).
pub(super) async fn carry(near: impl Connection, far: impl Connection) {
    let (near_read, mut near_write) = tokio::io::split(near);
    let (far_read, mut far_write) = tokio::io::split(far);
    let mut near_read = BufReader::with_capacity(PIECE, near_read);
    let mut far_read = BufReader::with_capacity(PIECE, far_read);
    tokio::select! {
        _ = copy_buf(&mut near_read, &mut far_write) => {}
        _ = copy_buf(&mut far_read, &mut near_write) => {}
    }
    // A side that has gone cannot be closed.
    let _ = far_write.shutdown().await;
    let _ = near_write.shutdown().await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[test]
    fn names_lead_back_to_their_lines() {
        for line in Line::ALL {
            assert_eq!(Line::from_name(line.name()), Some(line));
        }
        assert_eq!(Line::from_name("other"), None);
    }

    #[tokio::test]
    async fn either_end_ends_both() {
        let (mut source, near) = tokio::io::duplex(8);
        let (far, mut target) = tokio::io::duplex(8);
        let carried = tokio::spawn(carry(near, Stream::new(far)));
        source.write_all(b"there").await.unwrap();
        let mut five = [0; 5];
        target.read_exact(&mut five).await.unwrap();
        target.write_all(b"again").await.unwrap();
        source.read_exact(&mut five).await.unwrap();
        assert_eq!(&five, b"again");
        target.shutdown().await.unwrap();
        assert_eq!(source.read(&mut five).await.unwrap(), 0);
        carried.await.unwrap();
    }
}
