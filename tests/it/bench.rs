//! The benchmark's own parts, against launchers that do not do what it waits for: `make bench PEER_IMAGE=…` measures others'.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::figures::guard::Guard;
use crate::support::figures::life::{self, Life, Missed, Span, median};
use crate::support::figures::report::{Figure, comparison, figure_row, json};
use crate::support::guest::Launcher;
use crate::support::pod::{image, podman};
use crate::support::processes::send;
use crate::support::virt_handler::{Options, VirtHandler};
use crate::support::{expect, gate, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use virt_launcher::cmd::client::deadline;
use virt_launcher::proto::notify_v1::DomainEventRequest;
use virt_launcher::proto::notify_v1::notify_client::NotifyClient;
use virt_launcher::proto::unix;

/// For what must happen, on a busy machine.
const SOON: Duration = Duration::from_secs(60);
/// For what must not.
const SHORT: Duration = Duration::from_millis(300);
/// After which a launcher is given up: long enough for what it does do, on a busy machine.
const BOUND: Duration = Duration::from_secs(10);

/// A process that does nothing, in the place of QEMU or PID 1.
struct Process(Child);

impl Process {
    fn start() -> Self {
        Process(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A launcher that does what the test does in its place.
struct Peer {
    share: TempDir,
    virt_handler: VirtHandler,
    qemu: Process,
    pid_1: Process,
    runtime: Runtime,
}

impl Peer {
    fn start() -> Self {
        gate::clocked();
        let share = tempfile::tempdir().unwrap();
        std::fs::create_dir(share.path().join("sockets")).unwrap();
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async { Launcher::default().serve(&share.path().join("sockets/launcher-sock")) });
        let vmi = json!({"metadata": {"namespace": "default", "name": "demo"}});
        let virt_handler = VirtHandler::attach(share.path(), Options::new(vmi.to_string()));
        Peer { share, virt_handler, qemu: Process::start(), pid_1: Process::start(), runtime }
    }

    /// Follows the end of its VM; `then` is what the launcher does once QEMU was killed.
    fn end(&mut self, bound: Duration, then: impl FnOnce(&dyn Fn(Value), &mut Process) + Send) -> Life {
        let mut life = Life::default();
        let (qemu, pid_1) = (self.qemu.0.id(), self.pid_1.0.id());
        let (share, runtime, killed, ending) = (self.share.path(), &self.runtime, &mut self.qemu.0, &mut self.pid_1);
        let virt_handler = &self.virt_handler;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                killed.wait().unwrap();
                then(&|domain| publish(runtime, share, domain), ending);
            });
            life.missed = life.end(virt_handler, qemu, pid_1, bound).err();
            // For the thread, where it was not killed.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(qemu.cast_signed()), Signal::SIGKILL);
        });
        life
    }

    fn publish(&self, domain: Value) {
        publish(&self.runtime, self.share.path(), domain);
    }
}

/// Sends a domain event and waits until it is taken.
fn publish(runtime: &Runtime, share: &Path, domain: Value) {
    let domain_json = domain.to_string().into_bytes();
    let request = DomainEventRequest { domain_json, status_json: Vec::new(), event_type: "MODIFIED".to_owned() };
    runtime.block_on(async {
        let channel = unix::dial(&virt_launcher::notify::socket_below(share), deadline::SHORT).await.unwrap();
        assert!(NotifyClient::new(channel).handle_domain_event(request).await.unwrap().into_inner().success);
    });
}

fn domain(status: &str, reason: &str) -> Value {
    json!({"ObjectMeta": {}, "Status": {"Status": status, "Reason": reason}})
}

fn deleted() -> Value {
    json!({"ObjectMeta": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "Status": {"Status": "NoState"}})
}

fn reached(life: &Life) -> Vec<Span> {
    life.spans.keys().copied().collect()
}

#[test]
fn life_that_ends_is_followed_to_the_end_of_pid_1() {
    let mut peer = Peer::start();
    peer.publish(domain("Running", "Unknown"));
    let life = peer.end(SOON, |publish, pid_1| {
        publish(domain("Shutoff", "Crashed"));
        publish(deleted());
        std::thread::sleep(Duration::from_millis(50));
        pid_1.end();
    });
    assert_eq!(life.missed, None);
    assert_eq!(reached(&life), [Span::ToReport, Span::ToPhase, Span::ToEnd, Span::KillToEnd]);
    assert!(life.spans[&Span::ToReport] <= life.spans[&Span::KillToEnd]);
    // Less the time that this thread needs to be told.
    assert!(life.spans[&Span::KillToEnd] >= 50.0, "{life:?}");
    assert!(life.spans[&Span::ToEnd] <= life.spans[&Span::KillToEnd], "{life:?}");
}

#[test]
fn launcher_that_ends_before_virt_handlers_last_word_shows_it() {
    let mut peer = Peer::start();
    peer.publish(domain("Running", "Unknown"));
    let life = peer.end(SOON, |publish, pid_1| {
        publish(domain("Shutoff", "Crashed"));
        pid_1.end();
        std::thread::sleep(Duration::from_millis(50));
        publish(deleted());
    });
    assert_eq!(life.missed, None);
    assert!(life.spans[&Span::ToEnd] < 0.0, "{life:?}");
}

#[test]
fn event_from_before_the_kill_is_not_taken_for_the_answer() {
    let mut peer = Peer::start();
    // As a launcher publishes a domain that is defined and not yet started, or one of an earlier try that it undefined.
    peer.publish(domain("Shutoff", "Crashed"));
    peer.publish(deleted());
    peer.publish(domain("Running", "Unknown"));
    let life = peer.end(SHORT, |_, _| {});
    assert_eq!(life.missed, Some(Missed::not_within("the event of the VM's end", SHORT)));
    assert_eq!(reached(&life), []);
}

#[test]
fn event_of_the_kill_is_waited_for_behind_the_late_ones_of_before() {
    let mut peer = Peer::start();
    peer.publish(domain("Running", "Unknown"));
    let life = peer.end(SHORT, |publish, _| {
        // What was under way when QEMU was killed.
        publish(domain("Running", "Unknown"));
        publish(domain("Paused", "User"));
    });
    assert_eq!(life.missed, Some(Missed::not_within("the event of the VM's end", SHORT)));
}

#[test]
fn vm_that_was_never_reported_as_running_is_not_killed() {
    let mut peer = Peer::start();
    peer.publish(domain("Shutoff", ""));
    let life = peer.end(SHORT, |_, _| {});
    assert_eq!(life.missed, Some(Missed::not_within("the event of the VM's start", SHORT)));
}

#[test]
fn launcher_that_does_not_delete_keeps_what_was_measured_before() {
    let mut peer = Peer::start();
    peer.publish(domain("Running", "Unknown"));
    let life = peer.end(BOUND, |publish, _| publish(domain("Shutoff", "Crashed")));
    assert_eq!(life.missed, Some(Missed::not_within("the event of the VM's deletion", BOUND)));
    assert_eq!(reached(&life), [Span::ToReport, Span::ToPhase]);
}

#[test]
fn launcher_that_does_not_end_is_written_down_as_such() {
    let mut peer = Peer::start();
    peer.publish(domain("Running", "Unknown"));
    let life = peer.end(BOUND, |publish, _| {
        publish(domain("Shutoff", "Crashed"));
        publish(deleted());
    });
    assert_eq!(life.missed, Some(Missed::not_within("the end of PID 1", BOUND)));
    assert_eq!(reached(&life), [Span::ToReport, Span::ToPhase]);
    let (value, how) = median(&[life], Span::ToEnd);
    assert_eq!((value, how.as_str()), (None, "none of 1 VMs; the end of PID 1: not within 10 s"));
}

#[test]
fn launcher_without_an_answer_to_a_sync_is_given_up_within_the_bound() {
    let share = tempfile::tempdir().unwrap();
    let socket = share.path().join("sock");
    // Takes connections and never answers.
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let begun = Instant::now();
    life::sync(&socket, &json!({}), SHORT).unwrap_err();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[test]
fn median_is_of_the_lives_that_came_so_far_and_says_how_many() {
    let life = |to_end: Option<f64>, missed: Option<&str>| Life {
        spans: to_end.map(|value| (Span::ToEnd, value)).into_iter().collect(),
        missed: missed.map(Missed::because),
        complaints: Vec::new(),
    };
    let whole = [life(Some(30.0), None), life(Some(10.0), None), life(Some(20.0), None)];
    assert_eq!(median(&whole, Span::ToEnd), (Some(20.0), "median of 3 VMs".to_owned()));
    let some =
        [life(Some(30.0), None), life(None, Some("a: not within 120 s")), life(None, Some("a: not within 120 s"))];
    assert_eq!(median(&some, Span::ToEnd), (Some(30.0), "median of 1 of 3 VMs; a: not within 120 s".to_owned()));
    assert_eq!(median(&whole, Span::SyncOwn), (None, "not in the launcher's log".to_owned()));
}

#[test]
fn json_document_keeps_its_form_with_the_peers_figures_beside() {
    let figure = |name: &str, value| Figure { name: name.to_owned(), value, unit: "ms", how: "so".to_owned() };
    let figures = [
        ("launcher", figure("exec to socket", Some(50.0))),
        ("launcher", figure("peer: exec to socket", Some(500.0))),
        ("launcher", figure("peer: alone", Some(1.0))),
        ("launcher", Figure::not_taken("peer: the rest", "no image")),
    ];
    let document: Value = serde_json::from_str(&json(&figures)).unwrap();
    assert!(document["machine"].is_string());
    let row = |name: &str, value: Value| json!({"group": "launcher", "name": name, "value": value, "unit": "ms", "how": "so"});
    let all = document["figures"].as_array().unwrap();
    assert_eq!(all[0], row("exec to socket", json!(50.0)));
    assert_eq!(all[1], row("peer: exec to socket", json!(500.0)));
    assert_eq!(
        all[3],
        json!({"group": "launcher", "name": "peer: the rest", "value": null, "unit": "", "how": "no image"})
    );

    let side_by_side = comparison(&figures);
    let rows: Vec<Vec<&str>> = side_by_side.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [["exec", "to", "socket", "50.0", "500", "ms", "10.0"]]);
    assert_eq!(comparison(&figures[..1]), "");
}

#[test]
fn what_a_peer_does_not_have_is_not_taken() {
    let figure = |name: &str, value| Figure { name: name.to_owned(), value, unit: "ms", how: "so".to_owned() };
    let figures = [
        ("conversion", figure("small", Some(1.0))),
        ("launcher", figure("Ping: p50", Some(2.0))),
        ("launcher", Figure::not_taken("notifications", "too late")),
        ("launcher", Figure::not_taken("peer: a running VM", "no socket")),
    ];
    let side_by_side = comparison(&figures);
    let rows: Vec<&str> = side_by_side.lines().skip(2).collect();
    assert_eq!(rows.len(), 1, "{side_by_side}");
    assert_eq!(rows[0].split_whitespace().collect::<Vec<_>>(), ["Ping:", "p50", "2.00", "not", "taken", "ms"]);
}

#[test]
fn row_is_one_line() {
    let row = figure_row("launcher", &Figure::not_taken("peer: a running VM", "the container has ended: a\n  b\n"));
    assert!(row.ends_with("the container has ended: a b"), "{row:?}");
}

/// A container that only the guard ends.
fn start_container(image: &str, name: &str) {
    let mut command = podman();
    command.args(["run", "-d", "--network=none", "--name", name, "--entrypoint", "sleep", image, "600"]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn containers(prefix: &str) -> String {
    let filter = format!("name=^{prefix}");
    let output = podman().args(["ps", "-a", "--format", "{{.Names}}", "--filter", &filter]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn guard_ends_its_containers_and_no_others() {
    let image = image();
    let (own, other) =
        (format!("bench-test-{}-own-", std::process::id()), format!("bench-test-{}-other-", std::process::id()));
    let folder = tempfile::tempdir().unwrap().keep();
    let guard = Guard::new(podman().get_program(), &own, &folder).unwrap();
    let spared = Guard::new(podman().get_program(), &other, Path::new("/nonexistent")).unwrap();
    for name in [format!("{own}0"), format!("{own}1")] {
        guard.start(|| start_container(&image, &name));
    }
    spared.start(|| start_container(&image, &format!("{other}0")));
    // As a terminal's Ctrl-C reaches it.
    send(guard.pid().unwrap(), Signal::SIGINT);
    guard.end();
    assert_eq!(containers(&own), "");
    assert_eq!(containers(&other), format!("{other}0\n"));
    assert!(!folder.exists());
}

/// The child of the test below.
const HELD: &str = "BENCH_TEST_HOLDS_A_GUARD";

#[test]
#[ignore = "a helper process that the test below starts"]
fn helper_process_with_a_guard() {
    let (prefix, image) = (std::env::var(HELD).unwrap(), image());
    let guard = Guard::new(podman().get_program(), &prefix, Path::new("/nonexistent")).unwrap();
    guard.start(|| start_container(&image, &format!("{prefix}0")));
    println!("\nstarted");
    std::thread::sleep(SOON * 10);
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn guard_ends_the_containers_of_a_process_that_was_killed() {
    // The helper's; without it there is none.
    image();
    let prefix = format!("bench-test-{}-killed-", std::process::id());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "bench::helper_process_with_a_guard"])
        .env(HELD, &prefix)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "started"));
    assert_eq!(containers(&prefix), format!("{prefix}0\n"));
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the end of the container", SOON, || {
        let left = containers(&prefix);
        expect(left.is_empty(), left)
    });
}
