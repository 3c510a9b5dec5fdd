//! The log that libvirt keeps of the hypervisor process, followed from its first line (contract/lifecycle.md 4.4, 5.3).

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::logging::{Level, forward};

/// Longest joined record; a longer one is cut into several.
const LONGEST: usize = 512 * 1024;

struct Watch(Inotify);

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Follows `path` for as long as the launcher lives, through creation, growth, truncation and rotation. The directory is
/// made by libvirt and may be missing at first: then its nearest existing ancestor is watched.
pub async fn follow_process_log(path: PathBuf) {
    let mut follower = Follower { path: path.clone(), file: None, joined: String::new(), partial: Vec::new() };
    loop {
        if let Err(error) = wait_for_change(&path, &mut follower).await {
            return tracing::warn!("the hypervisor's log {} is not followed: {error}", path.display());
        }
    }
}

fn nearest(path: &Path) -> &Path {
    path.ancestors().skip(1).find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"))
}

/// Watches the nearest directory; reads whatever there is; returns when a nearer directory may exist.
async fn wait_for_change(path: &Path, follower: &mut Follower) -> std::io::Result<()> {
    let directory = nearest(path).to_owned();
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    let wanted = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_MODIFY;
    inotify.add_watch(&directory, wanted | AddWatchFlags::IN_DELETE_SELF)?;
    // SAFETY: `Watch` owns the descriptor and returns the same one until it is dropped.
    let events = unsafe { AsyncFd::register_with_interest(Watch(inotify), Interest::READABLE) }?;
    loop {
        follower.read();
        if nearest(path) != directory {
            return Ok(());
        }
        let mut ready = events.readable().await?;
        // Which event it was does not matter: the file is looked at again.
        let _ = ready.try_io(|events| Ok(events.get_ref().0.read_events()?));
    }
}

struct Follower {
    path: PathBuf,
    /// The open file with its inode and how much of it was read.
    file: Option<(std::fs::File, u64, u64)>,
    /// Lines that ended in a backslash so far.
    joined: String,
    /// An unfinished line.
    partial: Vec<u8>,
}

impl Follower {
    fn read(&mut self) {
        if let Ok(now) = std::fs::metadata(&self.path) {
            let same = self.file.as_ref().is_some_and(|(_, inode, read)| *inode == now.ino() && *read <= now.len());
            if !same {
                // What the old file still had was read before; a rotated file's end comes first.
                self.drain();
                self.file = std::fs::File::open(&self.path).ok().map(|file| (file, now.ino(), 0));
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        let Some((file, _, read)) = &mut self.file else { return };
        if file.seek(SeekFrom::Start(*read)).is_err() {
            return;
        }
        let mut lines = Vec::new();
        let mut buffer = [0_u8; 8192];
        while let Ok(count @ 1..) = file.read(&mut buffer) {
            *read += count as u64;
            for byte in buffer.iter().take(count) {
                if *byte == b'\n' || self.partial.len() >= LONGEST {
                    lines.push(String::from_utf8_lossy(&self.partial).into_owned());
                    self.partial.clear();
                }
                if *byte != b'\n' {
                    self.partial.push(*byte);
                }
            }
        }
        for line in lines {
            if let Some(record) = join(&mut self.joined, &line) {
                forward("qemu", Level::Info, &record, None, None, None);
            }
        }
    }
}

/// Joins a line that ends in a backslash with the following ones (backslash kept); blank lines are dropped.
fn join(joined: &mut String, line: &str) -> Option<String> {
    if line.trim().is_empty() && joined.is_empty() {
        return None;
    }
    joined.push_str(line);
    if line.ends_with('\\') && joined.len() < LONGEST {
        return None;
    }
    Some(std::mem::take(joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continued_lines_become_one_record() {
        let mut joined = String::new();
        let records: Vec<String> =
            ["", "a \\", "b \\", "c", " ", "d"].iter().filter_map(|line| join(&mut joined, line)).collect();
        assert_eq!(records, ["a \\b \\c", "d"]);
    }

    #[test]
    fn rotation_and_truncation_lose_nothing_that_was_written_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.log");
        let mut follower = Follower { path: path.clone(), file: None, joined: String::new(), partial: Vec::new() };
        follower.read();
        assert!(follower.file.is_none());
        std::fs::write(&path, "one\nunfinished").unwrap();
        follower.read();
        assert_eq!(follower.partial, b"unfinished");
        std::fs::rename(&path, folder.path().join("vm.log.0")).unwrap();
        std::fs::write(&path, " line\n").unwrap();
        follower.read();
        assert!(follower.partial.is_empty());
        assert_eq!(follower.file.as_ref().unwrap().2, 6);
        std::fs::write(&path, "x\n").unwrap();
        follower.read();
        assert_eq!(follower.file.as_ref().unwrap().2, 2, "a shorter file is read from its start");
    }
}
