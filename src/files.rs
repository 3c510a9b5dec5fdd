//! Files in directories that others can write to as well: nothing in them leads out of them.
//!
//! A pod's volumes are shared with QEMU's user, with sidecars, with whoever fills a claim. What is opened or made there is
//! opened beneath the first directory that such a user can change, and through no link (`openat2`).
#![allow(clippy::disallowed_methods, reason = "what the rule names; callers choose the thread")]

mod appearance;
mod inotify;
mod watch;
mod with_deadline;

use std::fs::{File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, getegid, geteuid, mkfifoat, symlinkat, unlinkat};

pub use appearance::Appearance;
pub use watch::{LOOK_AGAIN, PathWatch, Watcher};
pub use with_deadline::with_deadline;

/// A directory that is not there and cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct NotMade {
    /// The part of the way where it failed.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

impl From<NotMade> for io::Error {
    fn from(error: NotMade) -> Self {
        io::Error::new(error.source.kind(), error)
    }
}

/// An open directory.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
}

impl Folder {
    /// Opens `path`. Links on the way are followed as long as nobody but root and this process's user can lay them; from
    /// the first directory on that others can change, there may be none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let (_, top, rest) = shared_part(path)?;
        let fd = if rest.as_os_str().is_empty() { top } else { beneath(&top, &rest, DIRECTORY, Mode::empty())? };
        Ok(Folder { fd })
    }

    /// Opens `path` likewise and makes what is missing of it, with `mode` whatever the umask; tells whether `path` itself was
    /// made.
    pub fn make(path: &Path, mode: u32) -> Result<(Self, bool), NotMade> {
        let not_made = |path: &Path| {
            let path = path.to_owned();
            |source| NotMade { path, source }
        };
        let (mut at, top, rest) = shared_part(path).map_err(not_made(path))?;
        let (mut folder, mut made) = (Folder { fd: top }, false);
        for name in rest.iter().map(Path::new) {
            at.push(name);
            (folder, made) = folder.make_one(name, mode).map_err(not_made(&at))?;
        }
        Ok((folder, made))
    }

    fn make_one(&self, name: &Path, mode: u32) -> io::Result<(Self, bool)> {
        let made = match mkdirat(&self.fd, name, Mode::from_bits_truncate(mode)) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            // Where nothing can be made, what is wanted may be there all the same.
            Err(errno) if !self.has(name) => return Err(errno.into()),
            Err(_) => false,
        };
        let folder = Folder { fd: beneath(&self.fd, name, DIRECTORY, Mode::empty())? };
        if made {
            folder.itself()?.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok((folder, made))
    }

    /// The directory as a file, for its mode and its owner.
    pub fn itself(&self) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(openat(&self.fd, ".", flags, Mode::empty())?.into())
    }

    /// Opens a regular file in it. Whatever else is there, looking at it does not block.
    pub fn file(&self, name: &str, flags: OFlag, mode: Mode) -> io::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let file = File::from(beneath(&self.fd, one(name)?, flags, mode)?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other(format!("{name} is no regular file"))),
        }
    }

    /// Opens a FIFO in it for reading and writing, and makes it if it is not there; its mode is `mode` whatever the umask.
    pub fn fifo(&self, name: &str, mode: Mode) -> io::Result<File> {
        match mkfifoat(&self.fd, one(name)?, mode) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let fifo = File::from(beneath(&self.fd, one(name)?, flags, Mode::empty())?);
        let found = fifo.metadata()?;
        if !found.file_type().is_fifo() {
            return Err(io::Error::other(format!("{name} is no FIFO")));
        }
        if found.permissions().mode() & 0o777 != mode.bits() {
            fifo.set_permissions(Permissions::from_mode(mode.bits()))?;
        }
        Ok(fifo)
    }

    /// Names of what is in it, at most so many, in no order.
    pub fn names(&self, most: usize) -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names.take(most).collect())
    }

    /// A new file, to read and write, for this process's user alone. What has the name gives way: the leftover of a
    /// process that was killed, or a link.
    pub fn create(&self, name: &str) -> io::Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let create = || self.file(name, flags, Mode::S_IRUSR | Mode::S_IWUSR);
        match create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.remove(name)?;
                create()
            }
            made => made,
        }
    }

    /// Reads a file of at most `limit` bytes that belongs to this process's user.
    pub fn read(&self, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let file = self.file(name, OFlag::O_RDONLY, Mode::empty())?;
        if file.metadata()?.uid() != geteuid().as_raw() {
            return Err(io::Error::other(format!("{name} is another user's")));
        }
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
        let mut file = self.create(&temporary)?;
        let written = file.write_all(bytes).and_then(|()| self.rename(&temporary, name));
        if written.is_err() {
            let _ = self.remove(&temporary);
        }
        written
    }

    /// Gives a file in it another name, in place of what has that.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.fd, one(from)?, &self.fd, one(to)?)?)
    }

    /// Makes a link to `target`, unless there is something.
    pub fn link(&self, name: &str, target: &Path) -> io::Result<()> {
        Ok(symlinkat(target, &self.fd, one(name)?)?)
    }

    /// Removes a file, which need not be there.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.fd, one(name)?, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn has(&self, name: &Path) -> bool {
        beneath(&self.fd, name, OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()).is_ok()
    }
}

/// Folder and name of a file's path; an error where it has none.
pub fn split(path: &Path) -> io::Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    path.parent()
        .zip(name)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no file's path", path.display())))
}

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Whether the text names a file by itself: one component of a path that leads nowhere else.
pub fn is_component(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

fn one(name: &str) -> io::Result<&Path> {
    is_component(name)
        .then_some(Path::new(name))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a file")))
}

/// The deepest part of `path` that is there and that only root and this process's user could have led elsewhere, and the
/// rest of it.
fn shared_part(path: &Path) -> io::Result<(PathBuf, OwnedFd, PathBuf)> {
    let path = std::path::absolute(path)?;
    let mut components = path.components();
    let mut top: PathBuf = components.next().into_iter().collect();
    let mut rest = components.as_path();
    while let Some(component) = components.next() {
        let next = top.join(component);
        // Where nothing is yet there is nothing to follow.
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match std::fs::symlink_metadata(&next) {
            Ok(found) if is_safe(&std::fs::metadata(&top)?, &found) => {}
            Err(error) if !missing(&error) => return Err(error),
            Ok(_) | Err(_) => break,
        }
        match std::fs::metadata(&next) {
            Err(error) if missing(&error) => break,
            found => found?,
        };
        (top, rest) = (next, components.as_path());
    }
    let open = open_directory(&top)?;
    Ok((top, open, rest.to_owned()))
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Whether nobody but root and this process's user can put something else in the place of this entry of the directory.
fn is_safe(directory: &Metadata, entry: &Metadata) -> bool {
    let trusted = |user| user == 0 || user == geteuid().as_raw();
    let group_is_trusted = directory.gid() == 0 || directory.gid() == getegid().as_raw();
    let others_write = directory.mode() & 0o002 != 0 || directory.mode() & 0o020 != 0 && !group_is_trusted;
    // With the sticky bit, as in /tmp, an entry can be replaced by its owner only.
    trusted(directory.uid()) && (!others_write || directory.mode() & libc::S_ISVTX != 0 && trusted(entry.uid()))
}

/// Opens what is below `top`, through no link.
fn beneath(top: &OwnedFd, rest: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    if !rest.components().all(|component| matches!(component, Component::Normal(_))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} leads upwards", rest.display())));
    }
    // The kernel refuses a mode where nothing is made.
    let mode = if flags.contains(OFlag::O_CREAT) { mode } else { Mode::empty() };
    let how =
        OpenHow::new().flags(flags).mode(mode).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(top, rest, how) {
        // A kernel or a seccomp profile without the call.
        Err(Errno::ENOSYS | Errno::EPERM) => step_by_step(top, rest, flags, mode),
        Err(Errno::ELOOP) => Err(io::Error::other(format!("{} is or leads through a symbolic link", rest.display()))),
        opened => Ok(opened?),
    }
}

/// What [`beneath`] does, with one call for each part of the way: `O_NOFOLLOW` speaks of the last part alone.
fn step_by_step(top: &OwnedFd, rest: &Path, flags: OFlag, mode: Mode) -> io::Result<OwnedFd> {
    let mut folder = top.as_fd().try_clone_to_owned()?;
    let mut names = rest.iter().peekable();
    while let Some(name) = names.next() {
        folder = match names.peek() {
            Some(_) => openat(&folder, name, DIRECTORY, Mode::empty())?,
            None => openat(&folder, name, flags | OFlag::O_NOFOLLOW, mode)?,
        };
    }
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn file_is_replaced_whole_and_read_within_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Folder::open(folder.path()).unwrap();
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
        let directory = Folder::open(folder.path()).unwrap();
        symlink(&victim, folder.path().join("state")).unwrap();
        symlink(&victim, folder.path().join(".state.new")).unwrap();
        assert!(directory.read("state", 100).is_err());
        for name in ["../victim", "..", "", "a/b"] {
            assert!(directory.read(name, 100).is_err() && directory.create(name).is_err(), "{name}");
        }
        directory.replace("state", b"new").unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(directory.read("state", 100).unwrap(), b"new");
        nix::unistd::mkfifo(&folder.path().join("fifo"), Mode::S_IRWXU).unwrap();
        assert!(directory.read("fifo", 100).is_err());
    }

    #[test]
    fn links_that_others_can_lay_lead_nowhere() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let volume = folder.path().join("var/volume");
        let (made, new) = Folder::make(&volume, 0o755).unwrap();
        assert!(new && made.itself().unwrap().metadata().unwrap().mode() & 0o777 == 0o755);
        symlink(folder.path().join("var"), folder.path().join("run")).unwrap();
        symlink(outside.path(), volume.join("link")).unwrap();
        let through_own_link = folder.path().join("run/volume");
        for path in ["link", "link/new"] {
            Folder::make(&through_own_link.join(path), 0o755).unwrap();
        }
        std::fs::remove_dir(outside.path().join("new")).unwrap();
        // From here on others can write there.
        std::fs::set_permissions(&volume, Permissions::from_mode(0o777)).unwrap();
        for path in ["link", "link/new", "../volume/link"] {
            let path = through_own_link.join(path);
            assert!(Folder::open(&path).is_err() && Folder::make(&path, 0o755).is_err(), "{}", path.display());
        }
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let (_, new) = Folder::make(&through_own_link.join("a/b"), 0o755).unwrap();
        assert!(new && volume.join("a/b").is_dir());
        assert!(!Folder::make(&through_own_link.join("a/b"), 0o755).unwrap().1);
    }

    #[test]
    fn step_by_step_is_as_strict() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        symlink("a", folder.path().join("link")).unwrap();
        let top = open_directory(folder.path()).unwrap();
        for (rest, there) in [("a/b", true), ("link/b", false), ("link", false), ("a/c", false)] {
            for open in [beneath, step_by_step] {
                assert_eq!(open(&top, Path::new(rest), DIRECTORY, Mode::empty()).is_ok(), there, "{rest}");
            }
        }
    }
}
