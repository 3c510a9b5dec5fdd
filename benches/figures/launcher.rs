//! The launcher in its image, with a running VM: time, memory, wake-ups. `PEER_IMAGE=…` takes the same figures of another
//! image, through the same sockets.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use tokio::runtime::Runtime;
use tonic::transport::Channel;
use virt_launcher::cmd::client;
use virt_launcher::proto::cmd_v1::EmptyRequest;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;

use crate::report::Figure;
use crate::support::pod::{Pod, Setup, TIMED, demo_vmi};
use crate::support::processes::{children, owner, send};
use crate::support::virt_handler::{Received, is_deleted};
use crate::support::weight::{rollup, wake_ups};
use crate::support::{expect, wait_for};

/// Adds a figure: what, value, unit, how it was taken.
type Add<'a> = dyn FnMut(&str, Option<f64>, &'static str, &str) + 'a;

/// Nothing here takes longer on a machine that works.
const PATIENCE: Duration = Duration::from_secs(120);
/// Calls of one kind; so many are also what memory is looked at after.
const CALLS: usize = 10_000;
/// A new agent is asked often at first.
const SETTLED: Duration = Duration::from_secs(80);
/// For how long wake-ups are counted: as long as the longest usual pause between two questions to the agent.
const IDLE: Duration = Duration::from_secs(120);

pub fn figures() -> Vec<Figure> {
    let own = std::env::var("VIRT_LAUNCHER_IMAGE").ok().filter(|image| !image.is_empty());
    let peer = std::env::var("PEER_IMAGE").ok().filter(|image| !image.is_empty());
    let mut figures = Vec::new();
    for (prefix, image) in [("", own), ("peer: ", peer)] {
        match image {
            Some(image) => of_image(prefix, &image, &mut figures),
            None if prefix.is_empty() => figures.push(Figure {
                name: "all".to_owned(),
                value: None,
                unit: "",
                how: "no image is given (make bench IMAGE=…)".to_owned(),
            }),
            None => {}
        }
    }
    figures
}

fn of_image(prefix: &str, image: &str, figures: &mut Vec<Figure>) {
    let mut add = |name: &str, value: Option<f64>, unit: &'static str, how: &str| {
        figures.push(Figure { name: format!("{prefix}{name}"), value, unit, how: how.to_owned() });
    };
    let vmi = demo_vmi();
    let started = tempfile::tempdir().unwrap();
    let pod = Setup::new(image, "demo").timed(started.path()).start();
    pod.wait_ready();
    let ready = fs::metadata(pod.socket()).unwrap();
    let ready = ready.ctime() as f64 * 1000.0 + ready.ctime_nsec() as f64 / 1e6;
    let total = ready - exec_time(started.path());
    let daemon = logged(&pod, &["virtqemud with pid", "libvirtd with pid"], "after ");
    add("exec to socket", Some(total), "ms", "from the exec of the container's program to the socket's final name");
    add("exec to socket: libvirt daemon", daemon, "ms", "of it, as the launcher logs it: from its start to its socket");
    add("exec to socket: own share", daemon.map(|daemon| total - daemon), "ms", "the rest");
    pod.provide_disks();
    let begun = Instant::now();
    assert!(pod.sync(&vmi).status.success(), "{}", pod.log());
    pod.wait_status("Running");
    add(
        "first sync to Running",
        Some(millis(begun.elapsed())),
        "ms",
        "SyncVirtualMachine to a GetDomain that says Running, the client's own start included",
    );
    let (whole, libvirts) = (logged(&pod, &["started the VM in"], "in "), logged(&pod, &["started the VM in"], "ms, "));
    add("first sync: libvirt and QEMU", libvirts, "ms", "calls of libvirt, as the launcher logs it");
    add("first sync: own share", whole.zip(libvirts).map(|(whole, theirs)| whole - theirs), "ms", "the rest");
    pod.wait_console("guest: ready");

    let monitor = pod.pid_1();
    let launcher = owner(&pod);
    let memory = |role: &str, pid: u32, when: &str, add: &mut Add<'_>| {
        for (what, field) in [("RSS", "Rss:"), ("PSS", "Pss:"), ("anonymous", "Anonymous:")] {
            add(
                &format!("{role}: {what}, {when}"),
                rollup(pid, field).map(|kib| kib as f64 / 1024.0),
                "MiB",
                "smaps_rollup, with a running VM",
            );
        }
    };
    memory("monitor", monitor, "idle", &mut add);
    memory("launcher", launcher, "idle", &mut add);
    std::thread::sleep(SETTLED);
    for (role, pid) in [("monitor", monitor), ("launcher", launcher)] {
        let woken: u64 = wake_ups(pid, IDLE).values().sum();
        let per_minute = woken as f64 * 60.0 / IDLE.as_secs_f64();
        add(
            &format!("{role}: wake-ups"),
            Some(per_minute),
            "1/min",
            "voluntary context switches of all threads, no client; the guest's agent is there",
        );
    }

    let runtime = Runtime::new().unwrap();
    let mut client = runtime.block_on(client::connect(&pod.socket(), PATIENCE)).unwrap();
    let client: &mut CmdClient<Channel> = &mut client;
    for rpc in ["Ping", "GetDomain", "GetDomainStats"] {
        let mut times: Vec<Duration> = Vec::with_capacity(CALLS);
        let begun = Instant::now();
        for _ in 0..CALLS {
            let call = Instant::now();
            runtime.block_on(async {
                let request = EmptyRequest {};
                match rpc {
                    "Ping" => client.ping(request).await.map(drop),
                    "GetDomain" => client.get_domain(request).await.map(drop),
                    _ => client.get_domain_stats(request).await.map(drop),
                }
                .unwrap();
            });
            times.push(call.elapsed());
        }
        let rate = CALLS as f64 / begun.elapsed().as_secs_f64();
        times.sort();
        add(
            &format!("{rpc}: p50"),
            times.get(CALLS / 2).copied().map(millis),
            "ms",
            "one connection, one call at a time",
        );
        add(&format!("{rpc}: p99"), times.get(CALLS * 99 / 100).copied().map(millis), "ms", "the same calls");
        add(&format!("{rpc}: rate"), Some(rate), "1/s", "the same calls");
    }
    memory("launcher", launcher, "after 30,000 calls", &mut add);

    let virt_handler = pod.virt_handler(&vmi);
    wait_for("the first event", PATIENCE, || expect(!virt_handler.pipe.received().is_empty(), "none"));
    let (hypervisor, _) = children(monitor).into_iter().find(|(_, comm)| comm.starts_with("qemu-system")).unwrap();
    let killed = Instant::now();
    send(hypervisor, Signal::SIGKILL);
    let said = |what: fn(&serde_json::Value) -> bool| {
        virt_handler.pipe.received().iter().any(|event| match event {
            Received::Domain { domain, .. } => what(domain),
            Received::K8s(_) => false,
        })
    };
    let down = |domain: &serde_json::Value| domain.pointer("/Status/Status").is_some_and(|status| status != "Running");
    wait_for("the end", PATIENCE, || expect(said(down), "not told"));
    add(
        "QEMU killed to virt-handler told",
        Some(millis(killed.elapsed())),
        "ms",
        "SIGKILL to the event at virt-handler's stand-in",
    );
    wait_for("the deletion", PATIENCE, || expect(said(is_deleted), "not told"));
    let last = Instant::now();
    wait_for("the end of PID 1", PATIENCE, || expect(!Path::new(&format!("/proc/{monitor}")).exists(), "it lives"));
    add("last acknowledgement to the end of PID 1", Some(millis(last.elapsed())), "ms", "the stand-in answers at once");
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The milliseconds that a message of the launcher's log has after `before`; none in another's log.
fn logged(pod: &Pod, starts: &[&str], before: &str) -> Option<f64> {
    let lines = pod.lines();
    let records = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut messages = records.filter_map(|record| record["msg"].as_str().map(str::to_owned));
    let message = messages.find(|message| starts.iter().any(|start| message.starts_with(start)))?;
    let (_, after) = message.split_once(before)?;
    after.split_whitespace().next()?.parse().ok()
}

/// When the container's program was started, in milliseconds since 1970.
fn exec_time(folder: &Path) -> f64 {
    let text = fs::read_to_string(folder.join(TIMED)).unwrap();
    text.trim().parse::<f64>().unwrap() / 1e6
}
