//! The launcher in its image, with a running VM: time, memory, wake-ups. `PEER_IMAGE=…` takes the same figures of another
//! image, through the same sockets.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tonic::transport::Channel;
use virt_launcher::cmd::client;
use virt_launcher::proto::cmd_v1::EmptyRequest;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;

use crate::report::Figure;
use crate::support::pod::Pod;
use crate::support::virt_handler::Received;
use crate::support::{expect, wait_for};

/// Adds a figure: what, value, unit, how it was taken.
type Add<'a> = dyn FnMut(&str, Option<f64>, &'static str, &str) + 'a;

/// Nothing here takes longer on a machine that works.
const PATIENCE: Duration = Duration::from_secs(120);
/// Calls of one kind; so many are also what memory is looked at after.
const CALLS: usize = 10_000;
/// For how long wake-ups are counted.
const IDLE: Duration = Duration::from_secs(20);

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
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/images/demo/vmi.yaml");
    let vmi = fs::read_to_string(path).unwrap();
    let pod = Pod::start(image, "demo", &[]);
    pod.wait_ready();
    let ready = started_to_ready(&pod);
    add(
        "libvirt daemon to its socket",
        ready.map(|(daemon, _)| daemon),
        "ms",
        "from its start, as the launcher logs it",
    );
    add("daemon's socket to the launcher's", ready.map(|(_, own)| own), "ms", "times of the two log lines");
    pod.provide_disks();
    let begun = Instant::now();
    assert!(pod.sync(&vmi).status.success(), "{}", pod.log());
    pod.wait_status("Running");
    add(
        "first sync to Running",
        Some(millis(begun.elapsed())),
        "ms",
        "SyncVirtualMachine to a GetDomain that says Running",
    );
    pod.wait_console("guest: ready");

    let monitor = pod.pid_1();
    let launcher = launcher_of(monitor);
    let memory = |role: &str, pid: u32, when: &str, add: &mut Add<'_>| {
        for (what, field) in [("RSS", "Rss:"), ("PSS", "Pss:"), ("anonymous", "Anonymous:")] {
            add(&format!("{role}: {what}, {when}"), rollup(pid, field), "MiB", "smaps_rollup, with a running VM");
        }
    };
    memory("monitor", monitor, "idle", &mut add);
    memory("launcher", launcher, "idle", &mut add);
    for (role, pid) in [("monitor", monitor), ("launcher", launcher)] {
        let before = switches(pid);
        std::thread::sleep(IDLE);
        let per_minute = (switches(pid) - before) as f64 * 60.0 / IDLE.as_secs_f64();
        add(
            &format!("{role}: wake-ups"),
            Some(per_minute),
            "1/min",
            "voluntary context switches of all threads, no client",
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
    let hypervisor = child(monitor, "qemu-system").unwrap();
    let killed = Instant::now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(hypervisor.cast_signed()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
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
    let deleted =
        |domain: &serde_json::Value| domain.pointer("/ObjectMeta/deletionTimestamp").is_some_and(|at| !at.is_null());
    wait_for("the deletion", PATIENCE, || expect(said(deleted), "not told"));
    let last = Instant::now();
    wait_for("the end of PID 1", PATIENCE, || expect(!Path::new(&format!("/proc/{monitor}")).exists(), "it lives"));
    add("last acknowledgement to the end of PID 1", Some(millis(last.elapsed())), "ms", "the stand-in answers at once");
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// From the log: what the daemon needed from its start to its socket, and the launcher from there to its own; none for
/// another's log.
fn started_to_ready(pod: &Pod) -> Option<(f64, f64)> {
    let records: Vec<serde_json::Value> =
        pod.lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let message = |record: &serde_json::Value| record["msg"].as_str().unwrap_or_default().to_owned();
    let of_daemon = |record: &&serde_json::Value| {
        ["virtqemud with pid", "libvirtd with pid"].iter().any(|start| message(record).starts_with(start))
    };
    let (ready, daemon) =
        (records.iter().find(|record| message(record) == "Marked as ready")?, records.iter().find(of_daemon)?);
    let needed: f64 = message(daemon).rsplit_once("after ")?.1.strip_suffix(" ms")?.parse().ok()?;
    let own = seconds(ready["timestamp"].as_str()?)? - seconds(daemon["timestamp"].as_str()?)?;
    Some((needed, own * 1000.0))
}

/// Seconds within the day, which no run outlasts.
fn seconds(timestamp: &str) -> Option<f64> {
    let (_, time) = timestamp.trim_end_matches('Z').split_once('T')?;
    let mut parts = time.split(':').map(|part| part.parse::<f64>().ok());
    Some(parts.next()?? * 3600.0 + parts.next()?? * 60.0 + parts.next()??)
}

fn child(parent: u32, name: &str) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let named = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.starts_with(name));
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(named)
}

fn launcher_of(monitor: u32) -> u32 {
    child(monitor, "virt-launcher").unwrap()
}

fn rollup(pid: u32, field: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}

fn switches(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?.trim().parse::<u64>().ok()
    };
    tasks.filter_map(Result::ok).filter_map(of).sum()
}
