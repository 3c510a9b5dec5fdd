//! Follows the serial console's log and prints its complete lines (contract/lifecycle.md 11.4).

use std::io::{self, Write};
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use crate::daemon::logs::{Follower, MAX_LINE, Progress};
use crate::files::Watcher;

/// Follows `logfile` by name, from its beginning, through rotation and truncation, until SIGINT or SIGTERM. An error means
/// that the lines have nowhere to go, or that there is no runtime.
pub fn run(logfile: &Path) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(follow(logfile, &mut io::stdout()))
}

async fn follow(logfile: &Path, out: &mut impl Write) -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut follower = Follower::new(logfile, &Watcher::new());
    let mut lines = CompleteLines { unfinished: Vec::new(), begun: false };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let progress = tokio::select! {
            biased;
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            progress = follower.next(&mut buffer) => progress,
        };
        match progress {
            Progress::Read(count) => lines.push(buffer.get(..count).unwrap_or_default(), out)?,
            Progress::Restarted => lines.end(out)?,
            Progress::UpToDate => {}
        }
        // A console that is written as fast as it is read must not hide the signals.
        tokio::task::yield_now().await;
    }
}

/// Passes lines on, byte by byte as they are, once they are complete; only of an endless one the beginning goes ahead.
struct CompleteLines {
    unfinished: Vec<u8>,
    /// A part of the line was printed already.
    begun: bool,
}

impl CompleteLines {
    fn push(&mut self, bytes: &[u8], out: &mut impl Write) -> io::Result<()> {
        let complete = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (complete, rest) = bytes.split_at_checked(complete).unwrap_or((bytes, &[]));
        if !complete.is_empty() {
            out.write_all(&self.unfinished)?;
            out.write_all(complete)?;
            self.unfinished.clear();
            self.begun = false;
        }
        self.unfinished.extend_from_slice(rest);
        if self.unfinished.len() > MAX_LINE {
            out.write_all(&self.unfinished)?;
            self.unfinished.clear();
            self.begun = true;
        }
        out.flush()
    }

    /// Nothing more comes that belongs to the line.
    fn end(&mut self, out: &mut impl Write) -> io::Result<()> {
        if self.begun || !self.unfinished.is_empty() {
            out.write_all(&self.unfinished)?;
            out.write_all(b"\n")?;
            self.unfinished.clear();
            self.begun = false;
        }
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_complete_lines_are_printed_and_none_is_changed() {
        let mut lines = CompleteLines { unfinished: Vec::new(), begun: false };
        let mut out = Vec::new();
        lines.push(b"a\xff\r\n\nlog", &mut out).unwrap();
        assert_eq!(out, b"a\xff\r\n\n");
        lines.push(b"in: ", &mut out).unwrap();
        assert_eq!(out, b"a\xff\r\n\n");
        lines.push(b"root\nPass", &mut out).unwrap();
        assert_eq!(out, b"a\xff\r\n\nlogin: root\n");
        lines.end(&mut out).unwrap();
        lines.end(&mut out).unwrap();
        assert_eq!(out, b"a\xff\r\n\nlogin: root\nPass\n");
    }

    #[test]
    fn endless_line_takes_no_more_memory_than_the_longest() {
        let mut lines = CompleteLines { unfinished: Vec::new(), begun: false };
        let mut out = Vec::new();
        let count = 3 * MAX_LINE / 1000;
        for _ in 0..count {
            lines.push(&[b'x'; 1000], &mut out).unwrap();
            assert!(lines.unfinished.len() <= MAX_LINE + 1000);
        }
        lines.push(b"\nnext\n", &mut out).unwrap();
        assert_eq!(out.len(), count * 1000 + b"\nnext\n".len());
    }
}
