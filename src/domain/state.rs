//! libvirt's domain states and reasons under the names virt-handler knows (contract/cmd-server.md 9.1).

use serde::{Deserialize, Serialize};

/// `Status.Status`: what the VM is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LifeCycle {
    /// Not told; the original's empty text.
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
    /// The state with libvirt's number (`virDomainState`).
    pub fn from_libvirt(state: i32) -> Self {
        match state {
            0 => Self::NoState,
            1 => Self::Running,
            2 => Self::Blocked,
            3 => Self::Paused,
            4 => Self::Shutdown,
            5 => Self::Shutoff,
            6 => Self::Crashed,
            7 => Self::PmSuspended,
            _ => Self::Unknown,
        }
    }

    /// Whether the domain has no guest any more, so that nothing of its document is live.
    pub fn is_down(self) -> bool {
        matches!(self, Self::Shutoff | Self::Crashed)
    }
}

/// `Status.Reason`: why the VM is in its state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs)] // libvirt's own names
pub enum StateReason {
    /// Not told, or a reason of a listed state that the original does not name; the empty text.
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

impl StateReason {
    /// The reason with libvirt's number in that state (`virDomainPausedReason` and its like).
    pub fn from_libvirt(state: LifeCycle, reason: i32) -> Self {
        let names: &[Self] = match state {
            LifeCycle::Paused => &[
                Self::Unknown,
                Self::User,
                Self::Migration,
                Self::Save,
                Self::Dump,
                Self::IoError,
                Self::Watchdog,
                Self::FromSnapshot,
                Self::ShuttingDown,
                Self::Snapshot,
                Self::Crashed,
                Self::StartingUp,
                Self::Postcopy,
                Self::PostcopyFailed,
            ],
            LifeCycle::Shutdown => &[Self::Unknown, Self::User],
            LifeCycle::Shutoff => &[
                Self::Unknown,
                Self::Shutdown,
                Self::Destroyed,
                Self::Crashed,
                Self::Migrated,
                Self::Saved,
                Self::Failed,
                Self::FromSnapshot,
            ],
            LifeCycle::Crashed => &[Self::Unknown, Self::Panicked],
            LifeCycle::Unset
            | LifeCycle::NoState
            | LifeCycle::Running
            | LifeCycle::Blocked
            | LifeCycle::PmSuspended
            | LifeCycle::Unknown => return Self::Unknown,
        };
        usize::try_from(reason).ok().and_then(|at| names.get(at)).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: impl Serialize) -> String {
        serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
    }

    #[test]
    fn states_have_the_names_virt_handler_knows() {
        let names: Vec<String> = (0..=8).map(|state| text(LifeCycle::from_libvirt(state))).collect();
        assert_eq!(
            names,
            ["NoState", "Running", "Blocked", "Paused", "ShuttingDown", "Shutoff", "Crashed", "PMSuspended", "Unknown"]
        );
    }

    #[test]
    fn reasons_depend_on_the_state() {
        let reason = |state, code| text(StateReason::from_libvirt(LifeCycle::from_libvirt(state), code));
        assert_eq!(reason(1, 5), "Unknown");
        assert_eq!(reason(3, 5), "IOError");
        assert_eq!(reason(3, 13), "PostcopyFailed");
        assert_eq!(reason(3, 14), "");
        assert_eq!(reason(4, 1), "User");
        assert_eq!(reason(5, 2), "Destroyed");
        assert_eq!(reason(5, 7), "FromSnapshot");
        assert_eq!(reason(5, 8), "");
        assert_eq!(reason(6, 1), "Panicked");
        assert_eq!(reason(6, -1), "");
    }
}
