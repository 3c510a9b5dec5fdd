//! Faults of the guest and its disks that virt-handler and the user are told of: guest panics, and disk errors that pause
//! the VM (contract/notify.md 3.2, 5.1, 5.5).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::domain_log::DomainLog;
use crate::domain::{Domain, DomainStatus, GuestPanicInfo, LifeCycle};
use crate::libvirt::{DiskError, DomainSnapshot, Lifecycle};

/// The guest's panics as notifications tell of them. virt-handler counts one when it is told of more than before, so that a
/// launcher goes on from where the previous one was. It forgets what it was told when it cleans up after a VM, which it does
/// before it reads the count of a document that says the VM is down; so that one panic is counted once, such a document
/// tells of panics only if there is one that no document of the living VM has told of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Panics {
    /// How many there were.
    pub count: i64,
    /// What is known of the last one.
    pub last: Option<GuestPanicInfo>,
    /// How many virt-handler knows from documents of the living VM.
    pub told: i64,
}

/// A document that tells of panics and is on its way.
#[derive(Debug, Clone, Copy)]
struct Telling {
    generation: u64,
    count: i64,
}

/// What is remembered of faults. One VM has one.
#[derive(Debug, Default)]
pub struct Faults {
    /// libvirt's log of the domain.
    log: DomainLog,
    panics: Panics,
    /// The document of the living VM that first told of so many panics, until virt-handler has acknowledged it.
    telling: Option<Telling>,
    /// The guest has panicked and has not run since.
    panicked: bool,
    /// Disks whose error was told since the VM was paused by it.
    told: BTreeSet<(String, DiskError)>,
    /// The VM is paused by its disks, and libvirt has not said by which.
    unasked: bool,
}

impl Faults {
    /// Nothing has happened since these `panics`; details of later ones are looked for in libvirt's `log` of the domain.
    pub fn new(log: DomainLog, panics: Panics) -> Self {
        Faults { log, panics, ..Faults::default() }
    }

    /// What is known of panics.
    pub fn panics(&self) -> &Panics {
        &self.panics
    }

    /// Notes a lifecycle event; a panic that is new is the message of a Kubernetes event `GuestPanicked`.
    pub async fn note(&mut self, event: Lifecycle) -> Option<String> {
        match event {
            // A guest that runs again can panic again, and its disks can fail again; it may be paused again before anybody
            // has looked.
            Lifecycle::Started { .. } | Lifecycle::Resumed => {
                self.panicked = false;
                self.told.clear();
                None
            }
            Lifecycle::Crashed { panicked } if !self.panicked => {
                self.panicked = panicked;
                self.panics.count += 1;
                let info = panic_in(&self.log.end("details of the guest's panic").await);
                Some(panic_message(self.panics.last.insert(info)))
            }
            _ => None,
        }
    }

    /// Adds what virt-handler is to be told of panics to a notification.
    pub fn show(&self, status: &mut DomainStatus) {
        let Panics { count, last, told } = &self.panics;
        status.panic_count = match status.status {
            // The guest is going down: what is new waits for the last document of this life.
            LifeCycle::Shutdown => *told,
            now if now.is_down() && count == told => 0,
            _ => *count,
        };
        status.guest_panic_info = last.clone().filter(|_| status.panic_count > 0);
    }

    /// A notification with this status is on its way.
    pub fn shown(&mut self, status: &DomainStatus, generation: u64) {
        let count = status.panic_count;
        let news = count > self.panics.told && self.telling.is_none_or(|telling| telling.count != count);
        if news && !status.status.is_down() {
            self.telling = Some(Telling { generation, count });
        }
    }

    /// virt-handler has acknowledged this notification and all before it. Whether that makes a difference.
    pub fn acknowledged(&mut self, generation: u64) -> bool {
        let told = self.telling.take_if(|telling| telling.generation <= generation);
        if let Some(Telling { count, .. }) = told {
            self.panics.told = count;
        }
        told.is_some()
    }

    /// Whether the disks' errors are to be asked for.
    pub fn concern_disks(&mut self, snapshot: &DomainSnapshot) -> bool {
        let paused = snapshot.state.is_paused_by_disk();
        if !paused {
            self.told.clear();
        }
        self.unasked = paused;
        paused
    }

    /// Whether the disks' errors are still to be asked for: a VM that is paused may give no other cause to look.
    pub fn unasked(&self) -> bool {
        self.unasked
    }

    /// There is nobody to ask, or the answer is that there is none: the next look will see.
    pub fn spare_disks(&mut self) {
        self.unasked = false;
    }

    /// Messages of Kubernetes events `IOerror`, one for each failing disk that was not told since the VM was paused.
    pub fn disk_errors(&mut self, errors: Vec<(String, DiskError)>, domain: Option<&Domain>) -> Vec<String> {
        self.unasked = false;
        let new = errors.into_iter().filter(|error| self.told.insert(error.clone()));
        new.map(|(target, error)| io_message(&volume(&target, domain), error)).collect()
    }
}

/// The VMI's name of the disk that the guest knows as `target`.
fn volume(target: &str, domain: Option<&Domain>) -> String {
    let disks = domain.map(|domain| domain.spec.devices.disks.as_slice()).unwrap_or_default();
    let disk = disks.iter().find(|disk| disk.target.device == target);
    disk.and_then(|disk| disk.alias.as_ref()).map_or_else(|| target.to_owned(), |alias| alias.name.clone())
}

fn io_message(volume: &str, error: DiskError) -> String {
    match error {
        DiskError::NoSpace => format!("VM Paused due to not enough space on volume: {volume}"),
        DiskError::Unspecified => format!("VM Paused due to IO error at the volume: {volume}"),
    }
}

fn panic_message(info: &GuestPanicInfo) -> String {
    match info.type_.as_str() {
        "hyper-v" => {
            let GuestPanicInfo { type_: _, arg1, arg2, arg3, arg4, arg5 } = info;
            format!("GuestPanicked: '{arg1:#x}', '{arg2:#x}', '{arg3:#x}', '{arg4:#x}', '{arg5:#x}'")
        }
        UNKNOWN => "GuestPanicked (details unavailable)".to_owned(),
        other => format!("GuestPanicked: type={other}"),
    }
}

/// The type of a panic that the log does not tell of.
const UNKNOWN: &str = "unknown";

/// The last panic in a log, from a line such as `panic hyper-v: arg1='0x1', arg2='0x2', …`.
fn panic_in(log: &str) -> GuestPanicInfo {
    log.lines()
        .rev()
        .find_map(panic_of)
        .unwrap_or_else(|| GuestPanicInfo { type_: UNKNOWN.to_owned(), ..Default::default() })
}

fn panic_of(line: &str) -> Option<GuestPanicInfo> {
    let (_, told) = line.split_once("panic ")?;
    let (kind, details) = told.split_once(':')?;
    if kind.is_empty() || !kind.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return None;
    }
    let argument = |number: u8| {
        let (_, value) = details.split_once(&format!("arg{number}='0x"))?;
        u64::from_str_radix(value.split_once('\'')?.0, 16).ok()
    };
    let argument = |number| argument(number).unwrap_or_default();
    Some(GuestPanicInfo {
        type_: kind.to_owned(),
        arg1: argument(1),
        arg2: argument(2),
        arg3: argument(3),
        arg4: argument(4),
        arg5: argument(5),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DomainState, StateReason};

    const PANIC: Lifecycle = Lifecycle::Crashed { panicked: true };
    const CRASH_KERNEL: Lifecycle = Lifecycle::Crashed { panicked: false };
    const STARTED: Lifecycle = Lifecycle::Started { migrated: false };

    #[tokio::test]
    async fn panic_is_reported_once_until_the_guest_runs_again() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let line =
            "2026-11-21 08:00:00.000+0000: panic hyper-v: arg1='0xa', arg2='0x1f', arg3='0x0', arg4='0x3', arg5='0x4'";
        std::fs::write(log.path(), format!("{}\nolder panic s390: core='0'\n{line}\nlater\n", "x".repeat(300_000)))
            .unwrap();
        let mut faults = Faults::new(DomainLog::new(Some(log.path().to_owned())), Panics::default());
        let told = faults.note(PANIC).await;
        assert_eq!(told.as_deref(), Some("GuestPanicked: '0xa', '0x1f', '0x0', '0x3', '0x4'"));
        assert_eq!(faults.note(PANIC).await, None, "the same panic");
        assert_eq!(faults.note(STARTED).await, None, "the guest was started again");
        assert!(faults.note(CRASH_KERNEL).await.is_some(), "its crash kernel is loaded");
        assert!(faults.note(PANIC).await.is_some(), "which panicked");
        let mut status = DomainStatus::default();
        faults.show(&mut status);
        assert_eq!(status.panic_count, 3);
        assert_eq!(status.guest_panic_info.unwrap().arg2, 31);

        let mut next = Faults::new(DomainLog::new(Some(log.path().to_owned())), faults.panics().clone());
        let mut status = DomainStatus::default();
        next.show(&mut status);
        assert_eq!((status.panic_count, status.guest_panic_info.unwrap().arg2), (3, 31));
        assert!(next.note(PANIC).await.is_some());
        assert_eq!(next.panics().count, 4);
    }

    /// virt-handler as it counts: its clean-up comes before the count of a document that says the VM is down.
    #[derive(Default)]
    struct Handler {
        last_seen: i64,
        counted: usize,
        is_final: bool,
    }

    impl Handler {
        fn told(&mut self, faults: &mut Faults, now: LifeCycle, generation: u64) {
            let mut status = DomainStatus { status: now, ..DomainStatus::default() };
            faults.show(&mut status);
            faults.shown(&status, generation);
            faults.acknowledged(generation);
            assert_eq!(status.panic_count > 0, status.guest_panic_info.is_some());
            if self.is_final {
                return;
            }
            if now.is_down() {
                (self.last_seen, self.is_final) = (0, true);
            }
            if status.panic_count > self.last_seen {
                (self.last_seen, self.counted) = (status.panic_count, self.counted + 1);
            }
        }
    }

    #[tokio::test]
    async fn each_panic_is_counted_once_whatever_the_guest_does_next() {
        use LifeCycle::{Crashed, Paused, Running, Shutdown, Shutoff};
        let panics: [(&[LifeCycle], usize); 6] = [
            (&[Shutdown, Shutoff], 1),
            (&[Shutdown, Shutdown, Shutoff, Shutoff], 1),
            (&[Shutoff], 1),
            (&[Crashed, Shutoff], 1),
            (&[Running, Running, Shutdown, Shutoff], 1),
            (&[Paused, Shutdown, Crashed], 1),
        ];
        for (states, expected) in panics {
            let mut faults = Faults::default();
            let mut handler = Handler::default();
            handler.told(&mut faults, Running, 1);
            faults.note(PANIC).await;
            for (generation, now) in (2..).zip(states) {
                handler.told(&mut faults, *now, generation);
            }
            assert_eq!(handler.counted, expected, "{states:?}");
        }
        // It panics, is rebooted, and panics for good, under another launcher.
        let (mut faults, mut handler) = (Faults::default(), Handler::default());
        faults.note(PANIC).await;
        handler.told(&mut faults, Running, 1);
        let mut faults = Faults::new(DomainLog::default(), faults.panics().clone());
        faults.note(PANIC).await;
        handler.told(&mut faults, Shutdown, 1);
        handler.told(&mut faults, Shutoff, 2);
        assert_eq!(handler.counted, 2);
    }

    #[test]
    fn panic_that_virt_handler_has_not_acknowledged_comes_with_the_end() {
        let panics = Panics { count: 1, ..Panics::default() };
        let mut faults = Faults::new(DomainLog::default(), panics);
        let mut status = DomainStatus { status: LifeCycle::Running, ..DomainStatus::default() };
        faults.show(&mut status);
        faults.shown(&status, 7);
        assert!(!faults.acknowledged(6), "what was on its way before");
        let count = |faults: &Faults, status| {
            let mut status = DomainStatus { status, ..DomainStatus::default() };
            faults.show(&mut status);
            status.panic_count
        };
        assert_eq!(count(&faults, LifeCycle::Shutoff), 1);
        assert!(faults.acknowledged(9));
        assert_eq!(count(&faults, LifeCycle::Shutoff), 0);
        assert_eq!(count(&faults, LifeCycle::Running), 1);
    }

    #[tokio::test]
    async fn panic_without_details_says_so() {
        let mut faults = Faults::new(DomainLog::new(Some("/nowhere/at/all.log".into())), Panics::default());
        assert_eq!(faults.note(PANIC).await.as_deref(), Some("GuestPanicked (details unavailable)"));
        assert_eq!(panic_in("kernel panic - not syncing: x\npanic s390: core='0' psw").type_, "s390");
        assert_eq!(panic_in("don't panic, it is fine: really").type_, UNKNOWN);
        let long = panic_in("panic hyper-v: arg1='0xffffffffffffffff', arg2='0xfffffffffffffffff', arg3='zz'");
        assert_eq!((long.arg1, long.arg2, long.arg3), (u64::MAX, 0, 0));
        assert_eq!(panic_message(&panic_in("panic s390: x")), "GuestPanicked: type=s390");
    }

    #[tokio::test]
    async fn each_failing_disk_is_reported_once_in_a_pause() {
        let seen = |state| DomainSnapshot { state, xml: None };
        let paused = |reason| seen(DomainState::new(LifeCycle::Paused, reason));
        let xml = "<domain><devices><disk><target dev='vdb'/><alias name='ua-data'/></disk></devices></domain>";
        let spec = crate::domain::DomainSpec::from_xml(xml).unwrap();
        let domain = Domain { spec, ..Domain::default() };
        let mut faults = Faults::default();
        assert!(!faults.concern_disks(&paused(StateReason::User)) && !faults.unasked());
        assert!(faults.concern_disks(&paused(StateReason::IoError)) && faults.unasked());
        let errors = || vec![("vdb".to_owned(), DiskError::NoSpace), ("vdc".to_owned(), DiskError::Unspecified)];
        assert_eq!(
            faults.disk_errors(errors(), Some(&domain)),
            ["VM Paused due to not enough space on volume: data", "VM Paused due to IO error at the volume: vdc"]
        );
        assert!(!faults.unasked());
        assert!(faults.disk_errors(errors(), Some(&domain)).is_empty(), "nothing new");
        assert!(!faults.concern_disks(&seen(DomainState::RUNNING)), "the VM runs again");
        assert_eq!(faults.disk_errors(errors(), Some(&domain)).len(), 2, "and fails again");
        assert_eq!(faults.note(Lifecycle::Resumed).await, None);
        assert!(faults.concern_disks(&paused(StateReason::IoError)), "it was paused again before it was seen running");
        assert_eq!(faults.disk_errors(errors(), Some(&domain)).len(), 2);
    }
}
