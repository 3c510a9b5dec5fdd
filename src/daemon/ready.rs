//! Waiting until a socket accepts connections.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Duration;

use tokio::net::UnixStream;

use crate::files::{PathWatch, Watcher};

/// A socket file exists from bind(2) on, but connections are refused until listen(2), which the kernel does not report.
/// Only in that short while the socket is looked at again and again, with pauses from the first to the second.
const BETWEEN_BIND_AND_LISTEN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// Linux: `__SO_ACCEPTCON`, the flag of a listening socket in `/proc/net/unix`.
const LISTENS: u32 = 1 << 16;

/// Returns once somebody listens at `socket`. `watch` was armed before the daemon was started; `obstacle` is what the last
/// look found, for the message when this takes too long.
///
/// The kernel's table of sockets is asked before a connection is tried: libvirt logs an error for a client that connects
/// and says nothing.
pub(super) async fn accepts(socket: &Path, watch: &mut PathWatch, obstacle: &mut Option<io::Error>) {
    let (first, longest) = BETWEEN_BIND_AND_LISTEN;
    let mut pause = first;
    loop {
        match std::fs::metadata(socket) {
            Ok(metadata) if !metadata.file_type().is_socket() => {
                *obstacle = Some(io::Error::other("not a socket"));
                watch.changed().await;
            }
            Ok(_) if is_listed(socket) => return,
            Ok(_) => {
                *obstacle = Some(io::Error::from(io::ErrorKind::ConnectionRefused));
                // It may be listed by a name that leads here by another way.
                if pause == longest {
                    match UnixStream::connect(socket).await {
                        Ok(_) => return,
                        Err(error) => *obstacle = Some(error),
                    }
                }
                // Late is early enough: the timeout is the point.
                let _ = tokio::time::timeout(pause, watch.changed()).await;
                pause = (pause * 2).min(longest);
            }
            Err(error) => {
                *obstacle = Some(error);
                watch.changed().await;
                pause = first;
            }
        }
    }
}

/// Returns once one of the paths exists.
pub(super) async fn one_exists(paths: &[PathBuf], watcher: &Watcher) {
    let mut watches: Vec<PathWatch> = paths.iter().map(|path| watcher.path(path)).collect();
    while !paths.iter().any(|path| path.exists()) {
        let mut changes: Vec<_> = watches.iter_mut().map(|watch| Box::pin(watch.changed())).collect();
        std::future::poll_fn(|context| {
            let changed = changes.iter_mut().any(|change| change.as_mut().poll(context).is_ready());
            if changed { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Whether the kernel knows of a listening socket that was bound to this path.
fn is_listed(socket: &Path) -> bool {
    let Ok(table) = std::fs::read("/proc/net/unix") else { return false };
    let directory = |path: &Path| path.parent().and_then(|parent| parent.canonicalize().ok());
    let own = directory(socket);
    table.split(|byte| *byte == b'\n').filter_map(listening).any(|path| {
        path == socket || path.is_absolute() && path.file_name() == socket.file_name() && directory(path) == own
    })
}

/// The path of a listening socket, of its line `Num: RefCount Protocol Flags Type St Inode Path`.
fn listening(line: &[u8]) -> Option<&Path> {
    let mut rest = line;
    let mut fields = [""; 7];
    for field in &mut fields {
        rest = rest.trim_ascii_start();
        let (text, others) = rest.split_at(rest.iter().position(|byte| *byte == b' ')?);
        (*field, rest) = (std::str::from_utf8(text).ok()?, others);
    }
    let [_num, _count, _protocol, flags, ..] = fields;
    let flags = u32::from_str_radix(flags, 16).ok()?;
    // One blank, then the path with whatever is in it.
    let path = rest.strip_prefix(b" ")?;
    (flags & LISTENS != 0).then(|| Path::new(OsStr::from_bytes(path)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::files::Watcher;

    const SOON: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn first_of_the_paths_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["one", "two"].map(|name| folder.path().join(name));
        let watcher = Watcher::new();
        let mut waiting = Box::pin(one_exists(&paths, &watcher));
        assert!(tokio::time::timeout(Duration::ZERO, &mut waiting).await.is_err(), "none of them exists");
        std::fs::write(folder.path().join("another"), "").unwrap();
        std::fs::write(&paths[1], "").unwrap();
        tokio::time::timeout(SOON, &mut waiting).await.expect("the second path was not seen");
        one_exists(&paths, &watcher).await;
    }

    #[tokio::test]
    async fn listener_is_known_by_any_way_to_its_directory() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, link) = (folder.path().join("r u n"), folder.path().join("var-run"));
        std::fs::create_dir(&directory).unwrap();
        std::os::unix::fs::symlink("r u n", &link).unwrap();
        let _listener = UnixListener::bind(directory.join("sock")).unwrap();
        assert!(is_listed(&link.join("sock")));
        assert!(!is_listed(&link.join("other")));
        // The file itself is a link: found by connecting.
        let alias = folder.path().join("alias");
        std::os::unix::fs::symlink(directory.join("sock"), &alias).unwrap();
        assert!(!is_listed(&alias));
        let mut watch = Watcher::new().path(&alias);
        tokio::time::timeout(SOON, accepts(&alias, &mut watch, &mut None)).await.unwrap();
    }

    #[tokio::test]
    async fn socket_that_is_bound_only_or_a_file_is_not_enough() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sock");
        let (mut watch, mut obstacle) = (Watcher::new().path(&path), None);
        std::fs::write(&path, "").unwrap();
        let wait = Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, accepts(&path, &mut watch, &mut obstacle)).await.is_err());
        assert!(obstacle.take().unwrap().to_string().contains("not a socket"));
        std::fs::remove_file(&path).unwrap();
        let bound = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert!(tokio::time::timeout(wait, accepts(&path, &mut watch, &mut obstacle)).await.is_err());
        assert_eq!(obstacle.unwrap().kind(), io::ErrorKind::ConnectionRefused);
        drop(bound);
        std::fs::remove_file(&path).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        tokio::time::timeout(SOON, accepts(&path, &mut watch, &mut None)).await.unwrap();
    }
}
