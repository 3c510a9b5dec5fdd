//! Two launchers and one migration between them, in virt-handler's order (contract/migration.md 2, 14).

use std::time::Duration;

use serde_json::{Value, json};
use virt_launcher::proto::cmd_v1::VirtualMachineOptions;

use super::side::{Record, Seen, Side};
use super::vm::{Order, VMI, Vm, options, paused};
use crate::support::bridge::{Bridge, Line};
use crate::support::pod::text;
use crate::support::{expect, wait_for};

/// For a whole migration of a small guest in emulation, on a busy machine.
pub const MOVED: Duration = Duration::from_secs(180);
/// For what follows at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);
/// What QEMU says when several connections of its migration break at once and it does not survive that.
const QEMU_GIVES_UP: &str = "yank_unregister_instance: Assertion `QLIST_EMPTY(&entry->yankfns)' failed";
/// The time in which virt-controller wants a target's pod to end after a migration that failed.
const TARGET_GONE: Duration = Duration::from_secs(30);

/// The image of this side: `MIGRATION_SOURCE_IMAGE`, `MIGRATION_TARGET_IMAGE`, or else the image under test.
fn image(variable: &str) -> String {
    let under_test = crate::support::pod::image();
    std::env::var(variable).ok().filter(|image| !image.is_empty()).unwrap_or(under_test)
}

pub fn source_image() -> String {
    image("MIGRATION_SOURCE_IMAGE")
}

pub fn target_image() -> String {
    image("MIGRATION_TARGET_IMAGE")
}

/// A source whose guest has booted.
pub fn source(vm: &Vm) -> Side {
    let source = Side::start(&source_image(), vm, "source");
    boot(&source, vm);
    source
}

/// Starts the VM and waits for its guest.
pub fn boot(source: &Side, vm: &Vm) {
    source.sync(&vm.scheduled());
    source.wait("the VM runs", SOON, |seen| seen.status == "Running");
    source.pod.wait_console("guest: ready");
}

/// A target that is ready.
pub fn target(vm: &Vm) -> Side {
    Side::start(&target_image(), vm, "target")
}

/// One migration, prepared.
pub struct Move<'a> {
    vm: &'a Vm,
    pub source: &'a Side,
    pub target: &'a Side,
    pub order: Order,
    pub bridge: Bridge,
    /// Whether a user has paused the VM.
    paused: bool,
    /// What virt-handler tells of the target's node with each sync there, if a test needs it.
    options: Option<VirtualMachineOptions>,
    /// The heartbeats that the target's console has from an earlier stay of the guest in that pod.
    beats_before: usize,
}

impl<'a> Move<'a> {
    /// `SyncMigrationTarget`, then the sockets.
    pub fn prepare(vm: &'a Vm, source: &'a Side, target: &'a Side, uid: &str) -> Move<'a> {
        Move::prepare_changed(vm, source, target, uid, |_, _| {})
    }

    /// [`Move::prepare`] for a VM that a user has paused.
    pub fn prepare_paused(vm: &'a Vm, source: &'a Side, target: &'a Side, uid: &str) -> Move<'a> {
        Move::prepare_with(vm, source, target, uid, (true, |_, _| {}))
    }

    /// [`Move::prepare`] after a change of what the target is shown.
    pub fn prepare_changed(
        vm: &'a Vm,
        source: &'a Side,
        target: &'a Side,
        uid: &str,
        change: impl FnOnce(&mut Value, &mut VirtualMachineOptions),
    ) -> Move<'a> {
        Move::prepare_with(vm, source, target, uid, (false, change))
    }

    fn prepare_with(
        vm: &'a Vm,
        source: &'a Side,
        target: &'a Side,
        uid: &str,
        (paused, change): (bool, impl FnOnce(&mut Value, &mut VirtualMachineOptions)),
    ) -> Move<'a> {
        let order = Order { uid: uid.to_owned(), pod: target.name.clone() };
        let lines = if vm.is_copied() { &Line::BLOCK[..] } else { &Line::PLAIN };
        let (from, to) = (source.pod.pid_1(), target.pod.pid_1());
        let beats_before = target.beats().len();
        let (mut document, mut options) = (state(vm, source, &order, paused), VirtualMachineOptions::default());
        change(&mut document, &mut options);
        let prepared = target.prepare_with(&document, options.clone());
        assert!(prepared.success, "SyncMigrationTarget: {}\n{}", prepared.message, target.story());
        let bridge = Bridge::between(from, to, VMI, lines);
        let options = (options != VirtualMachineOptions::default()).then_some(options);
        Move { vm, source, target, order, bridge, paused, options, beats_before }
    }

    /// The VMI as both launchers are shown it during this migration.
    pub fn document(&self) -> Value {
        state(self.vm, self.source, &self.order, self.paused)
    }

    /// `MigrateVirtualMachine` with virt-handler's default options, and these instead.
    pub fn start(&self, instead: &Value) {
        let started = self.source.migrate(&self.document(), &options(instead));
        assert!(started.success, "MigrateVirtualMachine: {}\n{}", started.message, self.source.story());
        let record = self.source.record().unwrap_or_else(|| panic!("no record\n{}", self.story()));
        assert_eq!(record.uid, self.order.uid, "{}", self.story());
        assert!(record.start.is_some(), "{}", self.story());
    }

    /// `CancelVirtualMachineMigration`, again until it was taken, as virt-handler does.
    pub fn cancel(&self) {
        let document = self.document();
        wait_for("the cancel is taken", SOON, || {
            let record = self.source.record().unwrap_or_default();
            if record.end.is_some() || record.abort == "Succeeded" {
                return Ok(());
            }
            if record.abort.is_empty() || record.abort == "Failed" {
                self.source.cancel(&document);
            }
            Err(format!("{record:?}"))
        });
    }

    /// Waits until so much memory went over the bridge.
    pub fn wait_transfer(&self, bytes: u64) {
        self.wait_sent(Line::Memory, bytes);
    }

    /// Waits until so many bytes went over a line.
    pub fn wait_sent(&self, line: Line, bytes: u64) {
        wait_for("data are sent", MOVED, || {
            let counted = self.bridge.counted(line);
            if counted.to_target >= bytes {
                return Ok(());
            }
            assert!(!self.has_ended(), "{}", self.story());
            Err(format!("{counted:?}"))
        });
    }

    /// Whether the source has told the end of this migration.
    fn has_ended(&self) -> bool {
        let told = self.source.told();
        told.last().and_then(|seen| seen.record.as_ref()).is_some_and(|record| self.is_its_end(record))
    }

    fn is_its_end(&self, record: &Record) -> bool {
        record.uid == self.order.uid && record.end.is_some()
    }

    fn wait_end_at_source(&self) -> Record {
        let ended = |seen: &Seen| seen.record.as_ref().is_some_and(|record| self.is_its_end(record));
        self.source.wait("the end at the source", MOVED, ended).record.unwrap()
    }

    /// Waits for the end at both sides, and checks what holds after every migration that has succeeded. Returns the records.
    pub fn wait_success(&self, mode: &str) -> (Record, Record) {
        let at_source = self.wait_end_at_source();
        assert!(!at_source.failed, "{at_source:?}\n{}", self.story());
        let state = if self.paused { ("Paused", "User") } else { ("Running", "") };
        let arrived = |seen: &Seen| seen.has_ended() && seen.status == state.0;
        let arrived = self.target.wait("the end at the target", SOON, arrived);
        if self.paused {
            assert_eq!(arrived.reason, state.1, "{}", self.story());
        }
        let at_target = arrived.record.unwrap();
        for record in [&at_source, &at_target] {
            assert_eq!(record.uid, self.order.uid, "{}", self.story());
            assert!(record.start.is_some(), "{}", self.story());
        }
        assert_eq!(
            (at_source.mode.as_str(), at_source.reason.as_str(), at_source.abort.as_str()),
            (mode, "", ""),
            "{}",
            self.story()
        );
        let left = self.source.wait("the source has ended", SOON, |seen| seen.status == "Shutoff");
        assert!(left.is("Shutoff", "Migrated"), "{left:?}\n{}", self.story());
        self.check_domain();
        if !self.paused {
            self.check_beats();
        }
        (at_source, at_target)
    }

    /// The target's domain is persistent, and its metadata does not speak of migrations.
    fn check_domain(&self) {
        let domain = self.vm.domain();
        let info = self.target.pod.virsh(&["dominfo", &domain]);
        let persistent = info.lines().any(|line| line.starts_with("Persistent:") && line.ends_with("yes"));
        assert!(persistent, "{info}");
        for which in [&["dumpxml", &domain][..], &["dumpxml", "--inactive", &domain]] {
            let xml = self.target.pod.virsh(which);
            assert!(!xml.contains("<migration"), "{xml}");
        }
    }

    /// The guest has gone on where it was: its uptime rises from one console to the other, without a step back, so that no
    /// second of it was lived twice, and it was not booted again.
    pub fn check_beats(&self) {
        let left = self.source.beats();
        let last = *left.last().unwrap_or(&0.0);
        let first = wait_for("the guest's heartbeat at the target", SOON, || {
            let beats = self.target.beats();
            beats.get(self.beats_before..).and_then(|own| own.get(2)).copied().ok_or(format!("{beats:?}"))
        });
        let arrived = self.target.beats().split_off(self.beats_before);
        let whole: Vec<f64> = left.iter().chain(&arrived).copied().collect();
        assert!(
            whole.is_sorted_by(|before, after| before < after),
            "the guest's uptime: {left:?} at the source, {arrived:?} at the target"
        );
        assert!(first - last < 60.0, "the guest's uptime: {last} at the source, {first} at the target");
    }

    /// Waits for a failure that leaves the guest at the source, and checks what holds after each. Returns the record.
    pub fn wait_failure(&self) -> Record {
        let record = self.wait_record_of_failure();
        self.check_at_source();
        record
    }

    /// [`Move::wait_failure`] of a migration whose several connections broke. QEMU 10.0.13 at times ends itself then, whoever
    /// started the migration (contract/migration.md 16, M41); the launcher must tell that the VM has crashed. Returns whether
    /// the guest goes on.
    pub fn wait_failure_of_several_connections(&self) -> bool {
        let record = self.wait_record_of_failure();
        let before = self.source.beats().len();
        let seen = wait_for("the guest's heartbeat at the source, or the end of its QEMU", SOON, || {
            let (seen, beats) = (self.source.seen(), self.source.beats().len());
            if seen.status == "Shutoff" || beats >= before + 2 { Ok(seen) } else { Err(format!("{seen:?}")) }
        });
        if seen.status != "Shutoff" {
            self.check_at_source();
            return true;
        }
        assert!(seen.is("Shutoff", "Crashed"), "{}", self.story());
        wait_for("the assertion of QEMU in its log", SOON, || {
            let output = text(&self.source.pod.output());
            expect(output.contains(QEMU_GIVES_UP), output)
        });
        assert_eq!(seen.record, Some(record), "{}", self.story());
        assert_ne!(self.target.seen().status, "Running", "{}", self.story());
        println!("QEMU itself has ended: {QEMU_GIVES_UP}");
        false
    }

    fn wait_record_of_failure(&self) -> Record {
        let record = self.wait_end_at_source();
        assert!(record.failed && !record.reason.is_empty(), "{record:?}\n{}", self.story());
        assert_eq!(record.uid, self.order.uid);
        // The record is told in one piece.
        for seen in self.source.told() {
            let told = seen.record.filter(|record| record.uid == self.order.uid).unwrap_or_default();
            assert_eq!(told.end.is_some(), told.failed, "{told:?}");
        }
        record
    }

    /// The guest is at the source as it was before.
    fn check_at_source(&self) {
        let state = if self.paused { "Paused" } else { "Running" };
        self.source.wait("the guest is at the source", SOON, |seen| seen.status == state);
        let running = self.target.seen();
        assert_ne!(running.status, "Running", "{}", self.story());
        if !self.paused {
            self.check_stayed();
        }
    }

    /// [`Move::wait_failure`] of a migration that was aborted.
    pub fn wait_aborted(&self) -> Record {
        let record = self.wait_failure();
        assert_eq!(record.reason, "Live migration has been aborted", "{}", self.story());
        assert_eq!(record.abort, "Succeeded", "{}", self.story());
        record
    }

    /// The launcher's own monitor has ended the migration. The reason begins as that of a cancel, which is what the original
    /// says; this launcher goes on with why (contract/migration.md 16, M39).
    pub fn wait_given_up(&self) -> Record {
        let record = self.wait_failure();
        assert!(record.reason.starts_with("Live migration has been aborted"), "{}", self.story());
        assert_eq!(record.abort, "Succeeded", "{}", self.story());
        record
    }

    /// The guest goes on at the source, and nowhere else.
    pub fn check_stayed(&self) {
        let before = self.source.beats();
        wait_for("the guest's heartbeat at the source", SOON, || {
            let beats = self.source.beats();
            assert!(self.source.pod.running(), "{}", self.story());
            expect(beats.len() >= before.len() + 2, beats)
        });
        let beats = self.source.beats();
        assert!(beats.is_sorted_by(|before, after| before < after), "{beats:?}");
        assert_eq!(self.target.beats().len(), self.beats_before, "{}", self.story());
    }

    /// `SignalTargetPodCleanup` after a failure; returns how the target's container has ended.
    pub fn end_target(&self) -> i32 {
        self.target.signal_clean_up(&self.document());
        let code = self.target.pod.wait_exit_within(TARGET_GONE);
        assert!([0, 2].contains(&code), "{code}\n{}", self.target.story());
        code
    }

    /// What virt-handler does after a success, on both nodes; the source's container must end with 0.
    pub fn finish(&self) {
        let document = self.document();
        for _ in 0..2 {
            self.target.finalize(&document);
        }
        let mut after = document;
        after["status"]["migrationState"]["completed"] = json!(true);
        self.target.sync_with(&after, self.options.clone());
        let state = if self.paused { "Paused" } else { "Running" };
        assert_eq!(self.target.seen().status, state, "{}", self.story());
        self.end_source();
    }

    /// `DeleteVirtualMachine` ends the source.
    pub fn end_source(&self) {
        self.source.delete(&self.vm.document());
        assert_eq!(self.source.pod.wait_exit_within(SOON), 0, "{}", self.source.story());
        let deleted = self.source.told().last().is_some_and(|seen| seen.deleted);
        assert!(deleted, "{}", self.source.story());
    }

    /// What happened, for messages.
    pub fn story(&self) -> String {
        format!(
            "bridge:\n{}\nsource: {:?}\n{}\ntarget: {:?}\n{}",
            self.bridge.log(),
            self.source.seen(),
            self.source.story(),
            self.target.seen(),
            self.target.story()
        )
    }
}

fn state(vm: &Vm, source: &Side, order: &Order, is_paused: bool) -> Value {
    let document = vm.migrating(order, &source.root());
    if is_paused { paused(document) } else { document }
}
