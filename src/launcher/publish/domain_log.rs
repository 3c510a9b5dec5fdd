//! libvirt's log of the domain, for what libvirt itself has forgotten: it writes a line before it tells an event, and one
//! about each end of the VM.
#![allow(clippy::disallowed_methods, reason = "libvirt's log, in the container's own file system")]

use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::domain::StateReason;

/// How much of the log's end is searched; libvirt writes the line just before its event.
const LOG_END: u64 = 256 * 1024;

/// libvirt's names of the reasons for which a domain is shut off (`virDomainShutoffReason`), without "unknown".
const REASONS: [(&str, StateReason); 7] = [
    ("shutdown", StateReason::Shutdown),
    ("destroyed", StateReason::Destroyed),
    ("crashed", StateReason::Crashed),
    ("migrated", StateReason::Migrated),
    ("saved", StateReason::Saved),
    ("failed", StateReason::Failed),
    ("from snapshot", StateReason::FromSnapshot),
];

/// The log, if the hypervisor's driver writes one.
#[derive(Debug, Clone, Default)]
pub struct DomainLog(Option<PathBuf>);

impl DomainLog {
    /// The log at `path`.
    pub fn new(path: Option<PathBuf>) -> Self {
        DomainLog(path)
    }

    /// The end of the log; empty if there is none or it cannot be read, which is worth a line in our own log, with `what`
    /// is missing, and no more.
    pub async fn end(&self, what: &str) -> String {
        let Some(path) = &self.0 else { return String::new() };
        let read = async {
            let mut file = tokio::fs::File::open(path).await?;
            let length = file.metadata().await?.len();
            file.seek(std::io::SeekFrom::Start(length.saturating_sub(LOG_END))).await?;
            let mut end = Vec::new();
            // The file may grow meanwhile.
            file.take(LOG_END).read_to_end(&mut end).await?;
            Ok::<_, std::io::Error>(end)
        };
        let end = read.await.unwrap_or_else(|error| {
            tracing::warn!("no {what}: {}: {error}", path.display());
            Vec::new()
        });
        String::from_utf8_lossy(&end).into_owned()
    }

    /// The reason of the end that the log tells of since the VM was started last; `None` if it tells of none. A daemon that finds
    /// a VM gone says that it crashed, after the daemon that saw its end: the first word counts.
    pub async fn reason_of_end(&self) -> Option<StateReason> {
        reason_of_end(&self.end("reason of the VM's end").await)
    }
}

/// From a line such as `2026-11-21 08:00:00.000+0000: shutting down, reason=shutdown`.
fn reason_of_end(log: &str) -> Option<StateReason> {
    let life = log.rsplit_once(": starting up libvirt version").map_or(log, |(_, life)| life);
    let told = life.lines().find_map(|line| line.split_once(": shutting down, reason="))?.1.trim_end();
    REASONS.iter().find_map(|(name, reason)| (*name == told).then_some(*reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn first_end_of_the_last_life_counts() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let filler = "x".repeat(300_000);
        let lines = "2026-11-21 08:00:00.000+0000: shutting down, reason=destroyed\n\
            2026-11-21 08:00:01.000+0000: starting up libvirt version: 11.3.0\nqemu: terminating on signal 15\n\
            2026-11-21 08:00:02.000+0000: shutting down, reason=shutdown\n\
            2026-11-21 08:00:03.000+0000: shutting down, reason=crashed\n";
        std::fs::write(log.path(), format!("{filler}\n{lines}")).unwrap();
        assert_eq!(DomainLog::new(Some(log.path().to_owned())).reason_of_end().await, Some(StateReason::Shutdown));
        assert_eq!(DomainLog::new(Some("/nowhere/at/all.log".into())).end("reason").await, "");
    }

    #[test]
    fn what_is_not_told_is_not_guessed() {
        for log in ["", "shutting down, reason=shutdown", "t: shutting down, reason=unknown", "reason=crashed"] {
            assert_eq!(reason_of_end(log), None, "{log}");
        }
        assert_eq!(
            reason_of_end("t: shutting down, reason=from snapshot\r\nqemu: later words"),
            Some(StateReason::FromSnapshot)
        );
    }
}
