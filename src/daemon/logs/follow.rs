//! A file followed by its name, as it grows, is truncated and is replaced.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::daemon::watch::{PathWatch, Watcher};

/// What happened to the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes were read into the buffer.
    Read(usize),
    /// The name stands for another file now, or the file was cut; what follows is read from its start.
    Restarted,
    /// All there is was read; only with `pending: false`.
    UpToDate,
}

struct Open {
    file: File,
    offset: u64,
    /// Another file has its name; it ends when its end is reached.
    replaced: bool,
}

/// Follows a file from its first byte; it need not exist, nor its directory.
pub struct Follower {
    path: PathBuf,
    watch: PathWatch,
    open: Option<Open>,
    /// The last reason why the file could not be opened, so that it is told once.
    complaint: Option<io::ErrorKind>,
}

impl Follower {
    /// Starts at the beginning of the file.
    pub fn new(path: &Path, watcher: &Watcher) -> Self {
        Follower { path: path.to_owned(), watch: watcher.path(path), open: None, complaint: None }
    }

    /// Reads on, waiting for more if there is nothing. Cancel-safe.
    pub async fn next(&mut self, buffer: &mut [u8]) -> Progress {
        loop {
            match self.advance(buffer) {
                Progress::UpToDate => self.watch.changed().await,
                progress @ (Progress::Read(_) | Progress::Restarted) => return progress,
            }
        }
    }

    /// Reads on without waiting.
    pub fn advance(&mut self, buffer: &mut [u8]) -> Progress {
        let Some(open) = &mut self.open else {
            if !self.reopen() {
                return Progress::UpToDate;
            }
            return self.advance(buffer);
        };
        match open.file.read_at(buffer, open.offset) {
            Ok(0) => {}
            Ok(count) => {
                open.offset = open.offset.saturating_add(count as u64);
                return Progress::Read(count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return self.advance(buffer),
            // Nothing more comes from this file; its successor may be better.
            Err(error) => complain(&mut self.complaint, &self.path, &error),
        }
        if open.replaced {
            self.open = None;
            return Progress::Restarted;
        }
        let Ok(own) = open.file.metadata() else { return Progress::UpToDate };
        if own.len() < open.offset {
            open.offset = 0;
            return Progress::Restarted;
        }
        match std::fs::metadata(&self.path) {
            Ok(named) if (named.dev(), named.ino()) != (own.dev(), own.ino()) => {
                // Something may have been written between the read above and the renaming.
                open.replaced = true;
                self.advance(buffer)
            }
            // Renamed away, and its successor is not there yet: its writer may still write.
            Ok(_) | Err(_) => Progress::UpToDate,
        }
    }

    fn reopen(&mut self) -> bool {
        // Without O_NONBLOCK a FIFO in the file's place would block the thread.
        match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path) {
            Ok(file) => {
                self.complaint = None;
                self.open = Some(Open { file, offset: 0, replaced: false });
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                complain(&mut self.complaint, &self.path, &error);
                false
            }
        }
    }
}

fn complain(last: &mut Option<io::ErrorKind>, path: &Path, error: &io::Error) {
    if last.replace(error.kind()) != Some(error.kind()) {
        tracing::warn!(reason = %error, "cannot read {}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    struct Seen {
        follower: Follower,
        text: String,
        restarts: usize,
    }

    impl Seen {
        fn new(path: &Path) -> Self {
            Seen { follower: Follower::new(path, &Watcher::new()), text: String::new(), restarts: 0 }
        }

        /// Follows until so much text was seen.
        async fn until(&mut self, text: &str) {
            let mut buffer = [0; 7];
            while !self.text.ends_with(text) {
                let next = tokio::time::timeout(Duration::from_secs(10), self.follower.next(&mut buffer));
                match next.await.unwrap_or_else(|_| panic!("no {text:?} after {:?}", self.text)) {
                    Progress::Read(count) => self.text.push_str(std::str::from_utf8(&buffer[..count]).unwrap()),
                    Progress::Restarted => self.restarts += 1,
                    Progress::UpToDate => panic!("next does not return without progress"),
                }
            }
        }
    }

    #[tokio::test]
    async fn growth_rotation_truncation_and_removal_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("made/later");
        let path = directory.join("vm.log");
        let mut seen = Seen::new(&path);
        fs::create_dir_all(&directory).unwrap();
        let mut log = fs::File::create(&path).unwrap();
        log.write_all(b"first\n").unwrap();
        seen.until("first\n").await;
        log.write_all(b"second\n").unwrap();
        seen.until("second\n").await;

        log.write_all(b"before rotation\n").unwrap();
        fs::rename(&path, directory.join("vm.log.0")).unwrap();
        log.write_all(b"after rotation\n").unwrap();
        let mut log = fs::File::create(&path).unwrap();
        log.write_all(b"new file\n").unwrap();
        seen.until("new file\n").await;
        assert_eq!(seen.text, "first\nsecond\nbefore rotation\nafter rotation\nnew file\n");
        assert_eq!(seen.restarts, 1);

        log.set_len(0).unwrap();
        let mut log = fs::File::options().append(true).open(&path).unwrap();
        log.write_all(b"cut\n").unwrap();
        seen.until("cut\n").await;
        assert_eq!(seen.restarts, 2);

        fs::remove_dir_all(folder.path().join("made")).unwrap();
        fs::create_dir_all(&directory).unwrap();
        fs::write(&path, "again\n").unwrap();
        seen.until("again\n").await;
    }
}
