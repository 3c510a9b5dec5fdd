//! Two machines: the source's side dials one TCP port of the target's side for each connection of the migration.
//!
//! The dialling side sends one line of JSON that says what the connection is for; the listening side answers with one line,
//! and from then on the bytes are those of the target's socket.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::line::{Connection, Line, Stream, carry};
use super::pod::Pod;
use crate::cli::ctl::error::CtlError;
use crate::files::is_component;

/// For TCP, TLS and the two lines of JSON together.
const GREETING: Duration = Duration::from_secs(10);
/// Bytes of a line of JSON.
const LONGEST: usize = 4096;

/// What a connection is for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "camelCase")]
enum Purpose {
    /// One of [`Line`]; `uid` is the VMI's.
    Line { line: String, uid: String },
    /// The migration is over; `failure` says why it failed.
    End { failure: Option<String> },
}

/// What the listening side answers.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Answer {
    /// The name of the target's pod.
    pub(super) pod: String,
    /// The user of the target's launcher.
    pub(super) user: u32,
    /// Why there is no connection.
    error: Option<String>,
}

/// The target's side, seen from the source's.
#[derive(Clone)]
pub(super) struct Remote {
    address: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Remote {
    /// `address` is `host:port`; its host is the name in the certificate unless `name` is another one.
    pub(super) fn new(address: String, tls: Option<TlsConnector>, name: Option<String>) -> Result<Self, CtlError> {
        let Some((host, _)) = address.rsplit_once(':') else {
            return Err(CtlError::Usage(format!("--connect {address}: not HOST:PORT")));
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).to_owned();
        let tls = tls.map(|connector| {
            let name = name.unwrap_or(host);
            let parsed = ServerName::try_from(name.clone());
            let parsed = parsed.map_err(|error| CtlError::Usage(format!("--server-name {name}: {error}")))?;
            Ok::<_, CtlError>((connector, parsed))
        });
        Ok(Remote { tls: tls.transpose()?, address })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// A connection for a line, and who is there.
    pub(super) async fn dial(&self, line: Line, uid: &str) -> io::Result<(Stream, Answer)> {
        self.ask(&Purpose::Line { line: line.name().to_owned(), uid: uid.to_owned() }).await
    }

    /// Tells the other side that the migration is over.
    pub(super) async fn end(&self, failure: Option<String>) -> io::Result<()> {
        self.ask(&Purpose::End { failure }).await.map(|_| ())
    }

    async fn ask(&self, purpose: &Purpose) -> io::Result<(Stream, Answer)> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.address));
        let asked = timeout(GREETING, async {
            let tcp = TcpStream::connect(&self.address).await?;
            tcp.set_nodelay(true)?;
            let mut stream = match &self.tls {
                None => Stream::new(tcp),
                Some((tls, name)) => Stream::new(tls.connect(name.clone(), tcp).await?),
            };
            write_line(&mut stream, purpose).await?;
            let answer: Answer = read_line(&mut stream).await?;
            match answer.error {
                Some(error) => Err(io::Error::other(error)),
                None => Ok((stream, answer)),
            }
        });
        let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", GREETING.as_secs()));
        asked.await.unwrap_or_else(|_| Err(late())).map_err(named)
    }
}

/// The target's side.
pub(super) struct Server {
    listener: TcpListener,
    pod: Arc<Pod>,
    tls: Option<TlsAcceptor>,
}

impl Server {
    pub(super) async fn bind(address: &str, pod: Pod, tls: Option<TlsAcceptor>) -> Result<Self, CtlError> {
        let listener = TcpListener::bind(address).await;
        let listener =
            listener.map_err(|error| CtlError::Unreachable(format!("cannot listen on {address}: {error}")))?;
        Ok(Server { listener, pod: Arc::new(pod), tls })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves one migration; returns why it failed, if it did.
    pub(super) async fn run(self) -> Option<String> {
        let (ends, mut ended) = mpsc::channel(1);
        loop {
            let (tcp, peer) = tokio::select! {
                end = ended.recv() => return end.flatten(),
                accepted = self.listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        eprintln!("cannot take a connection: {error}");
                        // Most often there are no descriptors left for a while.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let (pod, tls, ends) = (Arc::clone(&self.pod), self.tls.clone(), ends.clone());
            tokio::spawn(async move {
                if let Err(error) = serve(tcp, tls, &pod, ends).await {
                    eprintln!("{peer}: {error}");
                }
            });
        }
    }
}

async fn serve(
    tcp: TcpStream,
    tls: Option<TlsAcceptor>,
    pod: &Pod,
    ends: mpsc::Sender<Option<String>>,
) -> io::Result<()> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the other side did not say what it wants");
    let greeted = timeout(GREETING, async {
        tcp.set_nodelay(true)?;
        let mut near = match tls {
            None => Stream::new(tcp),
            Some(tls) => Stream::new(tls.accept(tcp).await?),
        };
        let purpose: Purpose = read_line(&mut near).await?;
        Ok::<_, io::Error>((near, purpose))
    });
    let (mut near, purpose) = greeted.await.unwrap_or_else(|_| Err(late()))?;
    let dialled = match purpose {
        Purpose::End { failure } => {
            write_line(&mut near, &Answer::default()).await?;
            // A second end changes nothing.
            let _ = ends.send(failure).await;
            return near.shutdown().await;
        }
        Purpose::Line { line, uid } => dial(pod, &line, &uid).await,
    };
    let far = match dialled {
        Ok(far) => far,
        Err(error) => {
            let answer = Answer { error: Some(error.to_string()), ..Answer::default() };
            write_line(&mut near, &answer).await?;
            return Err(error);
        }
    };
    write_line(&mut near, &Answer { pod: pod.name.clone(), user: pod.user, error: None }).await?;
    carry(near, far).await;
    Ok(())
}

async fn dial(pod: &Pod, line: &str, uid: &str) -> io::Result<impl Connection + use<>> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let line = Line::from_name(line).ok_or_else(|| wrong(format!("{line:?} is not a line of a migration")))?;
    if !is_component(uid) {
        return Err(wrong(format!("{uid:?} is not a UID")));
    }
    pod.dial(line, uid).await
}

async fn write_line(stream: &mut Stream, document: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(document)?;
    text.push(b'\n');
    stream.write_all(&text).await?;
    stream.flush().await
}

/// Reads a line and not a byte more: what follows is the connection's.
async fn read_line<T: for<'de> Deserialize<'de>>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let mut text = Vec::new();
    loop {
        match stream.read_u8().await? {
            b'\n' => return serde_json::from_slice(&text).map_err(io::Error::from),
            byte if text.len() < LONGEST => text.push(byte),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the other side is not `ctl migrate`")),
        }
    }
}

/// The command socket in messages about the target.
pub(super) fn named(address: &str) -> PathBuf {
    PathBuf::from(format!("launcher at {address}"))
}

#[cfg(test)]
mod tests {
    use super::super::tls::Files;
    use super::super::tls::testing::{files, in_clear};
    use super::*;

    /// A pod whose launcher's socket echoes, and the address of its side.
    async fn target(files: &Files, folder: &std::path::Path) -> (String, tokio::task::JoinHandle<Option<String>>) {
        let socket = folder.join("launcher-sock");
        let launcher = tokio::net::UnixListener::bind(&socket).unwrap();
        let pod = Pod::of(&socket).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = launcher.accept().await {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            }
        });
        let server = Server::bind("127.0.0.1:0", pod, files.acceptor().unwrap()).await.unwrap();
        let address = format!("localhost:{}", server.address().unwrap().port());
        (address, tokio::spawn(server.run()))
    }

    #[tokio::test]
    async fn connections_reach_the_targets_sockets_until_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let [server, client, _] = files(folder.path());
        for (server, client) in [(server, client), (in_clear(), in_clear())] {
            let folder = tempfile::tempdir().unwrap();
            let (address, served) = target(&server, folder.path()).await;
            let remote = Remote::new(address, client.connector().unwrap(), None).unwrap();
            let (mut stream, answer) = remote.dial(Line::Launcher, "u").await.unwrap();
            assert_eq!(answer.user, nix::unistd::geteuid().as_raw());
            stream.write_all(b"bytes").await.unwrap();
            let mut back = [0; 5];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"bytes");
            let error = remote.dial(Line::Memory, "no-such-uid").await.err().unwrap().to_string();
            assert!(error.contains("no-such-uid-49152-source.sock: "), "{error}");
            for (line, uid) in [("memory", "../u"), ("other", "u")] {
                let purpose = Purpose::Line { line: line.into(), uid: uid.into() };
                assert!(remote.ask(&purpose).await.err().unwrap().to_string().contains("is not a"), "{line} {uid}");
            }
            remote.end(Some("why".to_owned())).await.unwrap();
            assert_eq!(served.await.unwrap(), Some("why".to_owned()));
        }
    }

    #[tokio::test]
    async fn strangers_and_clear_text_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let [server, client, stranger] = files(folder.path());
        let (address, served) = target(&server, folder.path()).await;
        for wrong in [stranger, in_clear()] {
            let remote = Remote::new(address.clone(), wrong.connector().unwrap(), None).unwrap();
            assert!(remote.dial(Line::Launcher, "u").await.is_err());
        }
        let other_name = Remote::new(address, client.connector().unwrap(), Some("other".to_owned())).unwrap();
        assert!(other_name.dial(Line::Launcher, "u").await.is_err(), "the certificate is localhost's");
        assert!(!served.is_finished());
        served.abort();
    }

    #[test]
    fn addresses_need_a_port() {
        for (address, good) in [("host:1", true), ("[::1]:1", true), ("host", false)] {
            assert_eq!(Remote::new(address.to_owned(), None, None).is_ok(), good, "{address}");
        }
    }
}
