//! Answers libvirt's hook for the life of the pod (contract/migration.md 9.3, 9.5): each connection has its own deadline and sees
//! what is known of the incoming domain at that moment, and who connects and says nothing is in nobody's way.
#![allow(clippy::disallowed_methods, reason = "the hook's socket, on the pod's tmpfs")]

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::framing::Framing;
use super::incoming::Incoming;
use crate::hooks::pre_migration::{EXPLAIN, LONGEST, refusal};

/// For a connection: less than the hook waits.
const DEADLINE: Duration = Duration::from_secs(25);
/// Before the next connection is accepted when one could not be.
const AFTER_A_FAULT: Duration = Duration::from_millis(100);

/// The socket cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to listen on unix socket {path}: {error}")]
pub struct ListenError {
    path: String,
    error: io::Error,
}

/// The server, which listens from its first domain on.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    deadline: Duration,
    incoming: Arc<Mutex<Option<Arc<Incoming>>>>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// A server that is to listen at `path`, for libvirt [`SOCKET`](crate::hooks::pre_migration::SOCKET).
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Server { path: path.into(), deadline: DEADLINE, incoming: Arc::default(), accepting: Mutex::default() }
    }

    /// Makes known what is to come, in place of what was known before, and listens if it does not yet; a listener that could not
    /// be made is tried again. It is an error outside the launcher's runtime.
    pub fn expect(&self, incoming: Incoming) -> Result<(), ListenError> {
        *locked(&self.incoming) = Some(Arc::new(incoming));
        self.listen()
    }

    fn listen(&self) -> Result<(), ListenError> {
        let mut accepting = locked(&self.accepting);
        if accepting.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        let fault = |error| ListenError { path: self.path.display().to_string(), error };
        let runtime = Handle::try_current().map_err(|error| fault(io::Error::other(error)))?;
        let listener = bind(&self.path).map_err(fault)?;
        info!(socket = %self.path.display(), "the pre-migration hook is served");
        *accepting = Some(runtime.spawn(accept(listener, Arc::clone(&self.incoming), self.deadline)));
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = locked(&self.accepting).take() {
            task.abort();
            // Without its listener the file would only mislead.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A listener, in place of a socket that an earlier launcher left.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

async fn accept(listener: UnixListener, incoming: Arc<Mutex<Option<Arc<Incoming>>>>, deadline: Duration) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, Arc::clone(&incoming), deadline));
            }
            Err(error) => {
                warn!(reason = %error, "a connection of the pre-migration hook cannot be accepted");
                tokio::time::sleep(AFTER_A_FAULT).await;
            }
        }
    }
}

async fn serve(mut stream: UnixStream, incoming: Arc<Mutex<Option<Arc<Incoming>>>>, deadline: Duration) {
    let mut explain = false;
    let conversation = async {
        let answer = match converse(&mut stream, &incoming, &mut explain).await {
            Ok(xml) => Some(xml),
            Err(why) => {
                error!(reason = %why, "Hook processing failed");
                explain.then(|| refusal(&why))
            }
        };
        // Without an answer the hook sees an end without a byte, as from the original.
        if let Some(answer) = answer {
            stream.write_all(answer.as_bytes()).await?;
        }
        stream.shutdown().await?;
        // What is still unread when a socket is closed, such as a last newline, would cost the hook the end of its answer.
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    match timeout(deadline, conversation).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(reason = %error, "the pre-migration hook did not take its answer"),
        Err(_) => warn!(within = ?deadline, "a connection of the pre-migration hook is given up"),
    }
}

/// The XML that is to start, or why there is none; `explain` becomes true when the hook wants to know.
async fn converse(
    stream: &mut UnixStream,
    incoming: &Mutex<Option<Arc<Incoming>>>,
    explain: &mut bool,
) -> Result<String, String> {
    let mut bytes = Vec::new();
    let mut framing = Framing::default();
    let document = loop {
        let read =
            stream.read_buf(&mut bytes).await.map_err(|error| format!("the incoming XML cannot be read: {error}"))?;
        *explain |= bytes.starts_with(EXPLAIN.as_bytes());
        if let Some(document) = framing.advance(&bytes).map_err(str::to_owned)? {
            break document;
        }
        if read == 0 {
            return Err("the incoming XML ends before its outermost element does".to_owned());
        }
        if bytes.len() as u64 > LONGEST {
            return Err(format!("the incoming XML is longer than {LONGEST} bytes"));
        }
    };
    let xml = bytes.get(document).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let xml = xml.ok_or_else(|| "the incoming XML is not UTF-8".to_owned())?;
    let known = locked(incoming).clone();
    let known = known.ok_or_else(|| "no virtual machine was announced to this launcher".to_owned())?;
    let adapted = known.adapt(xml).map_err(|error| error.to_string())?;
    info!(changed = adapted != xml, "the incoming domain is adapted to this pod");
    Ok(adapted)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as Client;
    use std::thread::JoinHandle as Thread;

    use super::*;
    use crate::hooks::pre_migration::exchange;

    const XML: &str = "<domain>\n  <devices><disk><source file='/a/ns/b'/></disk></devices>\n</domain>";

    /// What is known of a VM that goes from namespace `ns` to another one.
    fn incoming(namespace: &str) -> Incoming {
        let vmi = format!(
            r#"{{"metadata":{{"name":"vm","namespace":"ns"}},
            "status":{{"migrationState":{{"targetState":{{"domainNamespace":"{namespace}"}}}}}}}}"#
        );
        Incoming { vmi: crate::vmi::parse(vmi.as_bytes()).unwrap(), ..Incoming::default() }
    }

    /// The server runs in a runtime as the launcher has it; clients are programs of their own, here threads.
    fn with_server(test: impl FnOnce(&mut Server, &Path)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _inside = runtime.enter();
        test(&mut Server::new(&path), &path);
    }

    /// The hook's program.
    fn hook(path: &Path, xml: &'static str) -> Thread<Result<String, String>> {
        let path = path.to_owned();
        std::thread::spawn(move || {
            let mut out = Vec::new();
            exchange(&path, &|_| {}, &mut xml.as_bytes(), &mut out).map_err(|error| error.to_string())?;
            Ok(String::from_utf8(out).unwrap())
        })
    }

    fn asked(path: &Path, xml: &'static str) -> Result<String, String> {
        hook(path, xml).join().unwrap()
    }

    #[test]
    fn hook_gets_the_adapted_document_and_may_come_again() {
        with_server(|server, path| {
            server.expect(incoming("other")).unwrap();
            assert_eq!(asked(path, XML).unwrap(), XML.replace("/ns/", "/other/"));
            server.expect(incoming("third")).unwrap();
            assert_eq!(asked(path, XML).unwrap(), XML.replace("/ns/", "/third/"), "the last word counts");
            assert_eq!(asked(path, "\n<domain/>\n").unwrap(), "<domain/>");
        });
    }

    #[test]
    fn stray_connection_is_in_nobodys_way() {
        with_server(|server, path| {
            server.expect(incoming("other")).unwrap();
            let silent = Client::connect(path).unwrap();
            let mut halfway = Client::connect(path).unwrap();
            halfway.write_all(b"<domain><devices>").unwrap();
            drop(Client::connect(path).unwrap());
            let both = [hook(path, XML), hook(path, XML)];
            for one in both {
                assert_eq!(one.join().unwrap().unwrap(), XML.replace("/ns/", "/other/"));
            }
            drop((silent, halfway));
        });
    }

    #[test]
    fn document_may_come_in_pieces_and_the_hook_stays_open() {
        with_server(|server, path| {
            server.expect(incoming("other")).unwrap();
            let mut client = Client::connect(path).unwrap();
            for piece in XML.as_bytes().chunks(7) {
                client.write_all(piece).unwrap();
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, XML.replace("/ns/", "/other/"));
        });
    }

    /// What the original's program makes of a refusal.
    fn original(path: &Path, xml: &str) -> String {
        let mut client = Client::connect(path).unwrap();
        client.write_all(xml.as_bytes()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn refusal_names_its_reason() {
        with_server(|server, path| {
            server.listen().unwrap();
            let unknown = "the launcher refused the migration: no virtual machine was announced to this launcher";
            assert_eq!(asked(path, XML).unwrap_err(), unknown);
            server.expect(incoming("other")).unwrap();
            for (xml, reason) in [
                ("<network/>", "failed to decode XML: the outermost element is \"network\", not \"domain\""),
                ("<domain></x></domain>", "failed to decode XML: byte 8 of the XML: "),
                ("hello", "not an XML document"),
            ] {
                let refused = asked(path, xml).unwrap_err();
                let expected = format!("the launcher refused the migration: {reason}");
                assert!(refused.starts_with(&expected), "{refused}");
            }
            assert_eq!(original(path, "<network/>"), "", "the original's program knows no reasons");
            assert_eq!(original(path, XML), XML.replace("/ns/", "/other/"));
        });
    }

    #[test]
    fn connection_ends_with_its_deadline() {
        with_server(|server, path| {
            server.deadline = Duration::from_millis(50);
            server.expect(incoming("other")).unwrap();
            let mut client = Client::connect(path).unwrap();
            client.write_all(b"<domain>").unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "");
        });
    }

    #[test]
    fn outside_a_runtime_nothing_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let error = Server::new(folder.path().join("hook.sock")).expect(incoming("other")).unwrap_err();
        assert!(error.to_string().contains("no reactor running"), "{error}");
    }

    #[test]
    fn socket_that_was_left_is_replaced_and_anything_else_is_reported() {
        with_server(|server, path| {
            drop(std::os::unix::net::UnixListener::bind(path).unwrap());
            server.expect(incoming("other")).unwrap();
            assert_eq!(asked(path, "<domain/>").unwrap(), "<domain/>");
        });
        with_server(|server, path| {
            std::fs::write(path, "").unwrap();
            let error = server.expect(incoming("other")).unwrap_err().to_string();
            let begin = format!("failed to listen on unix socket {}: Address already in use", path.display());
            assert!(error.starts_with(&begin), "{error}");
            std::fs::remove_file(path).unwrap();
            server.expect(incoming("other")).unwrap();
            assert_eq!(asked(path, "<domain/>").unwrap(), "<domain/>", "the next call listens");
        });
    }
}
