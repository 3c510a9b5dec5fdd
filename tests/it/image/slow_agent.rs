//! An agent on a slow node: it comes late, and answers later still. virt-handler judges an agent at the document that shows
//! it, by what it has told of itself until then.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::adoption::the_daemon;
use super::{owner, send, vmi, with};
use crate::support::console::Console;
use crate::support::pod::{Pod, image, text};
use crate::support::virt_handler::{NotifyPipe, Received};
use crate::support::{expect, wait_for};

/// For what a guest does in emulation, on a busy machine.
const GUEST: Duration = Duration::from_secs(180);
/// How long an agent that is connected and says nothing is not shown (`publisher::introduction`).
const SILENT: Duration = Duration::from_secs(5);

/// An archive with one program, which the kernel unpacks over what the initramfs before it holds.
fn archive(name: &str, program: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut add = |name: &str, mode: u32, content: &[u8]| {
        let fields = [0, mode, 1, 0, 0, 0, content.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        archive.extend_from_slice(b"070701");
        for field in fields {
            archive.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        for part in [&[name.as_bytes(), b"\0"].concat(), content] {
            archive.extend_from_slice(part);
            archive.resize(archive.len().next_multiple_of(4), 0);
        }
    };
    add(name, 0o100_755, program.as_bytes());
    add("TRAILER!!!", 0, b"");
    archive
}

/// A guest whose agent is not started, and its shell.
fn boot_without_agent(pod: &Pod) -> Console {
    pod.wait_ready();
    pod.provide_disks();
    let initrd = pod.volume("container-disks").join("kernel-boot/initrd");
    let mut initrd = OpenOptions::new().append(true).open(initrd).unwrap();
    let length = usize::try_from(initrd.metadata().unwrap().len()).unwrap();
    initrd.write_all(&vec![0; length.next_multiple_of(4) - length]).unwrap();
    // The first of its name in the guest's PATH.
    initrd.write_all(&archive("bin/qemu-ga", "#!/bin/sh\nexit 0\n")).unwrap();
    let synced = pod.sync(&with(&vmi("demo"), " heartbeat", ""));
    assert!(synced.status.success(), "{}\n{}", text(&synced), pod.log());
    pod.console()
}

/// Whether libvirt has the agent's channel connected.
fn is_connected(pod: &Pod) -> bool {
    pod.virsh(&["dumpxml", "default_demo"]).contains("name='org.qemu.guest_agent.0' state='connected'")
}

/// Whether a document shows the agent.
fn shows_agent(domain: &Value) -> bool {
    let channels = domain.pointer("/Spec/Devices/Channels").and_then(Value::as_array).cloned().unwrap_or_default();
    channels.iter().any(|channel| {
        channel["Target"]["Name"] == "org.qemu.guest_agent.0" && channel["Target"]["State"] == "connected"
    })
}

/// Starts an agent that opens its port and stands still before it is asked anything: libvirt, which would ask, is stopped
/// meanwhile. When libvirt went on.
fn start_silent_agent(pod: &Pod, guest: &mut Console) -> Instant {
    let port = guest.run("grep -l org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name");
    let port = port.split('/').nth(4).unwrap();
    let daemon = the_daemon(owner(pod)).unwrap();
    send(daemon, Signal::SIGSTOP);
    guest.run(&format!(
        "/usr/sbin/qemu-ga -m virtio-serial -p /dev/{port} -t /run -f /run/qemu-ga.pid -l /run/qemu-ga.log -d; \
         until [ -s /run/qemu-ga.pid ] && ls -l /proc/$(cat /run/qemu-ga.pid)/fd | grep -q {port}; do :; done; \
         kill -STOP $(cat /run/qemu-ga.pid)"
    ));
    send(daemon, Signal::SIGCONT);
    Instant::now()
}

fn go_on(guest: &mut Console) {
    guest.run("kill -CONT $(cat /run/qemu-ga.pid)");
}

/// What the agent has told of itself.
fn info(pod: &Pod) -> Value {
    serde_json::from_slice(&pod.ctl(&["-o", "json", "guest-info"]).stdout).unwrap_or_default()
}

fn is_introduced(info: &Value) -> bool {
    info["supportedCommands"].is_array() && info["guestAgentVersion"].is_string()
}

/// The documents that virt-handler was told since.
fn told(pipe: &NotifyPipe, since: usize) -> Vec<Value> {
    let domains = pipe.received().into_iter().skip(since).filter_map(|event| match event {
        Received::Domain { domain, .. } => Some(domain),
        Received::K8s(_) => None,
    });
    domains.collect()
}

/// One that needs a while: it is shown when it can be used, and no sooner.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn agent_that_is_slow_is_shown_when_it_has_told_of_itself() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    let mut guest = boot_without_agent(&pod);
    let pipe = NotifyPipe::present(&pod.volume("public"));
    assert!(!shows_agent(&pod.domain()));
    let connected = start_silent_agent(&pod, &mut guest);
    wait_for("a silent agent", GUEST, || expect(is_connected(&pod), pod.log()));
    let shown = shows_agent(&pod.domain()) || told(&pipe, 0).iter().any(shows_agent);
    // A machine that took so long to get here shows one that hangs.
    let in_time = connected.elapsed() < SILENT;
    assert!(!shown || !in_time, "it has not said a word");
    go_on(&mut guest);
    wait_for("a document that shows it", GUEST, || expect(told(&pipe, 0).iter().any(shows_agent), info(&pod)));
    let info = info(&pod);
    assert!(is_introduced(&info) || connected.elapsed() >= SILENT, "{info}");
    eprintln!("shown within {:?}, while it was silent: {shown}", connected.elapsed());
    wait_for("the agent", GUEST, || {
        let ping = pod.ctl(&["guest-ping"]);
        expect(ping.status.success() && shows_agent(&pod.domain()), text(&ping))
    });
}

/// One that needs longer than it is waited for: virt-handler is told that it is there, and told once more when it has spoken.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn agent_that_hangs_is_shown_and_told_of_once_more_when_it_speaks() {
    let image = image();
    let pod = Pod::start(&image, "demo", &[]);
    let mut guest = boot_without_agent(&pod);
    let pipe = NotifyPipe::present(&pod.volume("public"));
    let connected = start_silent_agent(&pod, &mut guest);
    wait_for("a document that shows it", GUEST, || expect(told(&pipe, 0).iter().any(shows_agent), pod.log()));
    eprintln!("a silent agent was shown {:?} after libvirt saw it", connected.elapsed());
    assert!(!is_introduced(&info(&pod)), "{}", info(&pod));
    let before = pipe.received().len();
    go_on(&mut guest);
    wait_for("what it can do", GUEST, || expect(is_introduced(&info(&pod)), info(&pod)));
    wait_for("another document", GUEST, || {
        let told = told(&pipe, before);
        expect(told.last().is_some_and(shows_agent), told.len())
    });
}
