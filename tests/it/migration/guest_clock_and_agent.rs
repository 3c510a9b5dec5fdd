//! The guest's clock, and its agent, before and after a move.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Shell;
use super::pair::{Move, SOON, source, target};
use super::side::Side;
use super::vm::Vm;
use crate::support::{expect, wait_for};

/// How far two clocks are apart that show the same time, in seconds: `date` in a guest in emulation takes a part of one.
const SAME: i64 = 2;
/// How wrong the guest's clock is set.
const HOUR: i64 = 3600;

/// Seconds by which the guest's clock is ahead of this machine's.
fn ahead(shell: &mut Shell) -> i64 {
    let guest: i64 = shell.run("date +%s").parse().unwrap();
    let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    guest - here.cast_signed()
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn guest_clock_goes_on_and_is_set_right_when_the_move_is_finalised() {
    let vm = Vm::on_a_shared_disk("clock");
    let source = source(&vm);
    let mut shell = Shell::of(&source);
    let right = ahead(&mut shell);
    assert!(right.abs() <= SAME, "before: {right} s");
    shell.run(&format!("date -s @$(($(date +%s) - {HOUR}))"));
    drop(shell);
    let target = target(&vm);
    let moved = Move::prepare(&vm, &source, &target, "m1");
    moved.start(&json!({}));
    moved.wait_success("PreCopy");
    let mut shell = Shell::of(&target);
    let wrong = ahead(&mut shell);
    assert!((wrong + HOUR).abs() <= 2 * SAME, "after the move: {wrong} s");
    moved.finish();
    let set = wait_for("the guest's clock is right", SOON, || {
        let ahead = ahead(&mut shell);
        if ahead.abs() <= SAME { Ok(ahead) } else { Err(format!("{ahead} s; {}", target.story())) }
    });
    println!("ahead: {right} s before, {wrong} s moved, {set} s set");
}

/// The state of the agent's channel as `GetDomain` shows it.
fn channel(side: &Side) -> String {
    let domain = side.domain().unwrap_or_default();
    let channels = domain.pointer("/Spec/Devices/Channels").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut agents = channels.iter().filter_map(|channel| channel.get("Target"));
    let agent = agents.find(|target| target["Name"] == "org.qemu.guest_agent.0");
    agent.and_then(|target| target["State"].as_str()).unwrap_or_default().to_owned()
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn guest_agent_is_connected_again_after_the_move() {
    let vm = Vm::on_a_shared_disk("agent");
    let source = source(&vm);
    let answers = |side: &Side| {
        wait_for("the agent's channel is connected", SOON, || expect(channel(side) == "connected", side.domain()));
        wait_for("the agent answers a ping", SOON, || side.guest_ping(&vm.domain()));
        wait_for("what the agent tells", SOON, || {
            let info = side.guest_info();
            if info["os"]["id"] == "testguest" { Ok(info["gaVersion"].clone()) } else { Err(info.to_string()) }
        })
    };
    let before = answers(&source);
    let target = target(&vm);
    let moved = Move::prepare(&vm, &source, &target, "m1");
    moved.start(&json!({}));
    moved.wait_success("PreCopy");
    assert_eq!(answers(&target), before);
    moved.finish();
    assert_eq!(answers(&target), before);
}
