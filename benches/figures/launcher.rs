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
use crate::support::pod::{Pod, Setup, TIMED, demo_vmi, podman};
use crate::support::processes::{children, owner, send};
use crate::support::virt_handler::{Received, is_deleted};
use crate::support::weight::{cpu_time, rollup, wake_ups};
use crate::support::{expect, wait_for};

/// Adds a figure: what, value, unit, how it was taken.
type Add<'a> = dyn FnMut(&str, Option<f64>, &'static str, &str) + 'a;

/// Nothing here takes longer on a machine that works.
const PATIENCE: Duration = Duration::from_secs(120);
/// As long as a cluster takes to hear that a pod is there: its launcher has the time to warm libvirt's knowledge of QEMU.
const BEFORE_SYNC: Duration = Duration::from_secs(2);
/// How many VMs are started and ended.
const LIVES: usize = 5;
/// Calls of one kind; so many are also what memory is looked at after.
const CALLS: usize = 10_000;
/// An hour's worth, one every 3.6 s.
const EVENTS: usize = 1_000;
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

/// One VM from the start of its launcher to the end, in milliseconds.
struct Life {
    to_socket: f64,
    /// Of it, where the log tells.
    of_daemon: Option<f64>,
    to_running: f64,
    /// The first sync as the log tells it: all of it, and the parts of libvirt and of QEMU's and other tools.
    sync: Option<f64>,
    of_libvirt: Option<f64>,
    of_tools: Option<f64>,
    to_told: f64,
    to_end: f64,
}

impl Life {
    /// Starts a VM, kills its QEMU and waits for the end.
    fn live(image: &str, vmi: &str) -> Self {
        let started = tempfile::tempdir().unwrap();
        let pod = Setup::new(image, "demo").timed(started.path()).start();
        pod.wait_ready();
        let ready = fs::metadata(pod.socket()).unwrap();
        let ready = ready.ctime() as f64 * 1000.0 + ready.ctime_nsec() as f64 / 1e6;
        pod.provide_disks();
        std::thread::sleep(BEFORE_SYNC);
        let begun = Instant::now();
        assert!(pod.sync(vmi).status.success(), "{}", pod.log());
        pod.wait_status("Running");
        let to_running = millis(begun.elapsed());
        let virt_handler = pod.virt_handler(vmi);
        wait_for("the first event", PATIENCE, || expect(!virt_handler.pipe.received().is_empty(), "none"));
        let monitor = pod.pid_1();
        let (hypervisor, _) = children(monitor).into_iter().find(|(_, comm)| comm.starts_with("qemu-system")).unwrap();
        let said = |what: fn(&serde_json::Value) -> bool| {
            virt_handler.pipe.received().iter().any(|event| match event {
                Received::Domain { domain, .. } => what(domain),
                Received::K8s(_) => false,
            })
        };
        let down = |domain: &serde_json::Value| {
            let status = domain.pointer("/Status/Status").and_then(serde_json::Value::as_str);
            matches!(status, Some("Shutoff" | "Crashed"))
        };
        let killed = Instant::now();
        send(hypervisor, Signal::SIGKILL);
        wait_for("the end", PATIENCE, || expect(said(down), "not told"));
        let to_told = millis(killed.elapsed());
        wait_for("the deletion", PATIENCE, || expect(said(is_deleted), "not told"));
        let last = Instant::now();
        wait_for("the end of PID 1", PATIENCE, || expect(!Path::new(&format!("/proc/{monitor}")).exists(), "it lives"));
        let to_end = millis(last.elapsed());
        Life {
            to_socket: ready - exec_time(started.path()),
            of_daemon: logged(&pod, &["virtqemud with pid", "libvirtd with pid"], "after "),
            to_running,
            sync: logged(&pod, &["started the VM in"], "in "),
            of_libvirt: logged(&pod, &["started the VM in"], "ms: "),
            of_tools: logged(&pod, &["started the VM in"], "libvirt, "),
            to_told,
            to_end,
        }
    }
}

/// Time: how long a VM takes to begin and to end.
fn lives(image: &str, vmi: &str, add: &mut Add<'_>) {
    let lives: Vec<Life> = (0..LIVES).map(|_| Life::live(image, vmi)).collect();
    let mut median = |name: &str, of: fn(&Life) -> Option<f64>, how: &str| {
        let mut values: Vec<f64> = lives.iter().filter_map(of).collect();
        values.sort_by(f64::total_cmp);
        add(name, values.get(values.len() / 2).copied(), "ms", &format!("{how}; median of {LIVES} VMs"));
    };
    median(
        "exec to socket",
        |life| Some(life.to_socket),
        "from the exec of the container's program to the socket's name",
    );
    median("exec to socket: libvirt daemon", |life| life.of_daemon, "of it, as the launcher logs it: start to socket");
    median("exec to socket: own share", |life| Some(life.to_socket - life.of_daemon?), "the rest");
    median(
        "first sync to Running",
        |life| Some(life.to_running),
        "SyncVirtualMachine to GetDomain's Running, with a client's start",
    );
    median("first sync: libvirt and QEMU", |life| life.of_libvirt, "calls of libvirt, as the launcher logs it");
    median("first sync: tools", |life| life.of_tools, "qemu-img, likewise");
    median(
        "first sync: own share",
        |life| Some(life.sync? - life.of_libvirt? - life.of_tools?),
        "the rest of the call",
    );
    median(
        "QEMU killed to virt-handler told",
        |life| Some(life.to_told),
        "SIGKILL to the event at virt-handler's stand-in",
    );
    median("last acknowledgement to the end of PID 1", |life| Some(life.to_end), "the stand-in answers at once");
}

fn of_image(prefix: &str, image: &str, figures: &mut Vec<Figure>) {
    let mut add = |name: &str, value: Option<f64>, unit: &'static str, how: &str| {
        figures.push(Figure { name: format!("{prefix}{name}"), value, unit, how: how.to_owned() });
    };
    let vmi = demo_vmi();
    lives(image, &vmi, &mut add);
    let pod = Setup::new(image, "demo").start();
    pod.wait_ready();
    pod.provide_disks();
    assert!(pod.sync(&vmi).status.success(), "{}", pod.log());
    pod.wait_status("Running");
    pod.wait_console("guest: ready");

    let monitor = pod.pid_1();
    let launcher = owner(&pod);
    let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let binary = |pid: u32| fs::metadata(format!("/proc/{pid}/exe")).ok().map(|program| mib(program.len()));
    add("monitor: binary", binary(monitor), "MiB", "the program that it runs");
    add("launcher: binary", binary(launcher), "MiB", "likewise");
    add("image", image_size(image).map(mib), "MiB", "podman image inspect, all layers");
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
        let (ran, per_minute) = (cpu_time(pid), 60.0 / IDLE.as_secs_f64());
        let woken: u64 = wake_ups(pid, IDLE).values().sum();
        let ran = millis(cpu_time(pid).saturating_sub(ran));
        add(
            &format!("{role}: wake-ups"),
            Some(woken as f64 * per_minute),
            "1/min",
            "voluntary context switches of all threads, no client; the guest's agent is there",
        );
        add(&format!("{role}: idle CPU"), Some(ran * per_minute), "ms/min", "schedstat of all threads, the same time");
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
    let vmi_json: serde_json::Value = serde_norway::from_str(&vmi).unwrap();
    virt_handler.hear_of_pauses(&pod.socket(), vmi_json.to_string().as_bytes(), EVENTS);
    memory("launcher", launcher, "after 1,000 notifications more", &mut add);
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn image_size(image: &str) -> Option<u64> {
    let output = podman().args(["image", "inspect", "--format", "{{.Size}}", image]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
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
