//! A launcher under load, with clients that mean no good, without virt-handler and with a daemon that hangs: the real
//! image, libvirt and QEMU.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::pod::{Pod, demo_vmi, image, text};
use crate::support::processes::{children, owner, send};
use crate::support::virt_handler::{NotifyPipe, Received};
use crate::support::{expect, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use tonic::transport::Channel;
use virt_launcher::cmd::client;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;
use virt_launcher::proto::cmd_v1::*;

/// For an answer that must come; generous, since the machine may be busy.
const SOON: Duration = Duration::from_secs(20);
/// The absence of virt-handler that virt-handler's own update may take.
const ABSENCE: Duration = Duration::from_secs(60);
/// State changes during the absence.
const CHANGES: u32 = 200;

fn vmi_json() -> Vec<u8> {
    let yaml: Value = serde_norway::from_str(&demo_vmi()).unwrap();
    serde_json::to_vec(&yaml).unwrap()
}

fn request() -> VmiRequest {
    VmiRequest { vmi: Some(Vmi { vmi_json: vmi_json() }), options: None }
}

async fn connect(socket: &Path) -> CmdClient<Channel> {
    client::connect(socket, SOON).await.unwrap()
}

async fn status(client: &mut CmdClient<Channel>) -> String {
    let reply = client.get_domain(EmptyRequest {}).await.unwrap().into_inner();
    assert!(reply.response.unwrap().success);
    let domain: Value = serde_json::from_str(&reply.domain).unwrap_or_default();
    domain["Status"]["Status"].as_str().unwrap_or_default().to_owned()
}

/// A pod whose socket is there and whose disks are.
fn pod(image: &str) -> Pod {
    let pod = Pod::start(image, "demo", &[]);
    pod.wait_ready();
    pod.provide_disks();
    pod
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn hundred_clients_and_some_rude_ones_do_not_disturb_a_sync() {
    let image = image();
    let pod = pod(&image);
    let socket = pod.socket();
    let silent: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff"]
    {
        let mut rude = UnixStream::connect(&socket).unwrap();
        // The launcher may hang up on it before it has said all.
        let _ = rude.write_all(garbage);
    }
    runtime().block_on(async {
        let huge = VmiRequest { vmi: Some(Vmi { vmi_json: vec![b' '; 100 * 1024 * 1024] }), options: None };
        let refused = connect(&socket).await.sync_virtual_machine(huge).await;
        assert!(refused.is_err(), "{refused:?}");

        let (syncing, finished) = tokio::sync::watch::channel(false);
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let (socket, finished) = (socket.clone(), finished.clone());
            clients.spawn(async move {
                let mut client = connect(&socket).await;
                let (mut rounds, mut slowest) = (0, Duration::ZERO);
                while rounds == 0 || !*finished.borrow() {
                    let start = Instant::now();
                    status(&mut client).await;
                    slowest = slowest.max(start.elapsed());
                    let stats = client.get_domain_stats(EmptyRequest {}).await.unwrap().into_inner();
                    let reply = stats.response.unwrap();
                    assert!(reply.success || reply.message == "empty DomainStats", "{}", reply.message);
                    rounds += 1;
                }
                (rounds, slowest)
            });
        }
        let synced = connect(&socket).await.sync_virtual_machine(request()).await.unwrap().into_inner();
        assert_eq!(synced, Response { success: true, message: String::new() });
        syncing.send_replace(true);
        let done = clients.join_all().await;
        let rounds: u32 = done.iter().map(|(rounds, _)| rounds).sum();
        let slowest = done.iter().map(|(_, slowest)| *slowest).max().unwrap();
        println!("{rounds} rounds of GetDomain and GetDomainStats by 100 clients; slowest GetDomain {slowest:?}");
        assert!(slowest < Duration::from_secs(5), "a GetDomain took {slowest:?}; virt-handler gives up after 5 s");
        let stats = connect(&socket).await.get_domain_stats(EmptyRequest {}).await.unwrap().into_inner();
        assert!(stats.response.unwrap().success && stats.domain_stats.contains("default_demo"));
    });
    drop(silent);
    assert!(!pod.log().contains("panicked"), "{}", pod.log());
    assert!(pod.ctl(&["kill"]).status.success());
    pod.wait_exit();
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn virt_handler_comes_back_after_a_minute_and_two_hundred_changes_to_the_true_state() {
    let image = image();
    let pod = pod(&image);
    let mut handler = NotifyPipe::present(&pod.volume("public"));
    let runtime = runtime();
    runtime.block_on(async {
        let mut client = connect(&pod.socket()).await;
        assert!(client.sync_virtual_machine(request()).await.unwrap().into_inner().success);
        let heard = |received: &Vec<Received>| states(received).last().is_some_and(|state| state == "Running");
        handler.wait_for("Running", SOON, heard).await;
    });
    handler.vanish();
    let gone = Instant::now();
    runtime.block_on(async {
        let mut client = connect(&pod.socket()).await;
        // Spread over the absence, so that the launcher has every occasion to give up.
        let mut pace = tokio::time::interval(ABSENCE / CHANGES);
        for change in 0..CHANGES {
            pace.tick().await;
            // On a machine that stalls libvirt is late now and then; virt-handler then repeats its order.
            for attempt in 1.. {
                let reply = match change % 2 {
                    0 => client.pause_virtual_machine(request()).await,
                    _ => client.unpause_virtual_machine(request()).await,
                };
                let Response { success, message } = reply.unwrap().into_inner();
                if success {
                    break;
                }
                assert!(attempt < 3 && message.contains("libvirt did not answer"), "change {change}: {message}");
                println!("change {change}: {message}");
            }
        }
        assert!(client.pause_virtual_machine(request()).await.unwrap().into_inner().success);
        assert_eq!(status(&mut client).await, "Paused");
    });
    assert!(gone.elapsed() >= ABSENCE - ABSENCE / CHANGES, "{:?}", gone.elapsed());
    // Not when it vanished: the launcher may have told it something more until then.
    let before = handler.received().len();
    let back = Instant::now();
    handler.appear();
    let received = runtime.block_on(handler.wait_for("the true state", Duration::from_secs(2), |received| {
        received.len() > before && states(received).last().is_some_and(|state| state == "Paused")
    }));
    println!("{:?} after virt-handler came back it knew; {} notifications", back.elapsed(), received.len() - before);
    // One change more: what comes after it is its state, and nothing older behind it.
    let after = runtime.block_on(async {
        let mut client = connect(&pod.socket()).await;
        assert!(client.unpause_virtual_machine(request()).await.unwrap().into_inner().success);
        handler
            .wait_for("Running again", SOON, |received| states(received).last().is_some_and(|state| state == "Running"))
            .await
    });
    let after = states(&after);
    let turned = after[before..].iter().position(|state| state == "Running").map(|at| before + at).unwrap();
    assert!(after[before..turned].iter().all(|state| state == "Paused"), "{:?}", &after[before..]);
    assert!(after[turned..].iter().all(|state| state == "Running"), "{:?}", &after[before..]);
    assert!(pod.ctl(&["kill"]).status.success());
    assert!(pod.ctl(&["delete"]).status.success());
    pod.wait_exit();
}

fn states(received: &[Received]) -> Vec<String> {
    let state = |received: &Received| match received {
        Received::Domain { domain, .. } => Some(domain["Status"]["Status"].as_str().unwrap_or_default().to_owned()),
        Received::K8s(_) => None,
    };
    received.iter().filter_map(state).collect()
}

/// The libvirt daemon is a child of whoever owns the socket.
fn daemon(pod: &Pod) -> u32 {
    let mut children = children(owner(pod)).into_iter();
    let (pid, _) = children.find(|(_, comm)| comm == "libvirtd" || comm == "virtqemud").expect("a libvirt daemon");
    pid
}

/// Lets the daemon go on, whatever becomes of the test.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Self {
        send(pid, Signal::SIGSTOP);
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        send(self.0, Signal::SIGCONT);
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn daemon_that_hangs_fails_its_own_calls_and_nothing_else() {
    let image = image();
    let pod = pod(&image);
    let runtime = runtime();
    let socket = pod.socket();
    runtime.block_on(async {
        let mut client = connect(&socket).await;
        assert!(client.sync_virtual_machine(request()).await.unwrap().into_inner().success);
        assert_eq!(status(&mut client).await, "Running");
    });
    let stopped = Stopped::new(daemon(&pod));
    let start = Instant::now();
    runtime.block_on(async {
        let mut client = connect(&socket).await;
        let (mut sync, mut stats) = (client.clone(), client.clone());
        let mut hanging = tokio::task::JoinSet::new();
        hanging.spawn(async move { sync.sync_virtual_machine(request()).await.unwrap().into_inner() });
        hanging.spawn(
            async move { stats.get_domain_stats(EmptyRequest {}).await.unwrap().into_inner().response.unwrap() },
        );
        let mut times = Vec::new();
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        while start.elapsed() < Duration::from_secs(30) {
            pace.tick().await;
            assert!(client.ping(EmptyRequest {}).await.unwrap().into_inner().success);
            let asked = Instant::now();
            assert_eq!(status(&mut client).await, "Running");
            times.push(asked.elapsed());
        }
        times.sort();
        let (quick, median, slowest) = (times[times.len() / 10], times[times.len() / 2], times[times.len() - 1]);
        println!(
            "{} times GetDomain: a tenth within {quick:?}, half within {median:?}, all within {slowest:?}",
            times.len()
        );
        // Who waits for the daemon waits for seconds; the rest is other work on the machine.
        assert!(quick < Duration::from_millis(10) && slowest < Duration::from_secs(3), "{quick:?}, {slowest:?}");
        while let Some(reply) = hanging.join_next().await {
            let Response { success, message } = reply.unwrap();
            println!("said meanwhile: {message}");
            assert!(!success && (message.contains("virDomain") || message.contains("virConnect")), "{message}");
        }
    });
    drop(stopped);
    wait_for("all is well again", Duration::from_secs(60), || {
        let paused = pod.ctl(&["pause"]);
        expect(paused.status.success() && pod.status() == "Paused", text(&paused))
    });
    // A daemon that was started anew probes QEMU first, and answers some calls late.
    for order in ["stats", "kill"] {
        wait_for(order, Duration::from_secs(60), || {
            let answer = pod.ctl(&[order]);
            expect(answer.status.success(), text(&answer))
        });
    }
    pod.wait_exit();
}
