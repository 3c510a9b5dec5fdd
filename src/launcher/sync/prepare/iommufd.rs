//! The IOMMUFD descriptor that a device plugin hands to the pod over a socket (contract/cmd-server.md 5.2). It is asked
//! for once and kept for as long as the launcher lives; libvirt gets a copy at every start.
#![allow(unsafe_code, reason = "descriptors that came over a socket")]

use std::io::{self, ErrorKind, IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Where the plugin listens, in the pod.
pub(crate) const SOCKET: &str = "/var/run/kubevirt/iommufd.sock";
/// How long the plugin may take for its message, and for taking the answer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);
/// Most bytes that come with the descriptor.
const PAYLOAD: usize = 32;

/// The descriptor, once received.
#[derive(Debug, Default)]
pub struct Iommufd(Mutex<Option<OwnedFd>>);

impl Iommufd {
    /// Receives the descriptor unless it is here already; `false` where nobody listens because there is no socket. Waits
    /// for the plugin up to `deadline`, each for its message and for taking the answer.
    pub(crate) fn receive(&self, socket: &Path, deadline: Duration) -> Result<bool, String> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_some() {
            return Ok(true);
        }
        match ask(socket, deadline) {
            Ok(received) => *kept = Some(received),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                return Err(format!("IOMMUFD socket exists but failed to receive FD: {}: {error}", socket.display()));
            }
        }
        Ok(true)
    }

    /// A copy to give away, if there is a descriptor.
    pub(crate) fn copy(&self) -> Result<Option<OwnedFd>, String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let copy = kept.as_ref().map(OwnedFd::try_clone).transpose();
        copy.map_err(|error| format!("failed to dup IOMMUFD FD: {error}"))
    }
}

fn ask(path: &Path, deadline: Duration) -> io::Result<OwnedFd> {
    let mut socket = UnixStream::connect(path)?;
    socket.set_read_timeout(Some(deadline))?;
    socket.set_write_timeout(Some(deadline))?;
    let mut payload = [0; PAYLOAD];
    let mut slices = [IoSliceMut::new(&mut payload)];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 4]);
    let received =
        recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).map_err(said)?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else knows their numbers.
            descriptors.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
    }
    let count = descriptors.len();
    match (descriptors.pop(), count) {
        (Some(descriptor), 1) => {
            socket.write_all(&[0])?;
            Ok(descriptor)
        }
        _ => Err(io::Error::new(ErrorKind::InvalidData, format!("{count} descriptors came, not 1"))),
    }
}

fn said(error: nix::Error) -> io::Error {
    match error {
        nix::Error::EAGAIN => io::Error::new(ErrorKind::TimedOut, "the device plugin sends nothing"),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Read};
    use std::os::unix::net::UnixListener;

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    #[test]
    fn descriptor_is_received_once_and_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("iommufd.sock");
        let iommufd = Iommufd::default();
        assert_eq!(iommufd.receive(&path, SOON), Ok(false));
        assert!(iommufd.copy().unwrap().is_none());
        let listener = UnixListener::bind(&path).unwrap();
        let plugin = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let file = std::fs::File::open("/dev/null").unwrap();
            let rights = [file.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&rights)];
            sendmsg::<()>(peer.as_raw_fd(), &[IoSlice::new(b"iommufd")], &rights, MsgFlags::empty(), None).unwrap();
            let mut answer = Vec::new();
            peer.read_to_end(&mut answer).unwrap();
            answer
        });
        assert_eq!(iommufd.receive(&path, Duration::from_secs(30)), Ok(true));
        assert_eq!(plugin.join().unwrap(), [0]);
        assert_eq!(iommufd.receive(&path, SOON), Ok(true), "nobody listens any more");
        let copy = iommufd.copy().unwrap().unwrap();
        let target = std::fs::read_link(format!("/proc/self/fd/{}", copy.as_raw_fd())).unwrap();
        assert_eq!(target, Path::new("/dev/null"));
    }

    #[test]
    fn plugin_that_sends_nothing_is_an_error_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("iommufd.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let text = Iommufd::default().receive(&path, SOON).unwrap_err();
        assert!(
            text.starts_with("IOMMUFD socket exists but failed to receive FD: ") && text.contains("nothing"),
            "{text}"
        );
        drop(listener);
        let text = Iommufd::default().receive(&path, SOON).unwrap_err();
        assert!(text.contains("refused"), "{text}");
    }
}
