//! Who dies in a migration, and when: whoever it is, at most one guest runs at any time, in the end exactly one does unless its
//! hypervisor was killed, and both records tell the truth (contract/migration.md 13). `make faults GROUP=migration` goes through
//! the whole table (`ROUNDS=number`, `SEED=number`); an ordinary test run has one cell for each victim.

use std::fmt::Write;

use nix::sys::signal::Signal;
use serde_json::json;

use super::pair::{MOVED, Move, SOON, source, target};
use super::side::{Seen, Side};
use super::vm::Vm;
use crate::support::chance::Chance;
use crate::support::processes::{children, send, stat, try_owner};
use crate::support::{expect, wait_for};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    SourceLauncher,
    TargetLauncher,
    SourceDaemon,
    TargetDaemon,
    SourceHypervisor,
    TargetHypervisor,
    Bridge,
}

const VICTIMS: [Victim; 7] = [
    Victim::SourceLauncher,
    Victim::TargetLauncher,
    Victim::SourceDaemon,
    Victim::TargetDaemon,
    Victim::SourceHypervisor,
    Victim::TargetHypervisor,
    Victim::Bridge,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The order was taken.
    Preparing,
    /// Memory is on its way.
    Copying,
    /// The guest stands still at the source.
    SwitchingOver,
    /// The guest runs at the target, and the source may not know it yet.
    Finishing,
    /// Both records have their end.
    Done,
}

const PHASES: [Phase; 5] = [Phase::Preparing, Phase::Copying, Phase::SwitchingOver, Phase::Finishing, Phase::Done];

/// What an ordinary test run goes through.
const SHORT: [(Victim, Phase); 7] = [
    (Victim::SourceLauncher, Phase::Finishing),
    (Victim::TargetLauncher, Phase::Copying),
    (Victim::SourceDaemon, Phase::Finishing),
    (Victim::TargetDaemon, Phase::Copying),
    (Victim::SourceHypervisor, Phase::Copying),
    (Victim::TargetHypervisor, Phase::Copying),
    (Victim::Bridge, Phase::Copying),
];

impl Phase {
    /// Starts the migration, and waits until it has come so far.
    fn reach(self, moved: &Move, chance: &mut Chance) {
        // With several connections QEMU itself may end when all break (contract/migration.md 16, M41).
        let bandwidth = if matches!(self, Phase::Preparing | Phase::Copying) { "4194304" } else { "0" };
        moved.start(&json!({ "Bandwidth": bandwidth, "ParallelMigrationThreads": null }));
        match self {
            Phase::Preparing => chance.moment(60),
            Phase::Copying => moved.wait_transfer((1 + chance.below(12)) << 20),
            Phase::SwitchingOver => {
                let stands = |seen: &Seen| seen.is("Paused", "Migration") || seen.has_ended();
                moved.source.wait("the guest stands still", MOVED, stands);
                chance.moment(20);
            }
            Phase::Finishing => {
                moved.target.wait("the guest runs at the target", MOVED, |seen| seen.status == "Running");
                chance.moment(20);
            }
            Phase::Done => drop(moved.wait_success("PreCopy")),
        }
    }
}

impl Victim {
    fn kill(self, moved: &Move) {
        let (source, target) = (moved.source, moved.target);
        match self {
            Victim::SourceLauncher => send(launcher(source), Signal::SIGKILL),
            Victim::TargetLauncher => send(launcher(target), Signal::SIGKILL),
            Victim::SourceDaemon => send(daemon(source), Signal::SIGKILL),
            Victim::TargetDaemon => send(daemon(target), Signal::SIGKILL),
            // Once it has moved, there is none.
            Victim::SourceHypervisor => hypervisor(source).into_iter().for_each(|pid| send(pid, Signal::SIGKILL)),
            Victim::TargetHypervisor => {
                let pid =
                    wait_for("a hypervisor at the target", MOVED, || hypervisor(target).ok_or_else(|| moved.story()));
                send(pid, Signal::SIGKILL);
            }
            Victim::Bridge => moved.bridge.cut(),
        }
    }

    /// Whether it may end the guest too.
    fn may_leave(self, fate: Fate) -> bool {
        match fate {
            Fate::AtSource | Fate::AtTarget => true,
            Fate::DeadAtSource => self == Victim::SourceHypervisor,
            Fate::DeadAtTarget => self == Victim::TargetHypervisor,
        }
    }
}

fn launcher(side: &Side) -> u32 {
    wait_for("a launcher", SOON, || try_owner(&side.pod).ok_or_else(|| side.story()))
}

fn daemon(side: &Side) -> u32 {
    let is_daemon = |comm: &str| ["libvirtd", "virtqemud"].contains(&comm);
    wait_for("a libvirt daemon", SOON, || {
        let found = children(launcher(side)).into_iter().find(|(_, comm)| is_daemon(comm));
        found.map(|(pid, _)| pid).ok_or_else(|| side.story())
    })
}

fn hypervisor(side: &Side) -> Option<u32> {
    // libvirt starts others to find out what they can do.
    let has_guest =
        |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| contains(&words, b"guest="));
    let lives = |pid: u32| stat(pid).is_some_and(|(state, _)| state != 'Z');
    let found = children(side.pod.pid_1())
        .into_iter()
        .find(|(pid, comm)| comm.starts_with("qemu-system") && lives(*pid) && has_guest(*pid));
    found.map(|(pid, _)| pid)
}

fn contains(words: &[u8], part: &[u8]) -> bool {
    words.windows(part.len()).any(|at| at == part)
}

/// What became of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    AtSource,
    AtTarget,
    DeadAtSource,
    DeadAtTarget,
}

/// What both sides show, if it can stay so.
fn fate(moved: &Move) -> Result<Fate, String> {
    let (at_source, at_target) = (moved.source.seen(), moved.target.seen());
    let ended = |seen: &Seen| ["Shutoff", "Crashed"].contains(&seen.status.as_str());
    let seen = format!("source: {at_source:?}\ntarget: {at_target:?}");
    let Some(record) = at_source.record.as_ref().filter(|record| record.end.is_some()) else {
        return Err(format!("no end in the record of the source\n{seen}"));
    };
    // What is told of a hypervisor that was killed a moment ago is about to change.
    for (side, shown) in [(moved.source, &at_source), (moved.target, &at_target)] {
        if shown.status == "Running" && hypervisor(side).is_none() {
            return Err(seen);
        }
    }
    match (at_source.status.as_str(), at_target.status.as_str()) {
        ("Running", other) if other != "Running" && record.failed => Ok(Fate::AtSource),
        (_, "Running") if ended(&at_source) && !record.failed && at_target.has_ended() => Ok(Fate::AtTarget),
        (_, other) if ended(&at_source) && other != "Running" => {
            let (fate, crashed) =
                if record.failed { (Fate::DeadAtSource, &at_source) } else { (Fate::DeadAtTarget, &at_target) };
            if crashed.is("Shutoff", "Crashed") { Ok(fate) } else { Err(seen) }
        }
        _ => Err(seen),
    }
}

/// The values of the heartbeat say that no second was lived at both sides.
fn check_one_ran(moved: &Move) {
    let (left, arrived) = (moved.source.beats(), moved.target.beats());
    for beats in [&left, &arrived] {
        assert!(beats.is_sorted_by(|before, after| before < after), "{beats:?}\n{}", moved.story());
    }
    if let (Some(last), Some(first)) = (left.last(), arrived.first()) {
        assert!(last < first, "the guest ran at both sides: {left:?} {arrived:?}\n{}", moved.story());
    }
}

/// One cell, once.
fn round(victim: Victim, phase: Phase, chance: &mut Chance) -> Fate {
    let vm = Vm::on_a_shared_disk(&format!("kill-{victim:?}-{phase:?}").to_lowercase());
    let (source, target) = (source(&vm), target(&vm));
    let moved = Move::prepare(&vm, &source, &target, "m1");
    phase.reach(&moved, chance);
    victim.kill(&moved);
    let fate =
        wait_for("one place for the guest", MOVED, || fate(&moved).map_err(|why| format!("{why}\n{}", moved.story())));
    assert!(victim.may_leave(fate), "{fate:?}: {}", moved.story());
    let runs = match fate {
        Fate::AtSource => Some(&source),
        Fate::AtTarget => Some(&target),
        Fate::DeadAtSource | Fate::DeadAtTarget => None,
    };
    if let Some(side) = runs {
        let before = side.beats().len();
        wait_for("the guest's heartbeat", SOON, || expect(side.beats().len() >= before + 2, moved.story()));
    }
    check_one_ran(&moved);
    fate
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE; make test"]
fn each_victim_of_a_migration_leaves_one_guest() {
    let mut chance = Chance::new(1);
    for (victim, phase) in SHORT {
        println!("{victim:?} {phase:?}: {:?}", round(victim, phase, &mut chance));
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().filter(|text| !text.is_empty()).map_or(default, |text| text.parse().unwrap())
}

#[test]
#[ignore = "needs VIRT_LAUNCHER_IMAGE and hours; make faults GROUP=migration"]
fn whole_table_of_victims_and_phases_leaves_one_guest() {
    let (rounds, seed) = (number("ROUNDS", 10), number("SEED", 1));
    let only = std::env::var("ONLY").unwrap_or_default();
    let mut table = String::new();
    for round_number in 0..rounds {
        for victim in VICTIMS {
            for phase in PHASES {
                let cell = format!("{victim:?} {phase:?}");
                if !cell.contains(&only) {
                    continue;
                }
                let mut chance = Chance::new(seed.wrapping_mul(1000).wrapping_add(round_number));
                let fate = round(victim, phase, &mut chance);
                println!("round {round_number}: {cell}: {fate:?}");
                writeln!(table, "{round_number} {cell}: {fate:?}").unwrap();
            }
        }
    }
    println!("{table}");
}
