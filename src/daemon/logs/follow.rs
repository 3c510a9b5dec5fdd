//! A file followed by its name, as it grows, is truncated and is replaced.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::files::{PathWatch, Watcher};

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

/// How far a file was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The file system's number.
    pub device: u64,
    /// The file's number in it.
    pub inode: u64,
    /// Bytes from its start.
    pub offset: u64,
}

impl Position {
    fn is_in(&self, about: &Metadata) -> bool {
        (self.device, self.inode) == (about.dev(), about.ino()) && self.offset <= about.len()
    }
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
    /// Where an earlier reader stopped, until the first file is open.
    resume: Option<Position>,
    /// The last reason why the file could not be opened, so that it is logged once.
    complaint: Option<io::ErrorKind>,
}

impl Follower {
    /// Starts at the beginning of the file.
    pub fn new(path: &Path, watcher: &Watcher) -> Self {
        Follower { path: path.to_owned(), watch: watcher.path(path), open: None, resume: None, complaint: None }
    }

    /// Goes on where an earlier reader stopped, also in a file that was rotated to `NAME.0` since; at the beginning if that
    /// file is not there any more.
    pub fn resume(path: &Path, watcher: &Watcher, from: Option<Position>) -> Self {
        Follower { resume: from, ..Follower::new(path, watcher) }
    }

    /// How far the file was read that is open now.
    pub fn position(&self) -> Option<Position> {
        let open = self.open.as_ref()?;
        let about = open.file.metadata().ok()?;
        Some(Position { device: about.dev(), inode: about.ino(), offset: open.offset })
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
        match open(&self.path) {
            Ok(file) => {
                self.complaint = None;
                self.open = Some(match self.resume.take() {
                    None => Open { file, offset: 0, replaced: false },
                    Some(from) => resumed(file, from, &self.path),
                });
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

/// Without O_NONBLOCK a FIFO in the file's place would block the thread.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// `file`, or what it was rotated from if that was read last.
fn resumed(file: File, from: Position, path: &Path) -> Open {
    if file.metadata().is_ok_and(|about| from.is_in(&about)) {
        return Open { file, offset: from.offset, replaced: false };
    }
    let mut rotated = path.as_os_str().to_owned();
    rotated.push(".0");
    match open(Path::new(&rotated)) {
        Ok(before) if before.metadata().is_ok_and(|about| from.is_in(&about)) => {
            Open { file: before, offset: from.offset, replaced: true }
        }
        Ok(_) | Err(_) => Open { file, offset: 0, replaced: false },
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

        /// What follows `self` when its reader has died.
        fn successor(&self, path: &Path) -> Self {
            let follower = Follower::resume(path, &Watcher::new(), self.follower.position());
            Seen { follower, text: String::new(), restarts: 0 }
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

    #[tokio::test]
    async fn later_reader_repeats_nothing_and_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.log");
        let mut log = fs::File::create(&path).unwrap();
        log.write_all(b"old\n").unwrap();
        let mut first = Seen::new(&path);
        first.until("old\n").await;
        log.write_all(b"while nobody read\n").unwrap();
        let mut second = first.successor(&path);
        second.until("read\n").await;
        assert_eq!((second.text.as_str(), second.restarts), ("while nobody read\n", 0));

        log.write_all(b"before the rotation\n").unwrap();
        fs::rename(&path, folder.path().join("vm.log.0")).unwrap();
        fs::write(&path, "after the rotation\n").unwrap();
        let mut third = second.successor(&path);
        third.until("after the rotation\n").await;
        assert_eq!(third.text, "before the rotation\nafter the rotation\n");

        // Another file in its place, and one that was cut.
        fs::remove_file(folder.path().join("vm.log.0")).unwrap();
        fs::write(folder.path().join("new"), "from the start\n").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        let mut fourth = third.successor(&path);
        fourth.until("start\n").await;
        fs::write(&path, "cut\n").unwrap();
        let mut fifth = fourth.successor(&path);
        fifth.until("cut\n").await;
        assert_eq!((fourth.text.as_str(), fifth.text.as_str()), ("from the start\n", "cut\n"));
    }
}
