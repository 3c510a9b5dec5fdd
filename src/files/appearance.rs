//! Waits for a file or socket to appear, by inotify.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use nix::sys::inotify::AddWatchFlags;

use super::inotify::Events;

/// Watches a directory for one name that is made in it or moved into it.
pub struct Appearance {
    events: Events,
    name: OsString,
}

impl Appearance {
    /// Starts watching: what appears from now on is not missed. Fails if the directory is missing or watches run out.
    pub fn of(path: &Path) -> io::Result<Self> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        let events = Events::open()?;
        events.watch(directory, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)?;
        Ok(Appearance { events, name: name.to_owned() })
    }

    /// Returns when the name has appeared, or when events were lost and it may have.
    pub async fn appeared(&mut self) -> io::Result<()> {
        let lost = AddWatchFlags::IN_Q_OVERFLOW | AddWatchFlags::IN_IGNORED;
        loop {
            let events = self.events.next().await?;
            if events.iter().any(|event| event.mask.intersects(lost) || event.name.as_ref() == Some(&self.name)) {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn watched_name_is_noticed_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe.sock");
        let mut appearance = Appearance::of(&path).unwrap();
        std::fs::write(directory.path().join("other"), "").unwrap();
        let waiting = tokio::spawn(async move { appearance.appeared().await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        std::fs::write(&path, "").unwrap();
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn missing_directory_is_an_error() {
        assert!(Appearance::of(Path::new("/nonexistent/pipe.sock")).is_err());
    }
}
