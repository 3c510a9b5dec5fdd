//! How the guest hears that it is to power off or to reboot: by its agent, and by the power button where the agent hangs, is
//! gone, or is not obeyed.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use virt_launcher::domain::Time;

use super::{boot, send, vmi, with};
use crate::support::pod::{Pod, image, text};
use crate::support::{expect, wait_for};

/// For what a guest in emulation does on a busy machine, such as to say that its button was pressed.
const GUEST: Duration = Duration::from_secs(180);
/// In which the launcher has to have asked the guest, one way or the other: an order is answered when it has.
const SECONDS: Duration = Duration::from_secs(5);
const BUTTON: &str = "guest: power button";
/// The launcher's word of it, where the agent was asked first.
const PRESSES: &str = "pressing the power button: ";

/// A pod whose guest is up, with its agent.
fn with_agent(image: &str, flags: &[&str]) -> Pod {
    let pod = Pod::start(image, "demo", flags);
    boot(&pod, &vmi("demo"));
    pod.wait_console("guest: ready");
    wait_for("the agent", GUEST, || {
        let ping = pod.ctl(&["guest-ping"]);
        expect(ping.status.success(), text(&ping))
    });
    pod
}

fn in_guest(pod: &Pod, script: &str) {
    let done = pod.ctl(&["exec", "--limit", "30", "/bin/sh", "-c", script]);
    assert!(done.status.success(), "{script}: {}", text(&done));
}

/// Sends a signal to the agent, a moment later so that it can still answer, and waits until the agent has it.
fn signal_agent(pod: &Pod, signal: &str) {
    in_guest(
        pod,
        &format!("(sleep 1; kill -{signal} $(pidof qemu-ga) && echo agent {signal} >/dev/ttyS0) >/dev/null 2>&1 &"),
    );
    pod.wait_console(&format!("agent {signal}"));
}

fn console(pod: &Pod) -> String {
    pod.wait_console("")
}

/// Orders a shutdown, which has to be answered within seconds; what it took.
fn shutdown(pod: &Pod) -> Duration {
    let begun = Instant::now();
    let asked = pod.ctl(&["shutdown"]);
    let took = begun.elapsed();
    assert!(asked.status.success(), "{}\n{}", text(&asked), text(&pod.output()));
    assert!(took < SECONDS, "the order took {took:?}: {}", pod.log());
    took
}

/// The guest is down, and virt-handler hears of it.
fn assert_ends(pod: &Pod) {
    let _virt_handler = pod.virt_handler(&vmi("demo"));
    assert_eq!(pod.wait_exit_within(GUEST), 0, "{}", pod.log());
}

/// The guest's own part: it has been asked.
fn wait_button(pod: &Pod) -> Duration {
    let since = Instant::now();
    wait_for(BUTTON, GUEST, || expect(console(pod).contains(BUTTON), pod.log()));
    since.elapsed()
}

/// When the launcher first said so: the time of its record, in whole seconds.
fn said_at(pod: &Pod, words: &str) -> Option<i64> {
    let record = pod.records("info").into_iter().find(|record| record["msg"].as_str().unwrap().starts_with(words))?;
    Some(record["timestamp"].as_str().unwrap().parse::<Time>().unwrap().unix())
}

fn presses(pod: &Pod) -> bool {
    said_at(pod, PRESSES).is_some()
}

/// The field case: an agent that does not run any more but whose channel is open, as in a guest that hangs or swaps. The
/// launcher's own questions hold the agent's turn meanwhile.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn guest_whose_agent_hangs_gets_the_power_button_within_seconds() {
    let image = image();
    // With the second set of flags a question of the launcher is under way nearly always.
    let often = ["--qemu-fsfreeze-status-interval", "1s", "--qemu-agent-user-interval", "1s"];
    for (flags, wait) in [(&[][..], 3), (&often[..], 6)] {
        let pod = with_agent(&image, flags);
        signal_agent(&pod, "STOP");
        std::thread::sleep(Duration::from_secs(wait));
        let order = shutdown(&pod);
        assert!(presses(&pod), "{}", pod.log());
        let said = wait_button(&pod);
        println!("{flags:?}: the order took {order:?}, the guest {said:?}");
        assert_ends(&pod);
    }
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn guest_whose_agent_was_killed_gets_the_power_button() {
    let image = image();
    let pod = with_agent(&image, &[]);
    signal_agent(&pod, "KILL");
    shutdown(&pod);
    wait_button(&pod);
    assert_ends(&pod);
}

/// The agent takes the order and the guest does nothing: virt-handler repeats it, and the button follows. Each order is
/// answered within seconds.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn guest_that_does_not_obey_its_agent_gets_the_power_button_with_a_later_order() {
    let image = image();
    let pod = with_agent(&image, &[]);
    in_guest(&pod, "printf '#!/bin/sh\\nexit 0\\n' >/sbin/shutdown");
    shutdown(&pod);
    shutdown(&pod);
    assert!(!console(&pod).contains(BUTTON), "the agent had taken the order a moment ago");
    let begun = Instant::now();
    wait_for(BUTTON, Duration::from_secs(20), || {
        shutdown(&pod);
        std::thread::sleep(Duration::from_secs(1));
        expect(console(&pod).contains(BUTTON), begun.elapsed())
    });
    assert_ends(&pod);
}

/// The pod is told to stop and there is no virt-handler: the launcher asks the guest itself.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn hung_agent_without_virt_handler_delays_the_shutdown_by_seconds_only() {
    let image = image();
    let pod = with_agent(&image, &[]);
    signal_agent(&pod, "STOP");
    std::thread::sleep(Duration::from_secs(2));
    let told = Time::now().unix();
    send(pod.pid_1(), Signal::SIGTERM);
    wait_button(&pod);
    let asked = said_at(&pod, "asked the guest to shut down").expect("it was asked") - told;
    assert!(presses(&pod) && (0..5).contains(&asked), "{asked} s after the signal: {}", pod.log());
    assert_eq!(pod.wait_exit_within(GUEST), 0, "{}", pod.log());
}

/// A guest whose agent hangs reboots by the power button; frozen file systems are thawed before the guest is asked to power
/// off.
#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn soft_reboot_does_not_depend_on_the_agent_and_a_frozen_guest_powers_off() {
    let image = image();
    let pod = with_agent(&image, &[]);
    signal_agent(&pod, "STOP");
    let connected = with(
        &vmi("demo"),
        "  phase: Scheduled\n",
        "  phase: Scheduled\n  conditions: [{type: AgentConnected, status: \"True\"}]\n",
    );
    let begun = Instant::now();
    let rebooted = pod.ctl_with(&["soft-reboot", "--vmi"], &connected);
    assert!(rebooted.status.success() && begun.elapsed() < SECONDS, "{:?}: {}", begun.elapsed(), text(&rebooted));
    assert!(presses(&pod), "{}", pod.log());
    wait_button(&pod);
    wait_for("another boot", GUEST, || {
        let console = console(&pod);
        expect(console.matches("guest: ready").count() == 2, console.len())
    });
    wait_for("the agent", GUEST, || {
        let ping = pod.ctl(&["guest-ping"]);
        expect(ping.status.success(), text(&ping))
    });

    in_guest(&pod, "mke2fs /dev/vdc >/dev/null && mkdir -p /data && mount -t ext4 /dev/vdc /data && touch /data/file");
    let frozen = pod.ctl(&["freeze", "--unfreeze-after", "0"]);
    assert!(frozen.status.success(), "{}", text(&frozen));
    let thawed = "thawed the guest's file systems: it is to power off";
    wait_for("the frozen state", GUEST, || {
        let info = text(&pod.ctl(&["-o", "json", "guest-info"]));
        expect(info.contains("frozen"), info)
    });
    shutdown(&pod);
    assert_ends(&pod);
    assert!(pod.lines().iter().any(|line| line.contains(thawed)), "{}", pod.log());
}
