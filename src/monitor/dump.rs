//! The ends of the logs that nobody else carries out of the pod (contract/lifecycle.md 8.4 step 2).
//!
//! The original replays whole files. Most of each was forwarded while the VM ran, so the end is what may be missing.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::logging::Logger;

/// Bytes of each file that are written.
const TAIL: u64 = 64 * 1024;
/// Files of a directory that are written; one VM makes one or two.
const FILES: usize = 16;

/// Writes the end of `file`, if there is such a file, then that of every file in `directory`.
pub fn dump_logs(log: &Logger, file: &Path, directory: &Path) {
    dump(log, file);
    match files_of(directory) {
        Ok(files) => {
            for file in files {
                dump(log, &file);
            }
        }
        // Root-mode pods have their log elsewhere, and without a VM there is none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => log.error("failed to read qemu log directory", &error),
    }
}

fn files_of(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory)?.filter_map(Result::ok).map(|entry| entry.path()).take(FILES).collect();
    files.sort();
    Ok(files)
}

fn dump(log: &Logger, path: &Path) {
    let (text, skipped) = match tail(path, TAIL) {
        Ok(Some(read)) => read,
        Ok(None) => return,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return log.error(&format!("cannot read the log file {}", path.display()), &error),
    };
    log.info(&format!("dump log file: {}", path.display()));
    if skipped > 0 {
        log.info(&format!("its first {skipped} bytes are left out"));
    }
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        log.info(&String::from_utf8_lossy(line));
    }
}

/// The last `limit` bytes of a regular file from a line's start, and how many bytes were left out before them; `None` for
/// anything but a regular file.
fn tail(path: &Path, limit: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
    // A FIFO must not make us wait for its writer; a link may lead anywhere.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut skipped = metadata.len().saturating_sub(limit);
    file.seek(SeekFrom::Start(skipped))?;
    let mut text = Vec::new();
    file.take(limit).read_to_end(&mut text)?;
    if skipped > 0
        && let Some(end) = text.iter().position(|byte| *byte == b'\n')
    {
        text.drain(..=end);
        skipped += end as u64 + 1;
    }
    Ok(Some((text, skipped)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_file_starts_with_a_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&path, 100).unwrap(), Some((b"one\ntwo\nthree\n".to_vec(), 0)));
        assert_eq!(tail(&path, 8).unwrap(), Some((b"three\n".to_vec(), 8)));
        fs::write(&path, "x".repeat(20)).unwrap();
        assert_eq!(tail(&path, 8).unwrap(), Some((b"xxxxxxxx".to_vec(), 12)));
    }

    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(tail(&fifo, 8).unwrap(), None);
        assert_eq!(tail(folder.path(), 8).unwrap(), None);
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        assert!(tail(&folder.path().join("link"), 8).is_err());
        assert!(files_of(&folder.path().join("missing")).is_err());
        assert_eq!(files_of(folder.path()).unwrap().len(), 2);
    }
}
