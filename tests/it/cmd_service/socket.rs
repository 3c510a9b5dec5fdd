//! The socket itself: how it comes, what it replaces, how it goes.

use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use virt_launcher::cmd::{SocketError, SocketPaths, Timings, bind, client, publish, serve};
use virt_launcher::proto::cmd_v1::EmptyRequest;

use super::launcher::{Launcher, SOON, vmi_request};
use crate::support;
use crate::support::driver::Scripted;
use crate::support::virt_handler::peer_pid;

/// `Info` and `Ping`, once.
async fn answers(socket: &Path) {
    let mut client = client::connect(socket, SOON).await.unwrap();
    assert!(client.ping(EmptyRequest {}).await.unwrap().into_inner().success);
}

#[tokio::test]
async fn socket_gets_its_name_when_the_launcher_is_ready() {
    let share = TempDir::new().unwrap();
    let paths = SocketPaths::below(share.path());
    let listener = bind(&paths.init).unwrap();
    assert!(!paths.ready.exists());
    let driver = Arc::new(Scripted::default());
    let served = tokio::spawn(serve(listener, driver, Timings::default(), std::future::pending()));
    answers(&paths.init).await;
    publish(&paths).unwrap();
    assert!(!paths.init.exists());
    answers(&paths.ready).await;
    assert_eq!(peer_pid(&paths.ready).await.unwrap(), i32::try_from(std::process::id()).unwrap());
    served.abort();
}

#[tokio::test]
async fn server_that_stops_cuts_calls_that_do_not_end() {
    let mut launcher = Launcher::start(|_| Box::pin(std::future::pending()));
    let mut client = launcher.client().await;
    let stuck = tokio::spawn(async move { client.sync_virtual_machine(vmi_request()).await });
    support::wait_until("the sync", SOON, || {
        support::expect(!launcher.driver.asked.lock().unwrap().is_empty(), "not asked yet")
    })
    .await;
    let stop = launcher.stop.take().unwrap();
    let stopping = Instant::now();
    stop.send(()).unwrap();
    tokio::time::timeout(SOON, &mut launcher.served).await.expect("the server ends").unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(2));
    assert!(launcher.socket.exists(), "the file is the launcher's to remove");
    assert!(BlockingStream::connect(&launcher.socket).is_err());
    stuck.abort();
}

#[tokio::test]
async fn idle_server_stops_at_once() {
    let mut launcher = Launcher::obliging();
    launcher.still_answers().await;
    launcher.stop.take().unwrap().send(()).unwrap();
    tokio::time::timeout(SOON, &mut launcher.served).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn socket_that_cannot_be_is_explained() {
    let share = TempDir::new().unwrap();
    let long = share.path().join("x".repeat(100)).join("sockets/launcher-init-sock");
    let error = bind(&long).unwrap_err();
    assert!(matches!(error, SocketError::TooLong { .. }));
    let text = error.to_string();
    assert!(text.contains(long.to_str().unwrap()) && text.contains("107"), "{text}");

    let file = share.path().join("file");
    std::fs::write(&file, "").unwrap();
    let below = file.join("sockets/launcher-init-sock");
    let text = bind(&below).unwrap_err().to_string();
    assert!(text.contains(below.to_str().unwrap()) && text.contains("Not a directory"), "{text}");

    let text = bind(std::path::Path::new("/proc/sockets/launcher-init-sock")).unwrap_err().to_string();
    assert!(text.contains("cannot make its directory"), "{text}");

    let paths = SocketPaths { init: share.path().join("none"), ready: share.path().join("ready") };
    let text = publish(&paths).unwrap_err().to_string();
    assert!(text.contains("rename"), "{text}");
}

#[tokio::test]
async fn socket_replaces_whatever_is_at_its_path() {
    let share = TempDir::new().unwrap();
    let path = share.path().join("sockets/launcher-init-sock");
    std::fs::create_dir_all(path.join("sub")).unwrap();
    drop(bind(&path).unwrap());
    drop(bind(&path).unwrap());
}

#[tokio::test]
async fn client_is_reported_why_it_cannot_connect() {
    let share = TempDir::new().unwrap();
    let error = client::connect(&share.path().join("none"), SOON).await.unwrap_err().to_string();
    assert!(error.contains("none") && error.contains("No such file"), "{error}");

    let silent = share.path().join("silent");
    let _listener = std::os::unix::net::UnixListener::bind(&silent).unwrap();
    let error = client::connect(&silent, Duration::from_millis(100)).await.unwrap_err().to_string();
    assert!(error.contains("0.1 s"), "{error}");
}
