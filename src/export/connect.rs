//! The way to the server: TLS with certificates on both sides, HTTP/2, and a CONNECT whose stream is ours.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::client::Connection;
use h2::{PingPong, RecvStream, SendStream};
use http::uri::Authority;
use http::{Method, Request, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto, version};

use super::{Target, Timings};

/// The protocol that both ends must mean.
const ALPN: &[u8] = b"h2";
/// HTTPS.
const PORT: u16 = 443;
/// The receive window in bytes; the server sends requests, which are short.
const WINDOW: u32 = 256 << 10;
/// Longest header of an answer, in bytes; h2 itself would take 16 MiB.
const LONGEST_HEADER: u32 = 16 << 10;
/// Most bytes that one write hands to HTTP/2.
const WRITE: usize = 64 << 10;

/// A server that can be called.
#[derive(Clone)]
pub struct Server {
    authority: Authority,
    name: ServerName<'static>,
    tls: TlsConnector,
}

/// Something in the request cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {why}")]
pub struct TargetError {
    /// The key in BackupOptions.
    field: &'static str,
    /// What is wrong with it.
    why: String,
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The TCP connection.
    #[error("cannot connect to {server}: {source}")]
    Tcp {
        /// `host:port`.
        server: Authority,
        /// Why.
        source: io::Error,
    },
    /// The TLS handshake.
    #[error("TLS with {server}: {source}")]
    Tls {
        /// `host:port`.
        server: Authority,
        /// Why.
        source: io::Error,
    },
    /// The server speaks TLS, but not HTTP/2.
    #[error("{0} does not speak HTTP/2")]
    NoHttp2(Authority),
    /// HTTP/2.
    #[error("HTTP/2 with {server}: {source}")]
    Http2 {
        /// `host:port`.
        server: Authority,
        /// Why.
        source: h2::Error,
    },
    /// The request is none.
    #[error("CONNECT to {server}: {source}")]
    Request {
        /// `host:port`.
        server: Authority,
        /// Why.
        source: http::Error,
    },
    /// The server does not want us.
    #[error("{server} rejected CONNECT: {status}")]
    Rejected {
        /// `host:port`.
        server: Authority,
        /// What it said.
        status: StatusCode,
    },
    /// No answer in time.
    #[error("{server}: no answer to {what} in time")]
    Late {
        /// `host:port`.
        server: Authority,
        /// What was waited for.
        what: &'static str,
    },
}

/// A connection whose CONNECT was accepted.
pub struct Connected {
    /// The connection's engine, to be polled as long as the stream is used.
    pub engine: Connection<TlsStream<TcpStream>, Bytes>,
    /// Asks whether the server is still there.
    pub pings: Option<PingPong>,
    /// The CONNECT's stream.
    pub stream: Tunnelled,
}

impl Server {
    /// Reads what the request says; nothing is connected.
    pub fn new(target: &Target) -> Result<Self, TargetError> {
        let refused = |field: &'static str| move |why: String| TargetError { field, why };
        let authority: Authority = target
            .address
            .parse()
            .map_err(|error: http::uri::InvalidUri| error.to_string())
            .map_err(refused("exportServerAddr"))?;
        let name = ServerName::try_from(target.server_name.clone())
            .map_err(|error| refused("exportServerName")(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        // A bundle may hold what is of no use here, next to what is.
        if let (0, _) = roots.add_parsable_certificates(certificates(&target.authority).map_err(refused("caCert"))?) {
            return Err(refused("caCert")("no certificate that can be used".to_owned()));
        }
        let chain = certificates(&target.certificate).map_err(refused("backupCert"))?;
        // The error's text must not hold any of the key.
        let key = PrivateKeyDer::from_pem_slice(target.key.as_bytes())
            .map_err(|_| refused("backupKey")("no private key in PEM".to_owned()))?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| refused("caCert")(error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| refused("backupCert")(error.to_string()))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Server { authority, name, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// `host:port`, as the request says it.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Connects, and has the server take the stream of a CONNECT.
    pub async fn connect(&self, timings: &Timings) -> Result<Connected, ConnectError> {
        let late = |what| ConnectError::Late { server: self.authority.clone(), what };
        let dialled = tokio::time::timeout(timings.dial, self.dial()).await;
        let stream = dialled.unwrap_or_else(|_| Err(late("TLS")))?;
        let opened = tokio::time::timeout(timings.dial, self.open(stream)).await;
        opened.unwrap_or_else(|_| Err(late("CONNECT")))
    }

    async fn dial(&self) -> Result<TlsStream<TcpStream>, ConnectError> {
        let host = self.authority.host();
        // An IPv6 address has brackets in an authority.
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = self.authority.port_u16().unwrap_or(PORT);
        let stream = match host.parse::<IpAddr>() {
            Ok(address) => TcpStream::connect((address, port)).await,
            Err(_is_a_name) => TcpStream::connect((host, port)).await,
        };
        let tcp = |source| ConnectError::Tcp { server: self.authority.clone(), source };
        let stream = stream.map_err(tcp)?;
        stream.set_nodelay(true).map_err(tcp)?;
        let stream = self.tls.connect(self.name.clone(), stream).await;
        let stream = stream.map_err(|source| ConnectError::Tls { server: self.authority.clone(), source })?;
        match stream.get_ref().1.alpn_protocol() {
            Some(ALPN) => Ok(stream),
            Some(_) | None => Err(ConnectError::NoHttp2(self.authority.clone())),
        }
    }

    async fn open(&self, stream: TlsStream<TcpStream>) -> Result<Connected, ConnectError> {
        let http2 = |source| ConnectError::Http2 { server: self.authority.clone(), source };
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .enable_push(false)
            .max_header_list_size(LONGEST_HEADER);
        let (requests, mut connection) = builder.handshake::<_, Bytes>(stream).await.map_err(http2)?;
        let request =
            self.request().map_err(|source| ConnectError::Request { server: self.authority.clone(), source })?;
        let exchange = async {
            let mut requests = requests.ready().await?;
            let (reply, sending) = requests.send_request(request, false)?;
            Ok((reply.await?, sending))
        };
        let (reply, sending) = tokio::select! {
            answer = exchange => answer.map_err(http2)?,
            ended = &mut connection => {
                let source = ended.err().unwrap_or_else(|| h2::Error::from(h2::Reason::NO_ERROR));
                return Err(http2(source));
            }
        };
        match reply.status() {
            StatusCode::OK => {
                let stream = Tunnelled { sending, received: reply.into_body(), rest: Bytes::new() };
                Ok(Connected { pings: connection.ping_pong(), engine: connection, stream })
            }
            status => Err(ConnectError::Rejected { server: self.authority.clone(), status }),
        }
    }

    fn request(&self) -> Result<Request<()>, http::Error> {
        let uri = Uri::builder().authority(self.authority.clone()).build()?;
        Request::builder().method(Method::CONNECT).uri(uri).body(())
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(found) if found.is_empty() => Err("no certificate in PEM".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}

/// The stream of an accepted CONNECT: bytes both ways.
pub struct Tunnelled {
    sending: SendStream<Bytes>,
    received: RecvStream,
    /// Received and not yet read.
    rest: Bytes,
}

fn broken(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}

impl AsyncRead for Tunnelled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.received.poll_data(cx)) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.rest.len().min(into.remaining());
        into.put_slice(self.rest.get(..taken).unwrap_or_default());
        self.rest.advance(taken);
        // Only what has been read makes room for more. Fails if the stream has been reset; the next read returns that.
        let _ = self.received.flow_control().release_capacity(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let wanted = data.len().min(WRITE);
        // What is assigned already is not announced again.
        while self.sending.capacity() == 0 {
            self.sending.reserve_capacity(wanted);
            match ready!(self.sending.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let sent = wanted.min(self.sending.capacity());
        let data = Bytes::copy_from_slice(data.get(..sent).unwrap_or_default());
        Poll::Ready(self.sending.send_data(data, false).map(|()| sent).map_err(broken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's engine writes whatever there is.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Fails if the stream has ended already.
        let _ = self.sending.send_data(Bytes::new(), true);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A key, and a certificate that signs itself, in PEM.
    fn pair() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["export".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        (key.serialize_pem(), certificate)
    }

    #[test]
    fn target_that_cannot_be_used_is_named() {
        let (key, certificate) = pair();
        let authority = certificate.clone();
        let good = Target { address: "[::1]:443".into(), server_name: "export".into(), key, certificate, authority };
        // Base64 of what is not a certificate.
        let odd = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (wrong, expected) in [
            (Target { address: "a b".into(), ..good.clone() }, "exportServerAddr: invalid uri character"),
            (Target { server_name: "a b".into(), ..good.clone() }, "exportServerName: invalid dns name"),
            (Target { authority: "x".into(), ..good.clone() }, "caCert: no certificate in PEM"),
            (Target { authority: odd.into(), ..good.clone() }, "caCert: no certificate that can be used"),
            (Target { certificate: "x".into(), ..good.clone() }, "backupCert: no certificate in PEM"),
            (Target { key: "x".into(), ..good.clone() }, "backupKey: no private key in PEM"),
            (Target { key: pair().0, ..good.clone() }, "backupCert: "),
        ] {
            let error = Server::new(&wrong).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(Server::new(&good).is_ok());
        assert!(Server::new(&Target { authority: format!("{odd}{}", good.authority), ..good.clone() }).is_ok());
    }
}
