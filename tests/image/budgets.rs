//! What the launcher and its monitor may weigh. None of these numbers depends on how fast the machine is.

use std::time::{Duration, Instant};

use tonic::transport::Channel;
use virt_launcher::cmd::client;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;
use virt_launcher::proto::cmd_v1::{EmptyRequest, Vmi, VmiRequest};

use super::support::pod::{Setup, image};
use super::support::weight::{rollup, wake_ups};
use super::support::{expect, wait_for};
use super::{boot, json, owner, vmi, with};

const MIB: u64 = 1024 * 1024;
/// The released binary.
const BINARY: u64 = 16 * MIB;
/// Resident memory of the monitor and of the launcher with a running VM, in KiB.
const MONITOR: u64 = 2560;
const LAUNCHER: u64 = 14 * 1024;
/// How much more memory of its own the launcher may have after all the calls below, in KiB; pages of the program that it
/// has come to use are the kernel's to take back.
const GROWTH: u64 = 1024;
/// Calls of each kind that reads, and how many are under way at a time.
const CALLS: usize = 10_000;
const CALLERS: usize = 4;
/// Notifications, caused by pauses and their ends.
const NOTIFICATIONS: usize = 300;
/// Wake-ups of the launcher in a minute without clients.
const WAKE_UPS: u64 = 30;
const MINUTE: Duration = Duration::from_secs(60);
/// For each of the calls, and for what happens by itself, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn the_released_binary_is_small() {
    // Set by `make test`, which builds it.
    let Ok(binary) = std::env::var("VIRT_LAUNCHER_STATIC") else { return };
    let size = std::fs::metadata(&binary).unwrap().len();
    assert!(size <= BINARY, "{binary} has {size} bytes, {} too many", size - BINARY);
}

async fn read(mut client: CmdClient<Channel>) {
    for _ in 0..CALLS / CALLERS {
        client.get_domain(EmptyRequest {}).await.unwrap();
        client.get_domain_stats(EmptyRequest {}).await.unwrap();
    }
}

/// Until virt-handler was told often enough: two changes that come close together are told as one.
async fn pause_and_resume(mut client: CmdClient<Channel>, vmi: &str, told: impl Fn() -> usize) {
    let vmi_json = json(vmi);
    let request = || VmiRequest { vmi: Some(Vmi { vmi_json: vmi_json.clone() }), options: None };
    while told() < NOTIFICATIONS {
        let paused = client.pause_virtual_machine(request()).await.unwrap().into_inner();
        let resumed = client.unpause_virtual_machine(request()).await.unwrap().into_inner();
        assert!(paused.success && resumed.success, "{paused:?} {resumed:?}");
    }
}

#[test]
fn a_running_vm_costs_little_memory_and_no_attention() {
    let Some(image) = image() else { return };
    // libvirt writes the domain's state at every change of it, and waits for the disk that holds it.
    let pod = Setup::new(&image, "demo").small("libvirt-runtime", 8192).start();
    let vmi = with(&vmi("demo"), " heartbeat", "");
    boot(&pod, &vmi);
    // A guest agent is asked as often as the flags say, which is a budget of its own.
    pod.console().run("kill $(cat /run/qemu-ga.pid)");
    wait_for("the agent's end", PATIENCE, || {
        let channels = pod.virsh(&["dumpxml", "default_demo"]);
        expect(channels.contains("org.qemu.guest_agent.0' state='disconnected'"), "connected")
    });
    let (monitor, launcher) = (pod.pid_1(), owner(&pod));

    let (of_monitor, of_launcher) = std::thread::scope(|scope| {
        let of_monitor = scope.spawn(move || wake_ups(monitor, MINUTE));
        let of_launcher = wake_ups(launcher, MINUTE);
        (of_monitor.join().unwrap(), of_launcher)
    });
    println!("wake-ups in a minute: monitor {of_monitor:?}, launcher {of_launcher:?}");
    let rss = |pid| rollup(pid, "Rss:").unwrap();
    let own = || rollup(launcher, "Anonymous:").unwrap();
    let (monitors, before, own_before) = (rss(monitor), rss(launcher), own());

    let virt_handler = pod.virt_handler(&vmi);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (begun, told_before) = (Instant::now(), virt_handler.pipe.received().len());
    let reading = runtime.block_on(async {
        let client = client::connect(&pod.socket(), PATIENCE).await.unwrap();
        tokio::join!(read(client.clone()), read(client.clone()), read(client.clone()), read(client.clone()));
        let reading = begun.elapsed();
        pause_and_resume(client, &vmi, || virt_handler.pipe.received().len() - told_before).await;
        reading
    });
    let (after, own_after) = (rss(launcher), own());
    println!("RSS: monitor {monitors} KiB, launcher {before} KiB, {after} KiB after the calls");
    println!("of it the launcher's own: {own_before} KiB, {own_after} KiB after the calls");
    println!("the calls took {reading:?}, the notifications {:?}", begun.elapsed() - reading);

    assert!(of_monitor.is_empty(), "{of_monitor:?}");
    assert!(of_launcher.values().sum::<u64>() <= WAKE_UPS, "{of_launcher:?}");
    assert!(monitors <= MONITOR, "monitor: {monitors} KiB");
    assert!(before <= LAUNCHER && after <= LAUNCHER, "launcher: {before} KiB, {after} KiB after the calls");
    assert!(own_after <= own_before + GROWTH, "the launcher grew from {own_before} to {own_after} KiB of its own");
}
