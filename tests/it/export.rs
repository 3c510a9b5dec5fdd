//! A backup that is exported: the launcher dials a double of the export server, which maps and reads what a real qemu-nbd
//! serves.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use crate::support::export_server::{Authority, ExportServer, Fetcher, Identity, NAME};
use crate::support::{expect, wait_for};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tonic::{Code, Status};
use virt_launcher::export::{Client, Deadlines, Part, Target, Timings, Tunnel};
use virt_launcher::process::RestartPolicy;
use virt_launcher::proto::nbd::{MapRequest, MapResponse, ReadRequest};

/// For what takes no time but on a busy machine.
const SOON: Duration = Duration::from_secs(30);
const KIB: u64 = 1 << 10;
/// Bytes of the volume.
const SIZE: u64 = 8 << 20;
/// What a bit of the bitmap stands for.
const GRAIN: u64 = 64 * KIB;

/// A QEMU that serves a disk of which the first and the last 64 KiB hold data, the last since the bitmap `changes` began.
/// It ends with this value.
struct Served {
    child: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn served() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk.qcow2");
    let path = image.to_str().unwrap();
    run("qemu-img", &["create", "-q", "-f", "qcow2", path, "8M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -q -P 0x11 0 64k", path]);
    run("qemu-img", &["bitmap", "--add", "-g", "64k", path, "changes"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -q -P 0x22 8128k 64k", path]);
    let socket = folder.path().join("nbd.sock");
    let words = ["-r", "-t", "-e", "8", "-f", "qcow2", "-x", "disk", "-B", "changes", "-k"];
    let child = Command::new("qemu-nbd").args(words).arg(&socket).arg(&image).spawn().unwrap();
    wait_for("qemu-nbd", SOON, || std::os::unix::net::UnixStream::connect(&socket).map(drop));
    Served { child, socket, _folder: folder }
}

fn target(server: &ExportServer) -> Target {
    Target {
        address: server.address(),
        server_name: NAME.to_owned(),
        key: server.client.key.clone(),
        certificate: server.client.certificate.clone(),
        authority: server.authority.clone(),
    }
}

fn timings() -> Timings {
    // An end that waited for the farewell's deadline would be too late for every test here.
    let farewell = 10 * SOON;
    let (first, longest) = (Duration::from_millis(10), Duration::from_millis(50));
    let again = RestartPolicy { first, longest, ..Timings::default().again };
    Timings { again, farewell, ..Timings::default() }
}

/// Starts a tunnel; the sender tells it that the socket is gone.
fn start(server: &ExportServer, served: &Served) -> (Tunnel, oneshot::Sender<()>) {
    let (gone, told) = oneshot::channel();
    let told = async move { told.await.unwrap_or_default() };
    (Tunnel::start(target(server), &served.socket, timings(), told).unwrap(), gone)
}

async fn accept(server: &ExportServer, status: StatusCode) -> Fetcher {
    timeout(SOON, server.accept(status)).await.expect("no launcher connects")
}

async fn map(
    to: &mut Fetcher,
    export: &str,
    bitmap: &str,
    offset: u64,
    length: u64,
) -> Result<Vec<MapResponse>, Status> {
    let request = MapRequest { export_name: export.into(), bitmap_name: bitmap.into(), offset, length };
    let call = async {
        let mut stream = to.client.map(request).await?.into_inner();
        let mut found = Vec::new();
        while let Some(message) = stream.message().await? {
            found.push(message);
        }
        Ok(found)
    };
    timeout(SOON, call).await.unwrap()
}

/// The bytes, and the lengths of the messages they came in.
async fn read(to: &mut Fetcher, offset: u64, length: u64) -> Result<(Vec<u8>, Vec<usize>), Status> {
    let request = ReadRequest { export_name: "disk".into(), offset, length };
    let call = async {
        let mut stream = to.client.read(request).await?.into_inner();
        let (mut bytes, mut lengths) = (Vec::new(), Vec::new());
        while let Some(chunk) = stream.message().await? {
            assert_eq!(chunk.offset, offset + bytes.len() as u64);
            lengths.push(chunk.data.len());
            bytes.extend(chunk.data);
        }
        Ok((bytes, lengths))
    };
    timeout(SOON, call).await.unwrap()
}

fn extents(messages: &[MapResponse]) -> Vec<(u64, u64, u64, &str)> {
    let all = messages.iter().flat_map(|message| &message.extents);
    all.map(|it| (it.offset, it.length, it.flags, it.description.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs QEMU's tools; make test"]
async fn server_maps_and_reads_what_qemu_serves() {
    let served = served();
    let server = ExportServer::start().await;
    let (tunnel, gone) = start(&server, &served);
    let mut fetcher = accept(&server, StatusCode::OK).await;

    let full = map(&mut fetcher, "disk", "", 0, 0).await.unwrap();
    let (last, between) = (SIZE - GRAIN, SIZE - 2 * GRAIN);
    let hole = (GRAIN, between, 3, "hole,zero");
    assert_eq!(extents(&full), [(0, GRAIN, 0, "data"), hole, (last, GRAIN, 0, "data")]);
    assert_eq!(full.last().unwrap().next_offset, SIZE);
    let changed = map(&mut fetcher, "disk", "changes", 0, SIZE).await.unwrap();
    let zero = (GRAIN, between, 2, "zero");
    assert_eq!(extents(&changed), [(0, GRAIN, 0, "clean"), zero, (last, GRAIN, 1, "dirty")]);
    let part = map(&mut fetcher, "disk", "changes", last + 512, 512).await.unwrap();
    assert_eq!(extents(&part), [(last + 512, 512, 1, "dirty")]);

    let (bytes, lengths) = read(&mut fetcher, 0, 0).await.unwrap();
    let expected = [vec![0x11; GRAIN as usize], vec![0; between as usize], vec![0x22; GRAIN as usize]].concat();
    assert!(bytes == expected, "the disk's bytes");
    assert_eq!(lengths, vec![256 << 10; 32]);
    let (bytes, _) = read(&mut fetcher, GRAIN - 3, 6).await.unwrap();
    assert_eq!(bytes, [0x11, 0x11, 0x11, 0, 0, 0]);
    assert_eq!(read(&mut fetcher, SIZE - 1, 100).await.unwrap().0, [0x22]);

    let beyond = read(&mut fetcher, SIZE, 1).await.unwrap_err();
    assert_eq!((beyond.code(), beyond.message()), (Code::Unknown, "offset 8388608 is beyond export size 8388608"));
    let unknown = map(&mut fetcher, "disk", "other", 0, 0).await.unwrap_err();
    assert_eq!(unknown.message(), "server does not support requested context: qemu:dirty-bitmap:other");
    let unknown = map(&mut fetcher, "another", "", 0, 0).await.unwrap_err();
    assert!(unknown.message().contains("the NBD server refuses "), "{unknown}");

    // The end of the backup is the end of the tunnel, and the server sees it.
    gone.send(()).unwrap();
    timeout(SOON, fetcher.closed()).await.expect("the connection stays");
    wait_for("end of the tunnel", SOON, || expect(tunnel.is_over(), "it goes on"));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs QEMU's tools; make test"]
async fn lost_connection_is_made_again() {
    let served = served();
    let server = ExportServer::start().await;
    let (tunnel, _gone) = start(&server, &served);
    drop(accept(&server, StatusCode::FORBIDDEN).await);
    // This one is cut off in the middle of the TLS handshake.
    drop(timeout(SOON, server.accept_tls()).await);
    drop(accept(&server, StatusCode::OK).await);
    let mut fetcher = accept(&server, StatusCode::OK).await;
    assert_eq!(read(&mut fetcher, 0, 4).await.unwrap().0, [0x11; 4]);
    // Nobody wants it any more.
    drop(tunnel);
    timeout(SOON, fetcher.closed()).await.expect("the connection stays");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs QEMU's tools; make test"]
async fn server_that_has_vanished_is_noticed() {
    let served = served();
    let server = ExportServer::start().await;
    let instant = Duration::from_millis(50);
    let timings = Timings { ping: instant, pong: 10 * instant, ..timings() };
    let _tunnel = Tunnel::start(target(&server), &served.socket, timings, std::future::pending()).unwrap();
    let _vanished = timeout(SOON, server.accept_and_vanish()).await.unwrap();
    let mut fetcher = accept(&server, StatusCode::OK).await;
    assert_eq!(read(&mut fetcher, 0, 4).await.unwrap().0, [0x11; 4]);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs QEMU's tools; make test"]
async fn export_speaks_only_to_the_server_that_is_meant() {
    let served = served();
    let other = Authority::new();
    let stranger = other.sign("backup", rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let untrusted = |good: Target| Target { authority: other.pem.clone(), ..good };
    let misnamed = |good: Target| Target { server_name: "another".to_owned(), ..good };
    // And who is not let in says so in vain.
    let unknown =
        |good: Target| Target { key: stranger.key.clone(), certificate: stranger.certificate.clone(), ..good };
    // A launcher's alert may be lost on a busy machine, as it closes the connection behind it.
    let (alert, reset) = ("received fatal alert: ", "Connection reset");
    let cases = [
        (&untrusted as &dyn Fn(Target) -> Target, [alert, reset]),
        (&misnamed, [alert, reset]),
        (&unknown, ["invalid peer certificate: "; 2]),
    ];
    for (wrong, expected) in cases {
        // A server of its own for each: connections of the last case may still be waiting.
        let server = ExportServer::start().await;
        let wrong = wrong(target(&server));
        let _tunnel = Tunnel::start(wrong, &served.socket, timings(), std::future::pending()).unwrap();
        let refused = timeout(SOON, server.accept_tls()).await.unwrap();
        let refused = refused.expect_err("a connection that must not be made").to_string();
        assert!(expected.iter().any(|expected| refused.contains(expected)), "{refused}");
    }
}

/// Of the kind that KubeVirt makes: RSA, and a key that says so (PKCS#1).
async fn with_rsa() -> ExportServer {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let text = |name: &str| std::fs::read_to_string(path(name)).unwrap();
    let (ca, ca_key) = (path("ca"), path("ca.key"));
    let new = ["req", "-newkey", "rsa:2048", "-noenc", "-keyout"];
    run("openssl", &[&new[..], &[&ca_key, "-x509", "-subj", "/CN=authority", "-out", &ca]].concat());
    let identity = |usage: &str, name: &str| {
        let [key, traditional, request, extensions, signed] =
            ["key", "rsa.key", "request", "extensions", "signed"].map(|end| path(&format!("{usage}.{end}")));
        std::fs::write(&extensions, format!("subjectAltName=DNS:{name}\nextendedKeyUsage={usage}\n")).unwrap();
        run("openssl", &[&new[..], &[&key, "-subj", "/CN=x", "-out", &request]].concat());
        run("openssl", &["rsa", "-traditional", "-in", &key, "-out", &traditional]);
        let sign = ["x509", "-req", "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial", "-extfile", &extensions];
        run("openssl", &[&sign[..], &["-in", &request, "-out", &signed]].concat());
        Identity { certificate: text(&format!("{usage}.signed")), key: text(&format!("{usage}.rsa.key")) }
    };
    let (ours, client) = (identity("serverAuth", NAME), identity("clientAuth", "backup"));
    assert!(client.key.starts_with("-----BEGIN RSA PRIVATE KEY-----"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    ExportServer::with(listener, "127.0.0.1", text("ca"), &ours, client)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs openssl; make test"]
async fn export_accepts_certificates_as_kubevirt_makes_them() {
    let server = with_rsa().await;
    let socket = tempfile::NamedTempFile::new().unwrap();
    let _tunnel = Tunnel::start(target(&server), socket.path(), timings(), std::future::pending()).unwrap();
    accept(&server, StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn export_needs_a_socket_and_a_server() {
    let server = ExportServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nbd");
    let start = |target| Tunnel::start(target, &socket, timings(), std::future::pending());
    let missing = start(target(&server)).unwrap_err().to_string();
    assert_eq!(missing, format!("{}: No such file or directory (os error 2)", socket.display()));
    std::fs::write(&socket, "").unwrap();
    let tunnel = start(Target { key: "x".into(), ..target(&server) }).unwrap();
    wait_for("end of a tunnel that leads nowhere", SOON, || expect(tunnel.is_over(), "it goes on"));
}

#[tokio::test]
#[ignore = "needs QEMU's tools; make test"]
async fn real_qemu_tells_what_has_changed_and_what_it_is() {
    let served = served();
    let bitmap = "qemu:dirty-bitmap:changes".to_owned();
    let contexts = ["base:allocation".to_owned(), bitmap];
    let connect = |export, contexts| Client::connect(&served.socket, export, contexts, Deadlines::default());
    let mut client = connect("disk", &contexts).await.unwrap();
    let (size, edge) = (SIZE, GRAIN);
    assert_eq!(client.size(), size);
    let part = |length, flags| Part { length, flags };
    let status = client.status(0, size).await.unwrap();
    assert_eq!(status[0], [part(edge, 0), part(size - 2 * edge, 3), part(edge, 0)], "hole and zero in between");
    assert_eq!(status[1], [part(size - edge, 0), part(edge, 1)]);
    assert_eq!(client.status(size - 10, 100).await.unwrap()[1], [part(10, 1)]);
    let around = client.read(edge - 8, 16).await.unwrap();
    assert_eq!(around, [[0x11; 8], [0; 8]].concat());
    assert_eq!(client.read(size - edge, edge as u32).await.unwrap(), vec![0x22; edge as usize]);
    let beyond = client.read(size, 16).await.unwrap_err().to_string();
    assert!(beyond.starts_with("NBD READ at offset 8388608 failed: "), "{beyond}");
    client.close().await;
    let unknown = connect("other", &[]).await.unwrap_err().to_string();
    assert!(unknown.starts_with("the NBD server refuses the export: "), "{unknown}");
    let unknown = ["qemu:dirty-bitmap:other".to_owned()];
    let unknown = connect("disk", &unknown).await.unwrap_err().to_string();
    assert_eq!(unknown, "server does not support requested context: qemu:dirty-bitmap:other");
}
