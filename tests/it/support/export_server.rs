//! A double of KubeVirt's export server, as far as a launcher that exports a backup meets it: it takes a CONNECT over TLS
//! and HTTP/2 and calls the launcher as gRPC client over its stream.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto, version};
use tokio_rustls::server::TlsStream;
use tonic::transport::{Channel, Endpoint};
use virt_launcher::proto::nbd::nbd_client::NbdClient;

/// The name in the server's certificate.
pub const NAME: &str = "virt-exportserver";

/// An authority that signs what both sides show.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub pem: String,
}

/// A certificate and its key, in PEM.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    pub fn sign(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> Identity {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { certificate, key: key.serialize_pem() }
    }
}

/// The server, and what a launcher must have to be let in.
pub struct ExportServer {
    listener: TcpListener,
    host: &'static str,
    tls: TlsAcceptor,
    /// Who signed what both sides show, in PEM.
    pub authority: String,
    pub client: Identity,
}

impl ExportServer {
    /// Serves on a port of this machine.
    pub async fn start() -> Self {
        ExportServer::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), "127.0.0.1")
    }

    /// Serves on `listener`, which is to be called by the name `host`.
    pub fn on(listener: TcpListener, host: &'static str) -> Self {
        let authority = Authority::new();
        let ours = authority.sign(NAME, ExtendedKeyUsagePurpose::ServerAuth);
        let client = authority.sign("backup", ExtendedKeyUsagePurpose::ClientAuth);
        ExportServer::with(listener, host, authority.pem, &ours, client)
    }

    /// The same, with certificates of `authority`.
    pub fn with(
        listener: TcpListener,
        host: &'static str,
        authority: String,
        ours: &Identity,
        client: Identity,
    ) -> Self {
        let provider = Arc::new(crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let certificate = CertificateDer::from_pem_slice(ours.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(ours.key.as_bytes()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        ExportServer { listener, host, tls: TlsAcceptor::from(Arc::new(config)), authority, client }
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.listener.local_addr().unwrap().port())
    }

    /// The next connection, as far as TLS.
    pub async fn accept_tls(&self) -> io::Result<TlsStream<TcpStream>> {
        let (stream, _) = self.listener.accept().await?;
        self.tls.accept(stream).await
    }

    /// The next launcher that connects is heard until it speaks on its stream, and then neither heard nor answered, as by a
    /// machine that has vanished. The connection ends with the value.
    pub async fn accept_and_vanish(&self) -> impl Sized + use<> {
        let stream = self.accept_tls().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let sending = respond.send_response(Response::new(()), false).unwrap();
        let mut body = request.into_body();
        tokio::select! {
            data = body.data() => data.unwrap().unwrap(),
            _ = connection.accept() => panic!("the launcher asks for something else"),
        };
        (connection, sending, body)
    }

    /// The next launcher that connects; its CONNECT is answered with `status`.
    pub async fn accept(&self, status: StatusCode) -> Fetcher {
        let stream = self.accept_tls().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        assert_eq!((request.method(), request.version()), (&Method::CONNECT, http::Version::HTTP_2));
        assert_eq!(request.uri().authority().unwrap().as_str(), self.address());
        let reply = Response::builder().status(status).body(()).unwrap();
        let sending = respond.send_response(reply, status != StatusCode::OK).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { while let Some(Ok(_)) = connection.accept().await {} });
        let (near, far) = duplex(64 << 10);
        let (from, to) = split(far);
        tasks.spawn(received(request.into_body(), to));
        tasks.spawn(sent(from, sending));
        let mut near = Some(near);
        let connector = tower::service_fn(move |_| {
            let near = near.take().ok_or_else(|| io::Error::other("the connection is gone"));
            async { near.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://export").connect_with_connector_lazy(connector);
        Fetcher { tasks, client: NbdClient::new(channel) }
    }
}

/// A connection to a launcher. Dropping it closes the connection.
pub struct Fetcher {
    tasks: JoinSet<()>,
    /// Calls the launcher.
    pub client: NbdClient<Channel>,
}

impl Fetcher {
    /// Returns when the launcher has closed the connection.
    pub async fn closed(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn received(mut from: RecvStream, mut to: WriteHalf<DuplexStream>) {
    while let Some(Ok(data)) = from.data().await {
        // Fails if the stream has been reset; the next read tells.
        let _ = from.flow_control().release_capacity(data.len());
        if to.write_all(&data).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

async fn sent(mut from: ReadHalf<DuplexStream>, mut to: SendStream<Bytes>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let mut data = Bytes::copy_from_slice(&buffer[..length]);
        while !data.is_empty() {
            to.reserve_capacity(data.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| to.poll_capacity(cx)).await else { return };
            let part = data.split_to(room.min(data.len()));
            if to.send_data(part, false).is_err() {
                return;
            }
        }
    }
    let _ = to.send_data(Bytes::new(), true);
}
