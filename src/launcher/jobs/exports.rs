//! Which backup is exported (contract/cmd-server.md 7.3, Export): one at a time.
#![allow(clippy::disallowed_methods, reason = "the socket of QEMU's NBD server, on the pod's tmpfs")]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::cmd::ExportServer;
use crate::domain::Time;
use crate::export::{Target, Timings, Tunnel};
use crate::files::Watcher;
use crate::launcher::error::Error;

/// The export that goes on, if any. Clones share it; it ends with the last of them.
#[derive(Clone)]
pub struct Exports {
    socket: PathBuf,
    watcher: Watcher,
    timings: Timings,
    current: Arc<Mutex<Option<Export>>>,
}

/// Name and start of the backup say which one it is.
struct Export {
    name: String,
    started: Time,
    tunnel: Tunnel,
}

impl Exports {
    /// None; backups are served at `socket`.
    pub fn new(socket: PathBuf, watcher: Watcher, timings: Timings) -> Self {
        Exports { socket, watcher, timings, current: Arc::default() }
    }

    /// Exports the backup, unless that goes on already. The export of another one ends.
    pub fn begin(&self, name: &str, started: Time, to: ExportServer) -> Result<(), Error> {
        // An export is whole at every step, so a panic elsewhere cannot have torn it.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |export: &Export| export.name == name && export.started == started && !export.tunnel.is_over();
        if current.as_ref().is_some_and(same) {
            return Ok(());
        }
        // First: both would be served on one socket.
        *current = None;
        let target = Target {
            address: to.address,
            server_name: to.name,
            key: to.key,
            certificate: to.certificate,
            authority: to.authority,
        };
        let tunnel = Tunnel::start(target, &self.socket, self.timings, removed(&self.watcher, &self.socket));
        let tunnel = tunnel.map_err(|error| Error::other(format!("cannot initialize backup tunnel: {error}")))?;
        *current = Some(Export { name: name.to_owned(), started, tunnel });
        Ok(())
    }
}

/// Done when the file that has the name `path` now has it no more, even if another one does: that is another backup's.
/// What happens from the call on is not missed.
fn removed(watcher: &Watcher, path: &Path) -> impl Future<Output = ()> + Send + use<> {
    let (mut watch, path) = (watcher.path(path), path.to_owned());
    // The number of a file that is gone may be given to the next one; a socket's time is that of its creation.
    let identity = |path: &Path| {
        let file = std::fs::symlink_metadata(path).ok()?;
        Some((file.ino(), file.mtime(), file.mtime_nsec()))
    };
    let first = identity(&path);
    async move {
        while first.is_some() && identity(&path) == first {
            watch.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};
    use tokio::net::{TcpListener, UnixListener};
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn server(address: &str) -> ExportServer {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["export".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let (authority, key) = (certificate.clone(), key.serialize_pem());
        ExportServer { address: address.into(), name: "export".into(), key, certificate, authority }
    }

    fn time(seconds: i64) -> Time {
        Time::from_unix(seconds).unwrap()
    }

    #[tokio::test]
    async fn one_backup_is_exported_at_a_time_and_not_after_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd");
        let exports = Exports::new(socket.clone(), Watcher::new(), Timings::default());
        let listeners =
            [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let to = listeners.each_ref().map(|listener| server(&listener.local_addr().unwrap().to_string()));
        let missing = exports.begin("b", time(1), to[0].clone()).unwrap_err().message();
        assert!(missing.starts_with("cannot initialize backup tunnel: "), "{missing}");
        let listener = UnixListener::bind(&socket).unwrap();
        let over = async || {
            while !exports.current.lock().unwrap().as_ref().unwrap().tunnel.is_over() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // An entry that cannot be used is only logged; the others are used.
        let unreadable = ExportServer { certificate: "x".into(), ..to[0].clone() };
        exports.begin("b", time(1), unreadable).unwrap();
        timeout(SOON, over()).await.unwrap();

        exports.begin("b", time(1), to[0].clone()).unwrap();
        let first = timeout(SOON, listeners[0].accept()).await.unwrap().unwrap().0;
        // The same again, though it names another server.
        exports.begin("b", time(1), to[1].clone()).unwrap();
        let idle = timeout(Duration::from_millis(50), listeners[1].accept()).await;
        assert!(idle.is_err(), "what goes on is left alone");
        exports.begin("b", time(2), to[1].clone()).unwrap();
        let _second = timeout(SOON, listeners[1].accept()).await.unwrap().unwrap();
        // The other one's connection is closed.
        let closed = async {
            let mut hello = [0; 4096];
            loop {
                first.readable().await.unwrap();
                match first.try_read(&mut hello) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
        };
        timeout(SOON, closed).await.unwrap();

        // The next backup's socket has the same name.
        std::fs::remove_file(&socket).unwrap();
        let _next = UnixListener::bind(&socket).unwrap();
        drop(listener);
        timeout(SOON, over()).await.unwrap();
    }
}
