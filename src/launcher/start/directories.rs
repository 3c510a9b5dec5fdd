//! The directories that the rest of the launcher, libvirt and virt-handler expect (contract/lifecycle.md 3.1, 3.2).
//!
//! Modes are exact whatever the process's umask: each directory's mode is set after it was made, and the umask, which all
//! threads share, stays as it is.
#![allow(clippy::disallowed_methods, reason = "the pod's own folders, before there is a VM")]

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

use crate::files::{Folder, NotMade};
use crate::storage::Owner;

/// The user that the hypervisor runs as.
pub const QEMU_USER: &str = "qemu";

/// Where the private files of a VM are.
pub use crate::domain::PRIVATE_DIR;

/// In a VM's private directory: what the guest says on its serial console.
pub const SERIAL_LOG: &str = "virt-serial0-log";

/// The image's users.
pub const PASSWD_FILE: &str = "/etc/passwd";

/// Why the launcher cannot have its directories.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A system call failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The path cannot be used.
    #[error("{path} is not a directory")]
    NoDirectory {
        /// What is there.
        path: PathBuf,
    },
    /// The image lacks the user.
    #[error("{passwd} has no user {name}, which must own the hypervisor's files")]
    UnknownUser {
        /// The file that was read.
        passwd: PathBuf,
        /// The user.
        name: String,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { what, path, source }
}

/// Looks a user and its first group up. The file is read as it is: a static program has no name service switch.
pub fn user(passwd: &Path, name: &str) -> Result<Owner, DirectoryError> {
    let text = std::fs::read(passwd).map_err(failed("read", passwd))?;
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let found = fields.next()? == name;
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            found.then_some(Owner { uid, gid })
        })
        .next()
        .ok_or_else(|| DirectoryError::UnknownUser { passwd: passwd.to_owned(), name: name.to_owned() })
}

/// What has to be there.
#[derive(Debug, Clone, Copy)]
pub struct Directories<'a> {
    /// [`PRIVATE_DIR`], or another place in a test.
    pub private: &'a Path,
    /// `--ephemeral-disk-dir`.
    pub ephemeral_disks: &'a Path,
    /// `--container-disk-dir`.
    pub container_disks: &'a Path,
    /// `--hotplug-disk-dir`.
    pub hotplug_disks: &'a Path,
    /// The VMI's UID.
    pub uid: &'a str,
    /// Whether the launcher runs as root.
    pub root: bool,
    /// The hypervisor's user.
    pub qemu: Owner,
}

/// One of them.
struct Wanted {
    path: PathBuf,
    mode: u32,
    /// Also where the directory was there before.
    enforce_mode: bool,
    owner: Option<Owner>,
}

/// Below the private directory: disks that the launcher makes, and a socket that QEMU listens on.
const PRIVATE_DISKS: [&str; 7] = [
    "vm-disks",
    "config-map-disks",
    "sysprep-disks",
    "secret-disks",
    "downwardapi-disks",
    "service-account-disk",
    "downwardmetrics-channel",
];

impl Directories<'_> {
    /// Makes what is missing. Doing it again changes nothing.
    pub fn make(&self) -> Result<(), DirectoryError> {
        self.wanted().iter().try_for_each(make)?;
        if self.root { self.serial_log() } else { Ok(()) }
    }

    fn wanted(&self) -> Vec<Wanted> {
        let plain = |path: PathBuf, mode| Wanted { path, mode, enforce_mode: false, owner: None };
        let mut wanted = vec![
            Wanted { owner: Some(self.qemu), ..plain(self.private.join(self.uid), 0o755) },
            plain(self.ephemeral_disks.join("cloud-init-data"), 0o755),
            plain(self.ephemeral_disks.join("ignition-data"), 0o755),
            plain(self.ephemeral_disks.join("disk-data"), 0o755),
            // The kubelet's volume: made by it, with a mode that an ordinary user may not change.
            plain(self.container_disks.to_owned(), 0o750),
            plain(self.hotplug_disks.to_owned(), 0o755),
        ];
        wanted.extend(PRIVATE_DISKS.map(|name| Wanted {
            path: self.private.join(name),
            mode: 0o750,
            enforce_mode: true,
            owner: Some(self.qemu),
        }));
        wanted
    }

    /// The serial console's log, which virtlogd opens as the hypervisor's user.
    fn serial_log(&self) -> Result<(), DirectoryError> {
        let directory = self.private.join(self.uid);
        let path = directory.join(SERIAL_LOG);
        let folder = Folder::open(&directory).map_err(failed("open", &directory))?;
        let mode = Mode::from_bits_truncate(0o666);
        let file = match folder.file(SERIAL_LOG, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                folder.file(SERIAL_LOG, OFlag::O_WRONLY, Mode::empty()).map_err(failed("open", &path))?
            }
            made => made.map_err(failed("make", &path))?,
        };
        own(&file, &path, self.qemu)
    }
}

fn make(wanted: &Wanted) -> Result<(), DirectoryError> {
    let Wanted { path, mode, enforce_mode, owner } = wanted;
    let (folder, made) = Folder::make(path, *mode).map_err(|NotMade { path, source }| match source.kind() {
        io::ErrorKind::NotADirectory => DirectoryError::NoDirectory { path },
        _ => failed("make the directory", &path)(source),
    })?;
    if !made && !enforce_mode && owner.is_none() {
        return Ok(());
    }
    let directory = folder.itself().map_err(failed("open", path))?;
    if !made && *enforce_mode {
        set_mode(&directory, path, *mode)?;
    }
    owner.map_or(Ok(()), |owner| own(&directory, path, owner))
}

/// Without a chmod where nothing changes: it may not be ours, and need not be.
fn set_mode(file: &File, path: &Path, mode: u32) -> Result<(), DirectoryError> {
    let now = file.metadata().map_err(failed("look at", path))?.mode() & 0o7777;
    if now == mode {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(mode)).map_err(failed("set the mode of", path))
}

fn own(file: &File, path: &Path, owner: Owner) -> Result<(), DirectoryError> {
    let now = file.metadata().map_err(failed("look at", path))?;
    if (now.uid(), now.gid()) == (owner.uid, owner.gid) {
        return Ok(());
    }
    nix::unistd::fchown(file.as_fd(), Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
        .map_err(|errno| failed("change the owner of", path)(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_ids() -> Owner {
        Owner { uid: nix::unistd::getuid().as_raw(), gid: nix::unistd::getgid().as_raw() }
    }

    struct Places {
        folder: tempfile::TempDir,
    }

    impl Places {
        fn new() -> Self {
            Places { folder: tempfile::tempdir().unwrap() }
        }

        fn make(&self, root: bool, qemu: Owner) -> Result<(), DirectoryError> {
            let at = |name: &str| self.folder.path().join(name);
            let (private, ephemeral_disks) = (at("run/private"), at("ephemeral"));
            let (container_disks, hotplug_disks) = (at("container"), at("hotplug"));
            let directories = Directories {
                private: &private,
                ephemeral_disks: &ephemeral_disks,
                container_disks: &container_disks,
                hotplug_disks: &hotplug_disks,
                uid: "u-1",
                root,
                qemu,
            };
            directories.make()
        }

        fn mode(&self, name: &str) -> u32 {
            let path = self.folder.path().join(name);
            std::fs::metadata(&path).unwrap_or_else(|error| panic!("{path:?}: {error}")).mode() & 0o7777
        }
    }

    #[test]
    fn modes_are_exact_and_a_second_time_changes_nothing() {
        let places = Places::new();
        for _ in 0..2 {
            places.make(true, own_ids()).unwrap();
            for (name, mode) in [
                ("run/private/u-1", 0o755),
                ("ephemeral/cloud-init-data", 0o755),
                ("ephemeral/ignition-data", 0o755),
                ("ephemeral/disk-data", 0o755),
                ("container", 0o750),
                ("hotplug", 0o755),
                ("run/private/vm-disks", 0o750),
                ("run/private/service-account-disk", 0o750),
                ("run/private/downwardmetrics-channel", 0o750),
            ] {
                assert_eq!(places.mode(name), mode, "{name}");
            }
            assert!(places.folder.path().join("run/private/u-1/virt-serial0-log").is_file());
        }
        // Log text survives a new start of the launcher.
        let log = places.folder.path().join("run/private/u-1/virt-serial0-log");
        std::fs::write(&log, "text").unwrap();
        places.make(true, own_ids()).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "text");
    }

    #[test]
    fn existing_directories_keep_their_mode_unless_it_is_enforced() {
        let places = Places::new();
        let at = |name: &str| places.folder.path().join(name);
        for name in ["container", "run/private/vm-disks"] {
            std::fs::create_dir_all(at(name)).unwrap();
            std::fs::set_permissions(at(name), Permissions::from_mode(0o2777)).unwrap();
        }
        places.make(false, own_ids()).unwrap();
        assert_eq!(places.mode("container"), 0o2777);
        assert_eq!(places.mode("run/private/vm-disks"), 0o750);
        assert!(!at("run/private/u-1/virt-serial0-log").exists());
    }

    #[test]
    fn root_gives_the_hypervisor_its_directories() {
        if own_ids().uid != 0 {
            return;
        }
        let places = Places::new();
        places.make(true, Owner { uid: 107, gid: 107 }).unwrap();
        for (name, uid) in [
            ("run/private/u-1", 107),
            ("run/private/vm-disks", 107),
            ("run/private/u-1/virt-serial0-log", 107),
            ("container", 0),
        ] {
            let metadata = std::fs::metadata(places.folder.path().join(name)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (uid, uid), "{name}");
        }
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let places = Places::new();
        std::fs::write(places.folder.path().join("hotplug"), "").unwrap();
        let error = places.make(false, own_ids()).unwrap_err();
        assert!(matches!(&error, DirectoryError::NoDirectory { path } if path.ends_with("hotplug")), "{error}");
        std::fs::remove_file(places.folder.path().join("hotplug")).unwrap();
        std::fs::remove_dir_all(places.folder.path().join("ephemeral")).unwrap();
        std::os::unix::fs::symlink("/nonexistent/place", places.folder.path().join("ephemeral")).unwrap();
        let error = places.make(false, own_ids()).unwrap_err().to_string();
        assert!(error.contains("ephemeral"), "{error}");
    }

    #[test]
    fn link_in_the_logs_place_is_not_followed() {
        let places = Places::new();
        let victim = places.folder.path().join("victim");
        std::fs::write(&victim, "").unwrap();
        std::fs::create_dir_all(places.folder.path().join("run/private/u-1")).unwrap();
        std::os::unix::fs::symlink(&victim, places.folder.path().join("run/private/u-1/virt-serial0-log")).unwrap();
        let error = places.make(true, own_ids()).unwrap_err().to_string();
        assert!(error.contains("virt-serial0-log"), "{error}");
    }

    #[test]
    fn users_are_looked_up_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let passwd = folder.path().join("passwd");
        std::fs::write(
            &passwd,
            "root:x:0:0::/:/bin/sh\nbroken\n\nqemu-x:x:1:1::/:\nqemu:x:107:36:,,,:/:/sbin/nologin\n",
        )
        .unwrap();
        assert_eq!(user(&passwd, QEMU_USER).unwrap(), Owner { uid: 107, gid: 36 });
        let error = user(&passwd, "nobody").unwrap_err().to_string();
        assert!(error.contains("nobody") && error.contains("passwd"), "{error}");
        assert!(user(&folder.path().join("none"), "qemu").unwrap_err().to_string().contains("none"));
    }
}
