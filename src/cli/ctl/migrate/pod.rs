//! A launcher's pod on this machine: found by the process that listens on the command socket, as virt-handler finds it
//! (contract/migration.md 3.1).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::UnlinkatFlags;
use tokio::net::{UnixListener, UnixStream};

use super::line::Line;
use crate::cli::ctl::error::CtlError;
use crate::launcher::migration::sockets;

/// `--kubevirt-share-dir` of the launchers of a cluster.
const SHARE_DIR: &str = "/var/run/kubevirt";
/// Where the target's libvirt daemon listens, whichever daemon it is.
const LIBVIRT: &str = "/var/run/libvirt/virtqemud-sock";

/// A pod whose processes and files this process sees.
#[derive(Debug)]
pub(super) struct Pod {
    /// The launcher's command socket, as the user named it.
    pub(super) socket: PathBuf,
    /// The user who runs the launcher, and QEMU.
    pub(super) user: u32,
    /// The pod's name in the cluster: `POD_NAME` of the launcher, empty without one.
    pub(super) name: String,
    root: OwnedFd,
}

/// A socket that listens, and leaves with this value.
pub(super) struct Listening {
    pub(super) listener: UnixListener,
    folder: OwnedFd,
    name: String,
}

impl Drop for Listening {
    fn drop(&mut self) {
        // It may be gone: the pod may.
        let _ = nix::unistd::unlinkat(&self.folder, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

impl Pod {
    /// The pod of the launcher that listens on `socket`.
    pub(super) async fn of(socket: &Path) -> Result<Self, CtlError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            CtlError::Unreachable(format!("{}: {what}: {error}", socket.display()))
        };
        let stream = UnixStream::connect(socket).await.map_err(|error| failed("cannot connect", &error))?;
        let peer = stream.peer_cred().map_err(|error| failed("cannot see who listens", &error))?;
        let Some(pid) = peer.pid().filter(|pid| *pid > 0) else {
            return Err(failed("the launcher's process is not visible from here", &"run this outside of containers"));
        };
        let root = format!("/proc/{pid}/root");
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(root.as_str(), flags, Mode::empty())
            .map_err(|error| failed("cannot enter the launcher's file system, which needs root", &error))?;
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let name = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"POD_NAME="));
        let name = name.map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
        Ok(Pod { socket: socket.to_owned(), user: peer.uid(), name, root })
    }

    /// Connects to what listens in this pod, the target's, for a line. `uid` is the VMI's.
    pub(super) async fn dial(&self, line: Line, uid: &str) -> io::Result<UnixStream> {
        let path = match line.channel() {
            None => return UnixStream::connect(&self.socket).await,
            Some(sockets::Channel::Control) => PathBuf::from(LIBVIRT),
            Some(channel) => sockets::path(Path::new(SHARE_DIR), uid, channel),
        };
        let found = self.enter(&path, OFlag::O_PATH);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let found = found.map_err(named)?;
        UnixStream::connect(format!("/proc/self/fd/{}", found.as_raw_fd())).await.map_err(named)
    }

    /// Listens in this pod, the source's, where its libvirt and QEMU dial (contract/migration.md 3.1).
    pub(super) fn listen(&self, channel: sockets::Channel, uid: &str) -> io::Result<Listening> {
        let path = sockets::path(Path::new(SHARE_DIR), uid, channel);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let folder = self.sockets_folder().map_err(named)?;
        match nix::unistd::unlinkat(&folder, name.as_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(named(error.into())),
        }
        let inside = PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()));
        let listener = UnixListener::bind(&inside).map_err(named)?;
        let listening = Listening { listener, folder, name };
        chown(&inside, Some(self.user), Some(self.user)).map_err(named)?;
        Ok(listening)
    }

    /// Size in bytes of a file in this pod.
    pub(super) fn size(&self, path: &Path) -> io::Result<u64> {
        let file = std::fs::File::from(self.enter(path, OFlag::O_PATH)?);
        Ok(file.metadata()?.len())
    }

    fn sockets_folder(&self) -> io::Result<OwnedFd> {
        let share = self.enter(Path::new(SHARE_DIR), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        let path = sockets::folder(Path::new(""));
        let made = mkdirat(&share, &path, Mode::from_bits_truncate(0o755));
        let folder = self.enter(&sockets::folder(Path::new(SHARE_DIR)), OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        match made {
            Ok(()) => {
                let itself = format!("/proc/self/fd/{}", folder.as_raw_fd());
                std::fs::set_permissions(&itself, std::fs::Permissions::from_mode(0o755))?;
                chown(&itself, Some(self.user), Some(self.user))?;
            }
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(folder)
    }

    /// Opens a path of the pod as the pod's processes would: its links lead to files of the pod.
    fn enter(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let below = path.strip_prefix("/").unwrap_or(path);
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        Ok(openat2(&self.root, below, how)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn pod(root: &Path) -> Pod {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let root = open(root, flags, Mode::empty()).unwrap();
        let user = nix::unistd::geteuid().as_raw();
        Pod { socket: PathBuf::new(), user, name: String::new(), root }
    }

    #[tokio::test]
    async fn sockets_of_a_pod_are_reached_through_its_own_links() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(root.path().join("run/kubevirt")).unwrap();
        std::fs::create_dir(root.path().join("var")).unwrap();
        symlink("/run", root.path().join("var/run")).unwrap();
        let pod = pod(root.path());
        let listening = pod.listen(sockets::Channel::Memory, "u").unwrap();
        let socket = root.path().join("run/kubevirt/migrationproxy/u-49152-source.sock");
        assert!(socket.exists());
        let _dialled = pod.dial(Line::Memory, "u").await.unwrap();
        listening.listener.accept().await.unwrap();
        // The name of one that was killed.
        std::mem::forget(listening);
        drop(pod.listen(sockets::Channel::Memory, "u").unwrap());
        assert!(!socket.exists(), "the socket leaves with its value");
        let error = pod.dial(Line::Memory, "u").await.unwrap_err().to_string();
        assert!(error.starts_with("/var/run/kubevirt/migrationproxy/u-49152-source.sock: "), "{error}");
        // A container cannot lead its sockets to files of the machine.
        std::fs::remove_dir(root.path().join("run/kubevirt/migrationproxy")).unwrap();
        symlink(outside.path(), root.path().join("run/kubevirt/migrationproxy")).unwrap();
        assert!(pod.listen(sockets::Channel::Control, "u").is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn socket_without_a_launcher_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("launcher-sock");
        let error = Pod::of(&path).await.unwrap_err();
        assert!(matches!(&error, CtlError::Unreachable(why) if why.starts_with(&*path.to_string_lossy())), "{error}");
    }
}
