//! A log that comes through a pipe and is kept in a file, as virtlogd does it.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::files::{Folder, split};

/// As virtlogd by default: a file that has more bytes gets another name, in place of the one before it.
const LARGEST: u64 = 2 * 1024 * 1024;
/// Bytes that the pipe may hold before its writer has to wait.
const PIPE: libc::c_int = 1024 * 1024;

/// The file.
struct Kept {
    folder: Folder,
    name: String,
    file: File,
    length: u64,
}

impl Kept {
    fn open(path: &Path) -> io::Result<Self> {
        let (directory, name) = split(path)?;
        let folder = Folder::open(directory)?;
        let (file, length) = append(&folder, name)?;
        Ok(Kept { folder, name: name.to_owned(), file, length })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.length >= LARGEST {
            self.folder.rename(&self.name, &format!("{}.0", self.name))?;
            (self.file, self.length) = append(&self.folder, &self.name)?;
        }
        self.file.write_all(bytes)?;
        self.length = self.length.saturating_add(bytes.len() as u64);
        Ok(())
    }
}

fn append(folder: &Folder, name: &str) -> io::Result<(File, u64)> {
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT;
    let file = folder.file(name, flags, Mode::from_bits_truncate(0o600))?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// Appends what comes through `pipe` to the file `path`, in a task of its own, until its last writer has closed it.
/// What cannot be written is dropped: the writer of the pipe must never wait for a disk that is full.
pub fn copy_log(pipe: File, path: PathBuf) -> io::Result<()> {
    // As much as the user may have.
    let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE));
    let mut pipe = pipe::Receiver::from_file(pipe)?;
    let mut kept = Kept::open(&path)?;
    tokio::spawn(async move {
        let mut buffer = vec![0; 16 * 1024];
        let mut complaint = None;
        while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
            match kept.write(buffer.get(..count).unwrap_or_default()) {
                Ok(()) => complaint = None,
                Err(error) if complaint == Some(error.kind()) => {}
                Err(error) => {
                    complaint = Some(error.kind());
                    tracing::warn!(reason = %error, "cannot write {}, some of it is lost", path.display());
                }
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn file_is_appended_to_and_never_grows_without_bound() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "before\n").unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        copy_log(File::from(OwnedFd::from(reader)), path.clone()).unwrap();
        let until = async |text: &str| {
            let there = async {
                while !std::fs::read_to_string(&path).is_ok_and(|now| now == text) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), there).await.expect("the file has another text");
        };
        writer.write_all(b"after\n").unwrap();
        until("before\nafter\n").await;
        std::fs::File::options().write(true).open(&path).unwrap().set_len(LARGEST).unwrap();
        // Another reader of the size: the copier counts what it wrote itself.
        let mut kept = Kept::open(&path).unwrap();
        kept.write(b"in another file\n").unwrap();
        until("in another file\n").await;
        assert_eq!(std::fs::metadata(folder.path().join("log.0")).unwrap().len(), LARGEST);
    }
}
