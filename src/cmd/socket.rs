//! The socket file: made under its starting name, renamed when the launcher is ready (contract/cmd-server.md 1).
#![allow(clippy::disallowed_methods, reason = "the command sockets, on the pod's tmpfs")]

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// `sizeof(sockaddr_un.sun_path)`; the path needs its terminating zero in it.
const SUN_PATH_BYTES: usize = 108;
/// Mode of the directory where it has to be made.
const DIRECTORY_MODE: u32 = 0o755;

/// Where the socket is before and after the launcher is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPaths {
    /// `<share>/sockets/launcher-init-sock`.
    pub init: PathBuf,
    /// `<share>/sockets/launcher-sock`.
    pub ready: PathBuf,
}

impl SocketPaths {
    /// The paths below `--kubevirt-share-dir`.
    pub fn below(share_dir: &Path) -> Self {
        let sockets = share_dir.join("sockets");
        SocketPaths { init: sockets.join("launcher-init-sock"), ready: sockets.join("launcher-sock") }
    }
}

/// Why there is no command socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel takes no socket path that long.
    #[error("command socket {path}: the path has {bytes} bytes, a unix socket takes at most {max}", max = SUN_PATH_BYTES - 1)]
    TooLong {
        /// The path asked for.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// Something in the file system refused.
    #[error("command socket {path}: cannot {what}: {source}")]
    Io {
        /// The path concerned.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Listens on `path`; whatever was there is removed, the directory is made where it is missing.
///
/// Must be called by the launcher itself, inside its runtime: virt-handler learns the launcher's pid from who called
/// `listen(2)` (contract/lifecycle.md 1.2).
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    let bytes = path.as_os_str().as_bytes().len();
    if bytes >= SUN_PATH_BYTES {
        return Err(SocketError::TooLong { path: path.to_owned(), bytes });
    }
    let failed = |what| move |source| SocketError::Io { path: path.to_owned(), what, source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path).map_err(failed("remove the directory there"))?,
        Ok(_) => std::fs::remove_file(path).map_err(failed("remove the file there"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at it")(error)),
    }
    if let Some(directory) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)
            .map_err(failed("make its directory"))?;
    }
    UnixListener::bind(path).map_err(failed("listen"))
}

/// Gives the socket its final name: from then on the pod counts as ready and virt-handler connects.
pub fn publish(paths: &SocketPaths) -> Result<(), SocketError> {
    let SocketPaths { init, ready } = paths;
    std::fs::rename(init, ready).map_err(|source| SocketError::Io {
        path: ready.clone(),
        what: "rename the socket to its final name",
        source,
    })
}
