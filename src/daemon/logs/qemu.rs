//! The log that libvirt keeps of the hypervisor process, followed through the VM's life (contract/lifecycle.md 4.4, 5.3).

use std::path::Path;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Sink;
use super::follow::{Follower, Position, Progress};
use super::guest::GuestLines;
use super::limit::LinesPerSecond;
use super::mark::Mark;
use crate::files::Watcher;

/// A running follower of a QEMU log.
#[derive(Debug)]
pub struct QemuLog {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl QemuLog {
    /// Forwards the log from its first line, which need not be there yet, or from where the previous launcher left its `mark`.
    pub fn follow(path: &Path, watcher: &Watcher, rate: LinesPerSecond, sink: Sink, mark: Option<Mark>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let follower = Follower::resume(path, watcher, mark.as_ref().and_then(Mark::last));
        let forward = Forward { follower, lines: GuestLines::new("", rate, sink), mark };
        let task = tokio::spawn(forward.run(stopped));
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

struct Forward {
    follower: Follower,
    lines: GuestLines,
    mark: Option<Mark>,
}

impl Forward {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                () = self.lines.note_due() => self.lines.write_note(),
                progress = self.follower.next(&mut buffer) => self.take(progress, &buffer),
            }
            // A file that grows as fast as it is read must not keep this thread to itself.
            tokio::task::yield_now().await;
        }
        for _ in 0..LAST_READS {
            match self.follower.advance(&mut buffer) {
                Progress::UpToDate => break,
                progress @ (Progress::Read(_) | Progress::Restarted) => self.take(progress, &buffer),
            }
        }
        self.lines.end();
    }

    fn take(&mut self, progress: Progress, buffer: &[u8]) {
        match progress {
            Progress::Read(count) => self.lines.push(buffer.get(..count).unwrap_or_default()),
            Progress::Restarted => self.lines.finish(),
            Progress::UpToDate => {}
        }
        self.set_mark();
    }

    /// After the lines were forwarded: a launcher that dies in between says a line twice rather than never.
    fn set_mark(&mut self) {
        let Some(mark) = &mut self.mark else { return };
        let (Some(position), Some(pending)) = (self.follower.position(), self.lines.pending()) else { return };
        let position = Position { offset: position.offset.saturating_sub(pending), ..position };
        if let Err(error) = mark.set(position) {
            tracing::warn!(reason = %error, "the next launcher will forward the hypervisor's log again");
            self.mark = None;
        }
    }
}
