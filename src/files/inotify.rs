//! An inotify instance in the form that the runtime can wait for.
#![allow(unsafe_code, reason = "inotify is registered with the runtime")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

struct Instance(Inotify);

impl AsRawFd for Instance {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// What the kernel tells of the directories that are watched.
pub(super) struct Events(AsyncFd<Instance>);

impl Events {
    /// Needs a tokio runtime. Fails where the user has too many instances (128 by default on a node).
    pub(super) fn open() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        // SAFETY: `Instance` owns the inotify descriptor, returns the same one each time and closes it only when dropped.
        let events = unsafe { AsyncFd::register_with_interest(Instance(inotify), Interest::READABLE) }?;
        Ok(Events(events))
    }

    pub(super) fn watch(&self, directory: &Path, interest: AddWatchFlags) -> nix::Result<WatchDescriptor> {
        self.0.get_ref().0.add_watch(directory, interest)
    }

    pub(super) fn forget(&self, watch: WatchDescriptor) {
        // Fails if the directory is gone, and then the watch is gone as well.
        let _ = self.0.get_ref().0.rm_watch(watch);
    }

    /// What has happened since the last call, once there is something. Fails when the runtime ends. Cancel-safe.
    pub(super) async fn next(&self) -> io::Result<Vec<InotifyEvent>> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|instance| Ok(instance.get_ref().0.read_events()?)) {
                Ok(Ok(events)) => return Ok(events),
                // The kernel never reports an error here but for nonsense arguments; waiting for the next readiness cannot spin.
                Ok(Err(error)) => {
                    tracing::warn!(reason = %error, "cannot read inotify events");
                    ready.clear_ready();
                }
                Err(_nothing_there) => {}
            }
        }
    }
}
