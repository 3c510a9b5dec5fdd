//! The FIFO into which x86 firmware writes its debug log (contract/lifecycle.md 4.5).

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Sink;
use super::guest::GuestLines;
use super::limit::LinesPerSecond;
use crate::files::{Folder, split};

/// The FIFO cannot be used; the firmware's log is missing, nothing else.
#[derive(Debug, thiserror::Error)]
#[error("firmware log {path}: cannot {what}: {source}")]
pub struct FirmwareLogError {
    /// The FIFO.
    pub path: PathBuf,
    /// What was tried.
    pub what: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

/// A running reader of the firmware's log.
#[derive(Debug)]
pub struct FirmwareLog {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl FirmwareLog {
    /// Makes the FIFO, or takes one that a previous launcher left, and forwards what is written into it.
    pub fn open(path: &Path, rate: LinesPerSecond, sink: Sink) -> Result<Self, FirmwareLogError> {
        let failed = |what| {
            let path = path.to_owned();
            move |source| FirmwareLogError { path, what, source }
        };
        let (folder, name) = split(path).map_err(failed("find its directory"))?;
        let folder = Folder::open(folder).map_err(failed("open its directory"))?;
        // Open for writing as well: then its end is never reached, however often QEMU opens and closes it, and reading it
        // never spins.
        let fifo = folder.fifo(name, MODE).map_err(failed("open it"))?;
        let fifo = pipe::Receiver::from_file(fifo).map_err(failed("read from it"))?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(fifo, GuestLines::new("[SeaBios]: ", rate, sink), stopped));
        Ok(FirmwareLog { stop, task })
    }

    /// Forwards what is there and ends.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// QEMU may run as another user.
const MODE: Mode = Mode::from_bits_truncate(0o666);

/// As much as a FIFO holds by default; its writer may be faster than this reader.
const LAST_READS: usize = 16;

async fn run(mut fifo: pipe::Receiver, mut lines: GuestLines, mut stopped: oneshot::Receiver<()>) {
    let mut buffer = vec![0; 4 * 1024];
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            () = lines.note_due() => lines.write_note(),
            read = fifo.read(&mut buffer) => match read {
                Ok(count) => lines.push(buffer.get(..count).unwrap_or_default()),
                Err(error) => {
                    tracing::warn!(reason = %error, "cannot read the firmware log any further");
                    break;
                }
            },
        }
    }
    for _ in 0..LAST_READS {
        // Not by tokio, which may not have heard yet that there is something to read.
        let Ok(count @ 1..) = nix::unistd::read(fifo.as_fd(), &mut buffer) else { break };
        lines.push(buffer.get(..count).unwrap_or_default());
    }
    lines.end();
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn link_in_the_fifos_place_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let (victim, fifo) = (place.path().join("victim"), place.path().join("fifo"));
        std::fs::write(&victim, "mine").unwrap();
        std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&victim, &fifo).unwrap();
        let folder = Folder::open(place.path()).unwrap();
        assert!(folder.fifo("fifo", MODE).is_err());
        assert_eq!(std::fs::metadata(&victim).unwrap().mode() & 0o777, 0o600);
        std::fs::remove_file(&fifo).unwrap();
        assert_eq!(folder.fifo("fifo", MODE).unwrap().metadata().unwrap().mode() & 0o777, 0o666);
    }
}
