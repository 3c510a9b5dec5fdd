//! The log that libvirt keeps of the hypervisor process, followed through the VM's life (contract/lifecycle.md 4.4, 5.3).

use std::path::Path;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Sink;
use super::follow::{Follower, Progress};
use super::guest::GuestLines;
use super::limit::LinesPerSecond;
use crate::daemon::watch::Watcher;

/// A running follower of a QEMU log.
#[derive(Debug)]
pub struct QemuLog {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl QemuLog {
    /// Forwards the log from its first line, which need not be there yet.
    pub fn follow(path: &Path, watcher: &Watcher, rate: LinesPerSecond, sink: Sink) -> Self {
        let (stop, stopped) = oneshot::channel();
        let follower = Follower::new(path, watcher);
        let task = tokio::spawn(run(follower, GuestLines::new("", rate, sink), stopped));
        QemuLog { stop, task }
    }

    /// Forwards what is there and ends.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// A file that grows as fast as it is read must not keep the launcher from ending: this is 16 MiB.
const LAST_READS: usize = 1024;

async fn run(mut follower: Follower, mut lines: GuestLines, mut stopped: oneshot::Receiver<()>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            () = lines.note_due() => lines.write_note(),
            progress = follower.next(&mut buffer) => take(progress, &buffer, &mut lines),
        }
        // A file that grows as fast as it is read must not keep this thread to itself.
        tokio::task::yield_now().await;
    }
    for _ in 0..LAST_READS {
        match follower.advance(&mut buffer) {
            Progress::UpToDate => break,
            progress @ (Progress::Read(_) | Progress::Restarted) => take(progress, &buffer, &mut lines),
        }
    }
    lines.end();
}

fn take(progress: Progress, buffer: &[u8], lines: &mut GuestLines) {
    match progress {
        Progress::Read(count) => lines.push(buffer.get(..count).unwrap_or_default()),
        Progress::Restarted => lines.finish(),
        Progress::UpToDate => {}
    }
}
