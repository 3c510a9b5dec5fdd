//! What the launcher and its monitor may weigh. None of these numbers depends on how fast the machine is.

use std::time::{Duration, Instant};

use tonic::transport::Channel;
use virt_launcher::cmd::client;
use virt_launcher::proto::cmd_v1::EmptyRequest;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;

use super::{boot, json, owner, vmi, with};
use crate::support::pod::{Setup, image};
use crate::support::weight::{rollup, wake_ups};
use crate::support::{expect, needed, wait_for};

const MIB: u64 = 1024 * 1024;
/// The released binary.
const BINARY: u64 = 16 * MIB;
/// Resident memory of the monitor and of the launcher with a running VM, in KiB.
const MONITOR: u64 = 2560;
const LAUNCHER: u64 = 12 * 1024;
/// How much more the launcher may have after all the calls below, in KiB.
const GROWTH: u64 = 1024;
/// Calls of each kind that reads, and how many are under way at a time.
const CALLS: usize = 10_000;
const CALLERS: usize = 4;
/// Notifications, caused by pauses and their ends.
const NOTIFICATIONS: usize = 1_000;
/// Wake-ups of the launcher in a minute without orders.
const WAKE_UPS: u64 = 30;
/// For so long they are counted: until the guest's agent was asked everything once more.
const MINUTES: u64 = 3;
/// A new agent is asked 10, 30, 70 and 150 s after it was asked first, and then every two to five minutes.
const NEW_AGENT: Duration = Duration::from_secs(160);
/// For each of the calls, and for what happens by itself, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
#[ignore = "needs VIRT_LAUNCHER_STATIC; make test"]
fn released_binary_is_small() {
    let binary = needed("VIRT_LAUNCHER_STATIC", "make test builds it and sets this");
    let size = std::fs::metadata(&binary).unwrap().len();
    assert!(size <= BINARY, "{binary} has {size} bytes, {} too many", size - BINARY);
}

async fn read(mut client: CmdClient<Channel>) {
    for _ in 0..CALLS / CALLERS {
        client.get_domain(EmptyRequest {}).await.unwrap();
        client.get_domain_stats(EmptyRequest {}).await.unwrap();
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn running_vm_costs_little_memory_and_no_attention() {
    let image = image();
    // libvirt writes the domain's state at every change of it, and waits for the disk that holds it.
    let pod = Setup::new(&image, "demo").small("libvirt-runtime", 8192).start();
    let vmi = with(&vmi("demo"), " heartbeat", "");
    boot(&pod, &vmi);
    wait_for("the guest's agent", PATIENCE, || {
        let domain = pod.domain();
        expect(!domain["Status"]["OSInfo"]["KernelRelease"].as_str().unwrap_or_default().is_empty(), &domain["Status"])
    });
    let asked = Instant::now();
    let virt_handler = pod.virt_handler(&vmi);
    wait_for("the first event", PATIENCE, || expect(!virt_handler.pipe.received().is_empty(), "none"));
    let (monitor, launcher) = (pod.pid_1(), owner(&pod));

    let rss = |pid| rollup(pid, "Rss:").unwrap();
    let own = || rollup(launcher, "Anonymous:").unwrap();
    let (monitors, before, own_before) = (rss(monitor), rss(launcher), own());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begun = Instant::now();
    runtime.block_on(async {
        let client = client::connect(&pod.socket(), PATIENCE).await.unwrap();
        tokio::join!(read(client.clone()), read(client.clone()), read(client.clone()), read(client));
    });
    let reading = begun.elapsed();
    wait_for("an agent that is not new", PATIENCE, || expect(asked.elapsed() > NEW_AGENT, asked.elapsed()));
    let (of_monitor, of_launcher) = std::thread::scope(|scope| {
        let time = Duration::from_secs(60 * MINUTES);
        let of_monitor = scope.spawn(move || wake_ups(monitor, time));
        let of_launcher = wake_ups(launcher, time);
        (of_monitor.join().unwrap(), of_launcher)
    });
    println!("wake-ups in {MINUTES} minutes: monitor {of_monitor:?}, launcher {of_launcher:?}");
    let begun = Instant::now();
    virt_handler.hear_of_pauses(&pod.socket(), &json(&vmi), NOTIFICATIONS);
    let notifying = begun.elapsed();
    let (after, own_after) = (rss(launcher), own());
    println!("RSS: monitor {monitors} KiB, launcher {before} KiB, {after} KiB after the calls");
    println!("of it the launcher's own: {own_before} KiB, {own_after} KiB after the calls");
    println!("the calls took {reading:?}, the notifications {notifying:?}");

    assert!(of_monitor.is_empty(), "{of_monitor:?}");
    assert!(of_launcher.values().sum::<u64>() <= WAKE_UPS * MINUTES, "{of_launcher:?}");
    assert!(monitors <= MONITOR, "monitor: {monitors} KiB");
    assert!(before <= LAUNCHER && after <= LAUNCHER, "launcher: {before} KiB, {after} KiB after the calls");
    assert!(after <= before + GROWTH, "the launcher grew from {before} to {after} KiB");
}
