//! The ends of the logs that nothing else carries out of the pod (contract/lifecycle.md 8.4 step 2).
//!
//! The original replays whole files. Most of each was forwarded while the VM ran, so the end is what may be missing.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::files::{Folder, split};
use crate::logging::Logger;

/// Bytes of each file that are written.
const TAIL: u64 = 64 * 1024;
/// Files of a directory that are written; one VM makes one or two.
const FILES: usize = 16;

/// Writes the end of `file`, if there is such a file, then that of every file in `directory`.
pub fn dump_logs(log: &Logger, file: &Path, directory: &Path) {
    if let Ok((parent, name)) = split(file)
        && let Ok(parent_folder) = Folder::open(parent)
    {
        dump(log, &parent_folder, parent, name);
    }
    match files_of(directory) {
        Ok((folder, names)) => names.iter().for_each(|name| dump(log, &folder, directory, name)),
        // Root-mode pods have their log elsewhere, and without a VM there is none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => log.error("failed to read qemu log directory", &error),
    }
}

fn files_of(directory: &Path) -> io::Result<(Folder, Vec<String>)> {
    let folder = Folder::open(directory)?;
    let mut names = folder.names(FILES)?;
    names.sort();
    Ok((folder, names))
}

fn dump(log: &Logger, folder: &Folder, directory: &Path, name: &str) {
    let path = directory.join(name);
    let (text, skipped) = match tail(folder, name, TAIL) {
        Ok(read) => read,
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

/// The last `limit` bytes of a regular file from a line's start, and how many bytes were left out before them. QEMU's user
/// can lay links there, and the monitor may be root.
fn tail(folder: &Folder, name: &str, limit: u64) -> io::Result<(Vec<u8>, u64)> {
    let mut file = folder.file(name, OFlag::O_RDONLY, Mode::empty())?;
    let mut skipped = file.metadata()?.len().saturating_sub(limit);
    file.seek(SeekFrom::Start(skipped))?;
    let mut text = Vec::new();
    file.take(limit).read_to_end(&mut text)?;
    if skipped > 0
        && let Some(end) = text.iter().position(|byte| *byte == b'\n')
    {
        text.drain(..=end);
        skipped += end as u64 + 1;
    }
    Ok((text, skipped))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn end_of_a_file_starts_with_a_whole_line() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let path = place.path().join("a.log");
        fs::write(&path, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&folder, "a.log", 100).unwrap(), (b"one\ntwo\nthree\n".to_vec(), 0));
        assert_eq!(tail(&folder, "a.log", 8).unwrap(), (b"three\n".to_vec(), 8));
        fs::write(&path, "x".repeat(20)).unwrap();
        assert_eq!(tail(&folder, "a.log", 8).unwrap(), (b"xxxxxxxx".to_vec(), 12));
    }

    #[test]
    fn only_regular_files_of_the_directory_itself_are_read() {
        let place = tempfile::tempdir().unwrap();
        let logs = place.path().join("qemu/log");
        fs::create_dir_all(logs.join("directory")).unwrap();
        nix::unistd::mkfifo(&logs.join("fifo"), Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", logs.join("link")).unwrap();
        let (folder, names) = files_of(&logs).unwrap();
        assert_eq!(names, ["directory", "fifo", "link"]);
        for name in names {
            assert!(tail(&folder, &name, 8).is_err(), "{name}");
        }
        assert_eq!(files_of(&place.path().join("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
        // In a directory that others can write to, the log directory itself may be a link.
        fs::set_permissions(place.path().join("qemu"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        fs::rename(&logs, place.path().join("qemu/old")).unwrap();
        std::os::unix::fs::symlink("/etc", &logs).unwrap();
        assert!(files_of(&logs).is_err());
    }
}
