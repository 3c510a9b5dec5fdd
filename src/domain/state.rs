//! Domain states and their reasons under the names virt-handler knows (contract/cmd-server.md 9.1). `libvirt` alone knows their
//! numbers.

use serde::{Deserialize, Serialize};

/// `Status.Status`: what the VM is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LifeCycle {
    /// Not known; the original's empty text.
    #[default]
    #[serde(rename = "")]
    Unset,
    /// libvirt knows no state, or no such domain.
    NoState,
    /// The guest runs.
    Running,
    /// The guest waits for a resource.
    Blocked,
    /// The guest is held.
    Paused,
    /// The guest is shutting down.
    #[serde(rename = "ShuttingDown")]
    Shutdown,
    /// The guest does not run.
    Shutoff,
    /// The guest ended badly.
    Crashed,
    /// The guest suspended itself.
    #[serde(rename = "PMSuspended")]
    PmSuspended,
    /// A state libvirt has learnt since; virt-handler uses the name for launchers it cannot reach.
    Unknown,
}

impl LifeCycle {
    /// Whether the domain has no guest any more, so that nothing of its document is live.
    pub fn is_down(self) -> bool {
        matches!(self, Self::Shutoff | Self::Crashed)
    }
}

/// `Status.Reason`: why the VM is in its state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StateReason {
    /// Not known, or a reason of a listed state that the original does not name; the empty text.
    #[default]
    #[serde(rename = "")]
    Unset,
    Unknown,
    User,
    Migration,
    Save,
    Dump,
    #[serde(rename = "IOError")]
    IoError,
    Watchdog,
    FromSnapshot,
    ShuttingDown,
    Snapshot,
    Crashed,
    StartingUp,
    Postcopy,
    PostcopyFailed,
    Shutdown,
    Destroyed,
    Migrated,
    Saved,
    Failed,
    Panicked,
    /// There is no such domain; only in notifications.
    NonExistent,
}

/// What a domain does, and why.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct DomainState {
    /// What it does.
    pub status: LifeCycle,
    /// Why; [`StateReason::Unknown`] for every status that virt-handler knows no reasons of, such as running.
    pub reason: StateReason,
}

impl DomainState {
    /// The guest runs.
    pub const RUNNING: Self = Self::new(LifeCycle::Running, StateReason::Unknown);
    /// libvirt says of a hypervisor that was killed what it says of one that crashed.
    pub const CRASHED: Self = Self::new(LifeCycle::Shutoff, StateReason::Crashed);

    /// `status` for `reason`.
    pub const fn new(status: LifeCycle, reason: StateReason) -> Self {
        DomainState { status, reason }
    }

    /// Whether a sync may start the domain: it has no guest, or one that is on its way out.
    pub fn may_be_started(self) -> bool {
        matches!(self.status, LifeCycle::NoState | LifeCycle::Shutdown | LifeCycle::Shutoff | LifeCycle::Crashed)
    }

    /// Whether the hypervisor's process is there and the guest does not run yet: the start may still fail.
    pub fn is_starting(self) -> bool {
        self == Self::new(LifeCycle::Paused, StateReason::StartingUp)
    }

    /// Whether the domain has a hypervisor that runs its guest or will. One that is only starting may still be cleared away.
    pub fn has_hypervisor(self) -> bool {
        !self.may_be_started() && !self.is_starting()
    }

    /// Whether a disk's error paused the guest.
    pub fn is_paused_by_disk(self) -> bool {
        self == Self::new(LifeCycle::Paused, StateReason::IoError)
    }

    /// Whether the domain is paused because somebody wants it to be.
    pub fn is_paused_on_purpose(self) -> bool {
        let wanted = matches!(
            self.reason,
            StateReason::User
                | StateReason::Migration
                | StateReason::Save
                | StateReason::Dump
                | StateReason::FromSnapshot
                | StateReason::ShuttingDown
                | StateReason::Snapshot
                | StateReason::StartingUp
                | StateReason::Postcopy
        );
        self.status == LifeCycle::Paused && wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: DomainState = DomainState::RUNNING;
    const STARTING: DomainState = DomainState::new(LifeCycle::Paused, StateReason::StartingUp);
    const PAUSED: DomainState = DomainState::new(LifeCycle::Paused, StateReason::User);
    const PAUSED_BY_DISK: DomainState = DomainState::new(LifeCycle::Paused, StateReason::IoError);
    const SHUTTING_DOWN: DomainState = DomainState::new(LifeCycle::Shutdown, StateReason::User);

    #[test]
    fn start_is_for_a_domain_without_a_guest() {
        for state in [SHUTTING_DOWN, DomainState::CRASHED, DomainState::new(LifeCycle::NoState, StateReason::Unknown)] {
            assert!(state.may_be_started() && !state.has_hypervisor(), "{state:?}");
        }
        for state in [RUNNING, PAUSED, PAUSED_BY_DISK, STARTING] {
            assert!(!state.may_be_started(), "{state:?}");
        }
    }

    #[test]
    fn hypervisor_of_a_domain_that_is_starting_does_not_count_yet() {
        assert!(STARTING.is_starting() && !STARTING.has_hypervisor());
        for state in [RUNNING, PAUSED, PAUSED_BY_DISK] {
            assert!(state.has_hypervisor() && !state.is_starting(), "{state:?}");
        }
    }

    #[test]
    fn pause_by_a_disk_is_not_on_purpose() {
        assert!(PAUSED.is_paused_on_purpose() && STARTING.is_paused_on_purpose());
        assert!(PAUSED_BY_DISK.is_paused_by_disk() && !PAUSED_BY_DISK.is_paused_on_purpose());
        assert!(!PAUSED.is_paused_by_disk());
        for reason in [StateReason::Watchdog, StateReason::Crashed, StateReason::PostcopyFailed, StateReason::Unknown] {
            assert!(!DomainState::new(LifeCycle::Paused, reason).is_paused_on_purpose(), "{reason:?}");
        }
        assert!(!RUNNING.is_paused_on_purpose() && !SHUTTING_DOWN.is_paused_on_purpose());
    }
}
