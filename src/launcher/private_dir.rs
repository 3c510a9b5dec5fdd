//! A directory whose contents others can write to as well: nothing in it is followed out of it.
//!
//! The private directory of a VM belongs to the hypervisor's user. What is opened here is opened beneath the directory and
//! through no link (`openat2`), and only a regular file that is the launcher's own counts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

/// An open directory.
#[derive(Debug)]
pub struct PrivateDir {
    fd: OwnedFd,
}

impl PrivateDir {
    /// Opens `path`, whose last part may be no link.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(PrivateDir { fd: nix::fcntl::open(path, flags, Mode::empty())? })
    }

    /// Opens a file in it.
    pub fn file(&self, name: &str, flags: OFlag, mode: Mode) -> io::Result<File> {
        if name.contains('/') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} is no name of a file")));
        }
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let how = OpenHow::new()
            .flags(flags)
            .mode(mode)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
        let fd = match openat2(self.fd.as_fd(), name, how) {
            // A kernel or a seccomp profile without the call: for a single name O_NOFOLLOW says the same.
            Err(Errno::ENOSYS | Errno::EPERM) => openat(self.fd.as_fd(), name, flags, mode)?,
            result => result?,
        };
        let file = File::from(fd);
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.uid() != geteuid().as_raw() {
            return Err(io::Error::other(format!("{name} is no regular file of the launcher's user")));
        }
        Ok(file)
    }

    /// Reads a file of at most `limit` bytes.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.file(name, OFlag::O_RDONLY, Mode::empty())?;
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Err(io::Error::other(format!("{name} is larger than {limit} bytes")));
        }
        Ok(bytes)
    }

    /// Puts a whole new file in the place of an old one: a reader sees one or the other.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = format!(".{name}.new");
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let mut file = match self.file(&temporary, flags, mode) {
            // A writer that was killed left it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(&temporary)?;
                self.file(&temporary, flags, mode)?
            }
            result => result?,
        };
        let written = file.write_all(bytes).and_then(|()| {
            renameat(self.fd.as_fd(), temporary.as_str(), self.fd.as_fd(), name)?;
            Ok(())
        });
        if written.is_err() {
            let _ = self.remove(&temporary);
        }
        written
    }

    /// Removes a file, which need not be there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(self.fd.as_fd(), name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_read_within_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let directory = PrivateDir::open(folder.path()).unwrap();
        assert_eq!(directory.read("state", 10).unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(folder.path().join(".state.new"), "left by a killed writer").unwrap();
        for text in ["one", "two"] {
            directory.replace("state", text.as_bytes()).unwrap();
            assert_eq!(directory.read("state", 3).unwrap(), text.as_bytes());
        }
        assert!(directory.read("state", 2).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        directory.remove("state").unwrap();
        directory.remove("state").unwrap();
    }

    #[test]
    fn links_and_paths_are_not_followed() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let victim = outside.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let directory = PrivateDir::open(folder.path()).unwrap();
        symlink(&victim, folder.path().join("state")).unwrap();
        symlink(&victim, folder.path().join(".state.new")).unwrap();
        assert!(directory.read("state", 100).is_err());
        assert!(directory.read("../victim", 100).is_err());
        directory.replace("state", b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(directory.read("state", 100).unwrap(), b"new");
        symlink(outside.path(), folder.path().join("link")).unwrap();
        assert!(PrivateDir::open(&folder.path().join("link")).is_err());
        nix::unistd::mkfifo(&folder.path().join("fifo"), Mode::S_IRWXU).unwrap();
        assert!(directory.read("fifo", 100).is_err());
    }
}
