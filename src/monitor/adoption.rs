//! When a launcher that died is followed by another: its VM lives on, and somebody has to own it.
//!
//! The original ends the VM with its launcher (contract/lifecycle.md 12.16). Here that happens with `--no-adopt`, when there
//! is nothing left to own, and when new launchers die too often. A VM that has not been started yet, or whose end
//! virt-handler has not heard of yet, has an owner, too: a launcher that was killed once it had begun is followed by another.

use std::time::Duration;

use crate::process::{Outcome, Restart, RestartPolicy};

/// The exit code of a launcher that refused to begin, or whose pod was told to leave (contract/lifecycle.md 2.5).
const REFUSED: i32 = 2;

/// The pace of new launchers. The first comes at once. The VM runs well without one for a
/// while, so that the limit is generous: a launcher that cannot start at all is tried for more than a minute.
pub const POLICY: RestartPolicy = RestartPolicy {
    first: Duration::from_millis(10),
    factor: 1.3,
    longest: Duration::from_secs(1),
    jitter: 0.0,
    limit: Some(100),
    healthy_after: Duration::from_secs(60),
};

/// What a launcher left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remnants {
    /// A hypervisor that lives.
    pub hypervisor: bool,
    /// Its state file: it had begun to serve its VM.
    pub begun: bool,
}

/// The launchers so far.
#[derive(Debug)]
pub struct LaunchSupervisor {
    policy: RestartPolicy,
    failures: u32,
    attempt: u32,
}

impl LaunchSupervisor {
    /// Before the first launcher.
    pub fn new(policy: RestartPolicy) -> Self {
        LaunchSupervisor { policy, failures: 0, attempt: 0 }
    }

    /// How many launchers came before the one that runs.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether a launcher that ended like this left work behind. Exit code 0 says that it has not; the first launcher's
    /// refusal comes before there is a VM, but an adopting one that cannot start leaves the VM without owner.
    pub fn is_unfinished(&self, outcome: Outcome, left: &Remnants) -> bool {
        match outcome {
            Outcome::Signaled(_) => left.hypervisor || left.begun,
            Outcome::Exited(0) => false,
            Outcome::Exited(REFUSED) => self.attempt > 0 && left.hypervisor,
            Outcome::Exited(_) => left.hypervisor,
        }
    }

    /// The pause before the next launcher after one that lived for so long, or no more launchers. The policy's pauses count
    /// from one start to the next: what bounds the work of starting in vain need not hold up the launcher after one that
    /// lived.
    pub fn next(&mut self, lived: Duration) -> Option<Duration> {
        self.failures = self.policy.count(self.failures, lived);
        match self.policy.next(self.failures, 0.0) {
            Restart::After(pause) => {
                self.attempt = self.attempt.saturating_add(1);
                Some(pause.saturating_sub(lived).max(self.policy.first))
            }
            Restart::GiveUp => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unfinished_depends_on_how_it_ended_and_which_launcher_it_was() {
        let mut adoption = LaunchSupervisor::new(POLICY);
        let nothing = Remnants { hypervisor: false, begun: false };
        let vm = Remnants { hypervisor: true, begun: true };
        let no_vm_yet = Remnants { hypervisor: false, begun: true };
        for (outcome, first, later, without_vm) in [
            (Outcome::Exited(0), false, false, false),
            (Outcome::Exited(2), false, true, false),
            (Outcome::Exited(101), true, true, false),
            (Outcome::Signaled(9), true, true, true),
            (Outcome::Signaled(15), true, true, true),
        ] {
            assert_eq!(adoption.is_unfinished(outcome, &vm), first, "{outcome}");
            let mut later_one = LaunchSupervisor::new(POLICY);
            assert!(later_one.next(Duration::ZERO).is_some());
            assert_eq!(later_one.is_unfinished(outcome, &vm), later, "{outcome}");
            assert_eq!(later_one.is_unfinished(outcome, &no_vm_yet), without_vm, "{outcome}");
            assert!(!later_one.is_unfinished(outcome, &nothing), "{outcome}");
        }
        assert_eq!(adoption.attempt(), 0);
        assert_eq!(adoption.next(Duration::ZERO), Some(POLICY.first));
        assert_eq!(adoption.attempt(), 1);
    }

    #[test]
    fn fifty_deaths_in_a_row_are_answered_quickly_and_a_hundred_are_enough() {
        let mut adoption = LaunchSupervisor::new(POLICY);
        for _ in 0..50 {
            assert!(adoption.next(Duration::from_millis(1)).unwrap() <= Duration::from_secs(1));
        }
        assert_eq!(adoption.next(Duration::from_secs(2)), Some(POLICY.first), "one that lived waits for nothing");
        let more = (0..1000).take_while(|_| adoption.next(Duration::ZERO).is_some()).count();
        assert_eq!(more, 48);
        let mut healthy = LaunchSupervisor::new(POLICY);
        for _ in 0..1000 {
            assert_eq!(healthy.next(Duration::from_secs(60)), Some(POLICY.first));
        }
    }
}
