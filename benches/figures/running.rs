//! One VM that stays: memory, wake-ups, calls, notifications. A part that fails costs its own figures only.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use virt_launcher::cmd::client;
use virt_launcher::proto::cmd_v1::EmptyRequest;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;

use crate::Run;
use crate::launcher::{Plan, Subject};
use crate::support::figures::guard::Guard;
use crate::support::figures::life::{Missed, millis, sync, wait_ready};
use crate::support::pod::{Pod, Setup, demo_vmi, podman};
use crate::support::processes::owner;
use crate::support::virt_handler::VirtHandler;
use crate::support::weight::{cpu_time, rollup, wake_ups};

/// How memory is looked at.
const WITH_A_VM: &str = "smaps_rollup, with a running VM";

/// A VM that runs, with its virt-handler.
struct Running {
    // Before the pod, which would else end under it.
    virt_handler: VirtHandler,
    pod: Pod,
    vmi: Value,
    monitor: u32,
    launcher: u32,
}

impl Running {
    fn start(guard: &Guard, image: &str, bound: Duration) -> Result<Self, Missed> {
        let text = demo_vmi();
        let vmi: Value = serde_norway::from_str(&text).map_err(Missed::because)?;
        let pod = guard.start(|| Setup::new(image, "demo").start());
        wait_ready(&pod, bound)?;
        let virt_handler = pod.virt_handler(&text);
        pod.provide_disks();
        sync(&pod.socket(), &vmi, bound)?;
        pod.wait_console("guest: ready");
        let (monitor, launcher) = (pod.pid_1(), owner(&pod));
        Ok(Running { virt_handler, pod, vmi, monitor, launcher })
    }

    fn processes(&self) -> [(&'static str, u32); 2] {
        [("monitor", self.monitor), ("launcher", self.launcher)]
    }
}

pub fn figures(run: &Run, subject: &Subject, plan: &Plan) {
    let part = |name: &str, take: &mut dyn FnMut() -> Result<(), Missed>| {
        run.part(&format!("{}{name}", subject.prefix), || take().map_err(|missed| missed.to_string()));
    };
    let mut running = None;
    part("a running VM", &mut || {
        running = Some(Running::start(&run.guard, &subject.image, plan.bound)?);
        Ok(())
    });
    let Some(running) = running else { return };
    part("size", &mut || {
        size(run, subject, &running);
        Ok(())
    });
    for role in running.processes() {
        memory(run, subject, role, "idle", WITH_A_VM);
    }
    part("wake-ups", &mut || {
        idle(run, subject, &running, plan);
        Ok(())
    });
    let mut made = 0;
    for rpc in ["Ping", "GetDomain", "GetDomainStats"] {
        part(rpc, &mut || calls(run, subject, &running, rpc, plan).map(|count| made += count));
    }
    let launcher = ("launcher", running.launcher);
    let how = format!("{WITH_A_VM}; {} calls were made", thousands(made));
    memory(run, subject, launcher, &format!("after {} calls", thousands(3 * plan.calls)), &how);
    let received = || running.virt_handler.pipe.watch().borrow().len();
    let before = received();
    part("notifications", &mut || {
        let vmi = running.vmi.to_string();
        running.virt_handler.hear_of_pauses(&running.pod.socket(), vmi.as_bytes(), plan.events);
        Ok(())
    });
    let how = format!("{WITH_A_VM}; {} notifications came", thousands(received() - before));
    memory(run, subject, launcher, &format!("after {} notifications more", thousands(plan.events)), &how);
    let complaints = running.virt_handler.take_complaints();
    let how = if complaints.is_empty() { "none".to_owned() } else { complaints.join("; ") };
    run.add(subject.figure("virt-handler's complaints", Some(complaints.len() as f64), "", how));
}

fn size(run: &Run, subject: &Subject, running: &Running) {
    for (role, pid) in running.processes() {
        let program = fs::metadata(format!("/proc/{pid}/exe")).ok().map(|program| mib(program.len()));
        run.add(subject.figure(&format!("{role}: binary"), program, "MiB", "the program that it runs"));
    }
    let image = image_size(&subject.image).map(mib);
    run.add(subject.figure("image", image, "MiB", "podman image inspect, all layers"));
}

fn memory(run: &Run, subject: &Subject, (role, pid): (&str, u32), when: &str, how: &str) {
    for (what, field) in [("RSS", "Rss:"), ("PSS", "Pss:"), ("anonymous", "Anonymous:")] {
        let value = rollup(pid, field).map(|kib| kib as f64 / 1024.0);
        run.add(subject.figure(&format!("{role}: {what}, {when}"), value, "MiB", how));
    }
}

/// What is done while nobody asks for anything.
fn idle(run: &Run, subject: &Subject, running: &Running, plan: &Plan) {
    std::thread::sleep(plan.settled);
    let per_minute = 60.0 / plan.idle.as_secs_f64();
    let observe = |pid| {
        let ran = cpu_time(pid);
        let woken: u64 = wake_ups(pid, plan.idle).values().sum();
        (woken, millis(cpu_time(pid).saturating_sub(ran)))
    };
    // Both in the same time.
    let observed = std::thread::scope(|scope| {
        let threads = running.processes().map(|(role, pid)| (role, scope.spawn(move || observe(pid))));
        threads.map(|(role, thread)| (role, thread.join().unwrap()))
    });
    for (role, (woken, ran)) in observed {
        let how = "voluntary context switches of all threads, no calls; the guest's agent is there";
        run.add(subject.figure(&format!("{role}: wake-ups"), Some(woken as f64 * per_minute), "1/min", how));
        let how = "schedstat of all threads, the same time";
        run.add(subject.figure(&format!("{role}: idle CPU"), Some(ran * per_minute), "ms/min", how));
    }
}

/// Takes the figures of so many calls and returns how many were made in time.
fn calls(run: &Run, subject: &Subject, running: &Running, rpc: &str, plan: &Plan) -> Result<usize, Missed> {
    let runtime = Runtime::new().map_err(Missed::because)?;
    let mut client = runtime.block_on(client::connect(&running.pod.socket(), plan.bound)).map_err(Missed::because)?;
    let mut times: Vec<Duration> = Vec::with_capacity(plan.calls);
    let begun = Instant::now();
    while times.len() < plan.calls && begun.elapsed() < plan.bound {
        let asked = Instant::now();
        let answered = runtime.block_on(async { tokio::time::timeout(plan.bound, call(&mut client, rpc)).await });
        answered.map_err(|_| Missed::not_within("an answer", plan.bound))?.map_err(Missed::because)?;
        times.push(asked.elapsed());
    }
    let spent = begun.elapsed();
    let how = format!("one connection, {} calls one at a time", thousands(times.len()));
    times.sort();
    let percentile = |percent: usize| times.get(times.len() * percent / 100).copied().map(millis);
    run.add(subject.figure(&format!("{rpc}: p50"), percentile(50), "ms", how));
    run.add(subject.figure(&format!("{rpc}: p99"), percentile(99), "ms", "the same calls"));
    let rate = times.len() as f64 / spent.as_secs_f64();
    run.add(subject.figure(&format!("{rpc}: rate"), Some(rate), "1/s", "the same calls"));
    Ok(times.len())
}

async fn call(client: &mut CmdClient<Channel>, rpc: &str) -> Result<(), tonic::Status> {
    let request = EmptyRequest {};
    match rpc {
        "Ping" => client.ping(request).await.map(drop),
        "GetDomain" => client.get_domain(request).await.map(drop),
        _ => client.get_domain_stats(request).await.map(drop),
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

fn image_size(image: &str) -> Option<u64> {
    let output = podman().args(["image", "inspect", "--format", "{{.Size}}", image]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// `30,000`.
fn thousands(count: usize) -> String {
    match count {
        0..1_000 => count.to_string(),
        _ => format!("{},{:03}", thousands(count / 1_000), count % 1_000),
    }
}
