//! Serves a container disk (contract/lifecycle.md 11.1): a socket by which virt-handler finds this container's files, held
//! open until its file goes away.
//!
//! A few hundred KiB of a container's own memory, no threads, and nothing to do until the kernel says so.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, listen, socket};

/// Longest `--copy-path`: with `.sock` it still fits a socket's address.
const LONGEST_PATH: usize = 102;
/// Connections that wait; they are closed as soon as they are accepted.
const BACKLOG: i32 = 50;
/// Milliseconds between two looks at the socket's file where the kernel cannot watch it.
const LOOK_AGAIN: u16 = 1000;

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ContainerDiskError {
    /// The socket's path does not fit.
    #[error("--copy-path {path}: {length} bytes, more than {LONGEST_PATH}")]
    TooLong {
        /// The flag's value.
        path: PathBuf,
        /// Its length.
        length: usize,
    },
    /// A system call failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// Serves `<copy_path>.sock` until the file is gone or SIGTERM comes.
pub fn serve(copy_path: &Path) -> Result<(), ContainerDiskError> {
    let length = copy_path.as_os_str().len();
    if length > LONGEST_PATH {
        return Err(ContainerDiskError::TooLong { path: copy_path.to_owned(), length });
    }
    let mut path = OsString::from(copy_path);
    path.push(".sock");
    let path = PathBuf::from(path);
    let failed = |what| {
        let path = path.clone();
        move |source: io::Error| ContainerDiskError::Io { what, path, source }
    };

    // Before the socket is there, so that a signal finds everything in place. PID 1 does not see a signal that it neither
    // handles nor blocks.
    let mut terminate = SigSet::empty();
    terminate.add(Signal::SIGTERM);
    terminate.thread_block().map_err(|errno| failed("block signals for")(errno.into()))?;
    let signals = SignalFd::with_flags(&terminate, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(|errno| failed("hear signals for")(errno.into()))?;

    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        match DirBuilder::new().mode(0o777).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let path = directory.to_owned();
                return Err(ContainerDiskError::Io { what: "make the directory", path, source: error });
            }
            Ok(()) | Err(_) => {}
        }
    }
    let listener = listen_at(&path).map_err(|errno| failed("listen at")(errno.into()))?;
    let changes = watch(&path);
    loop {
        if !path.exists() {
            return Ok(());
        }
        accept_all(&listener).map_err(|errno| failed("accept at")(errno.into()))?;
        let timeout = if changes.is_some() { PollTimeout::NONE } else { PollTimeout::from(LOOK_AGAIN) };
        let mut wanted =
            vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        wanted.extend(changes.as_ref().map(|changes| PollFd::new(changes.as_fd(), PollFlags::POLLIN)));
        match poll(&mut wanted, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed("wait at")(errno.into())),
        }
        if let Ok(Some(_)) = signals.read_signal() {
            // Gone already is as good.
            let _ = std::fs::remove_file(&path);
            return Ok(());
        }
        if let Some(changes) = &changes {
            // Which change it was does not matter: the file is looked at again.
            let _ = changes.read_events();
        }
    }
}

/// An existing file is an error: somebody else serves there, or did.
fn listen_at(path: &Path) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&listener, Backlog::new(BACKLOG)?)?;
    Ok(listener)
}

/// Hears of what happens in the socket's directory; none if the kernel refuses, and then the file is looked at now and
/// then.
fn watch(path: &Path) -> Option<Inotify> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
    let gone = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
    let all = gone | AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
    inotify.add_watch(directory, all).ok()?;
    Some(inotify)
}

/// Accepts and closes whatever waits.
fn accept_all(listener: &OwnedFd) -> nix::Result<()> {
    use std::os::fd::FromRawFd;
    loop {
        match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY: the descriptor is new and nobody else's.
            Ok(connection) => drop(unsafe { OwnedFd::from_raw_fd(connection) }),
            Err(Errno::EAGAIN) => return Ok(()),
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(errno) => return Err(errno),
        }
    }
}
