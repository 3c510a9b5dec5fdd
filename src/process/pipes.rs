//! Pipes that other processes hold, as the kernel shows them in `/proc/PID/fd`.
#![allow(unsafe_code, reason = "a pipe is registered with the runtime")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::task::{Context, Poll};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use procfs::process::{FDInfo, FDPermissions, FDTarget, Process};

/// An end of a pipe that a process holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipeEnd {
    /// The process.
    pub pid: i32,
    /// One of its descriptors for this end.
    pub descriptor: i32,
}

impl PipeEnd {
    /// Opens the pipe for reading, without blocking. It is the same pipe: the kernel does not care that its holder writes.
    pub fn read(&self) -> io::Result<File> {
        let path = format!("/proc/{}/fd/{}", self.pid, self.descriptor);
        File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
    }
}

/// A reading end that is held and not read from: while it is there, what is written waits for a reader instead of being
/// refused.
#[derive(Debug)]
pub struct HeldPipe(AsyncFd<File>);

impl HeldPipe {
    /// A hold on the pipe that this process writes into.
    pub fn open(end: &PipeEnd) -> io::Result<Self> {
        let file = end.read()?;
        // SAFETY: the file is owned by the registration, which keeps it open.
        Ok(HeldPipe(unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }?))
    }

    /// Ready once something was written since it was ready last.
    pub fn poll_written(&self, context: &mut Context<'_>) -> Poll<()> {
        match self.0.poll_read_ready(context) {
            Poll::Ready(Ok(mut ready)) => {
                ready.clear_ready();
                Poll::Ready(())
            }
            // The runtime ends.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// Whether it holds bytes that were not read.
    pub fn has_unread(&self) -> bool {
        let mut ends = [PollFd::new(self.0.get_ref().as_fd(), PollFlags::POLLIN)];
        let looked = poll(&mut ends, PollTimeout::ZERO);
        looked.is_ok() && ends.iter().any(|end| end.revents().is_some_and(|seen| seen.contains(PollFlags::POLLIN)))
    }
}

/// The pipes that a process can only write into, by their numbers; the lowest descriptor of each.
pub fn written_pipes(pid: i32) -> io::Result<BTreeMap<u64, PipeEnd>> {
    pipes(pid, FDPermissions::WRITE)
}

/// The pipes that a process can only read from.
pub fn read_pipes(pid: i32) -> io::Result<BTreeMap<u64, PipeEnd>> {
    pipes(pid, FDPermissions::READ)
}

fn pipes(pid: i32, wanted: FDPermissions) -> io::Result<BTreeMap<u64, PipeEnd>> {
    let both = FDPermissions::READ | FDPermissions::WRITE;
    let failed = |error: procfs::ProcError| io::Error::other(error.to_string());
    let mut ends = BTreeMap::<u64, PipeEnd>::new();
    // Descriptors that are closed meanwhile are left out.
    for FDInfo { fd, mode, target } in Process::new(pid).and_then(|process| process.fd()).map_err(failed)?.flatten() {
        let FDTarget::Pipe(number) = target else { continue };
        if FDPermissions::from_bits_truncate(mode) & both == wanted {
            let end = ends.entry(number).or_insert(PipeEnd { pid, descriptor: fd });
            end.descriptor = end.descriptor.min(fd);
        }
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    use nix::sys::stat::fstat;

    use super::*;

    #[test]
    fn pipe_is_read_through_the_descriptor_of_its_writer() {
        let own = i32::try_from(std::process::id()).unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let (read, written) = (read_pipes(own).unwrap(), written_pipes(own).unwrap());
        // Other tests have pipes, too.
        let number = fstat(&writer).unwrap().st_ino;
        assert!(read.contains_key(&number));
        let end = written[&number].clone();
        drop(reader);
        assert!(!read_pipes(own).unwrap().contains_key(&number), "it has no reader");
        let mut second = end.read().unwrap();
        writer.write_all(b"to another reader").unwrap();
        let mut text = [0; 64];
        let length = second.read(&mut text).unwrap();
        assert_eq!(&text[..length], b"to another reader");
        assert_eq!(second.read(&mut text).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[tokio::test]
    async fn pipe_that_is_held_keeps_what_its_reader_leaves() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let end = PipeEnd { pid: own, descriptor: writer.as_raw_fd() };
        let held = HeldPipe::open(&end).unwrap();
        assert!(!held.has_unread());
        writer.write_all(b"read").unwrap();
        std::future::poll_fn(|context| held.poll_written(context)).await;
        assert!(held.has_unread());
        reader.read_exact(&mut [0; 4]).unwrap();
        assert!(!held.has_unread());
        drop(reader);
        writer.write_all(b"left").unwrap();
        std::future::poll_fn(|context| held.poll_written(context)).await;
        assert!(held.has_unread());
        let mut text = [0; 4];
        end.read().unwrap().read_exact(&mut text).unwrap();
        assert_eq!(&text, b"left");
    }
}
