//! Clients that do not behave, and calls that do not end: nobody else notices.

use std::io::Write;
use std::os::unix::net::UnixStream as BlockingStream;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tonic::{Code, Request};
use virt_launcher::cmd::Action;
use virt_launcher::proto::cmd_v1::*;

use super::launcher::{Launcher, SOON, VMI, vmi_request};
use crate::support;

#[tokio::test]
async fn panic_costs_one_caller_an_error() {
    let launcher = Launcher::start(|action| {
        assert!(!matches!(action, Action::Reset(_)), "at once");
        let kill = matches!(action, Action::Kill(_));
        Box::pin(async move {
            assert!(!kill, "while answering");
            Ok(())
        })
    });
    let mut client = launcher.client().await;
    let status = client.reset_virtual_machine(vmi_request()).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("at once"), "{status:?}");
    let status = client.kill_virtual_machine(vmi_request()).await.unwrap_err();
    assert!(status.message().contains("while answering"), "{status:?}");
    assert!(client.ping(EmptyRequest {}).await.unwrap().into_inner().success, "the same connection goes on");
    launcher.still_answers().await;
}

#[tokio::test]
async fn caller_that_goes_away_drops_its_answer() {
    struct Dropped(watch::Sender<u32>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.send_modify(|count| *count += 1);
        }
    }
    let dropped = watch::Sender::new(0);
    let (tell, mut told) = (dropped.clone(), dropped.subscribe());
    let launcher = Launcher::start(move |_| {
        let answer = Dropped(tell.clone());
        Box::pin(async move {
            let _answer = answer;
            std::future::pending().await
        })
    });
    let mut client = launcher.client().await;
    let mut request = Request::new(vmi_request());
    request.set_timeout(Duration::from_millis(50));
    let status = client.pause_virtual_machine(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    tokio::time::timeout(SOON, told.wait_for(|count| *count == 1)).await.expect("after its deadline").unwrap();

    let mut hasty = launcher.client().await;
    let calling = tokio::spawn(async move { hasty.pause_virtual_machine(vmi_request()).await });
    support::wait_until("the call", SOON, || {
        let asked = launcher.driver.asked.lock().unwrap().len();
        support::expect(asked == 2, asked)
    })
    .await;
    calling.abort();
    tokio::time::timeout(SOON, told.wait_for(|count| *count == 2)).await.expect("after its connection broke").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_with_garbage_or_silence_disturb_nobody() {
    let launcher = Launcher::obliging();
    let idle: Vec<_> = (0..200).map(|_| BlockingStream::connect(&launcher.socket).unwrap()).collect();
    let mut half = BlockingStream::connect(&launcher.socket).unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n\r\nSM").unwrap();
    for garbage in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".iter().copied().chain([0xff; 4096]).collect(),
        vec![0; 100_000],
        (0..=255).cycle().take(70_000).collect(),
    ] {
        let mut client = BlockingStream::connect(&launcher.socket).unwrap();
        // The server may well hang up while it is being written to.
        let _ = client.write_all(&garbage);
    }
    for _ in 0..1000 {
        drop(BlockingStream::connect(&launcher.socket).unwrap());
    }
    let asked = Instant::now();
    launcher.still_answers().await;
    assert!(asked.elapsed() < Duration::from_secs(2), "virt-handler gives up after 2 s; took {:?}", asked.elapsed());
    drop((idle, half));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn message_of_a_hundred_mebibytes_is_refused_without_being_read() {
    let launcher = Launcher::obliging();
    let mut client = launcher.client().await;
    let vmi_json = vec![b' '; 100 * 1024 * 1024];
    let request = VmiRequest { vmi: Some(Vmi { vmi_json }), options: None };
    let status = client.sync_virtual_machine(request).await.unwrap_err();
    assert_ne!(status.code(), Code::Ok);
    assert!(launcher.driver.asked.lock().unwrap().is_empty());
    launcher.still_answers().await;

    let mut padded = VMI.as_bytes().to_vec();
    padded.resize(4 * 1024 * 1024 - 64, b' ');
    let request = VmiRequest { vmi: Some(Vmi { vmi_json: padded }), options: None };
    assert!(
        launcher.client().await.sync_virtual_machine(request).await.unwrap().into_inner().success,
        "just below 4 MiB"
    );
}
