//! How the monitor ends.

use crate::process::Outcome;

/// Every way the monitor can end, and its exit code (contract/lifecycle.md 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// `--help`: 0.
    Help,
    /// The launcher's own exit code.
    Launcher(u8),
    /// A signal ended the launcher: 255.
    LauncherKilled,
    /// The launcher could not be started: 1.
    NotStarted,
    /// A hypervisor could not be signalled, or was still there when the deadline passed: 1.
    HypervisorLeft,
    /// The monitor's own flags make no sense: 2.
    Flags,
}

impl Exit {
    /// The exit that the launcher's end alone leads to.
    pub fn of_launcher(outcome: Outcome) -> Self {
        match outcome {
            // The kernel keeps eight bits of an exit code, so that this cannot fail.
            Outcome::Exited(code) => Exit::Launcher(u8::try_from(code).unwrap_or(u8::MAX)),
            Outcome::Signaled(_) => Exit::LauncherKilled,
        }
    }

    /// The process's exit code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Help => 0,
            Exit::Launcher(code) => code,
            Exit::LauncherKilled => 255,
            Exit::NotStarted | Exit::HypervisorLeft => 1,
            Exit::Flags => 2,
        }
    }

    /// Whether the monitor itself failed, not only the launcher.
    pub fn is_monitors_failure(self) -> bool {
        match self {
            Exit::NotStarted | Exit::HypervisorLeft | Exit::Flags => true,
            Exit::Help | Exit::Launcher(_) | Exit::LauncherKilled => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_contracts() {
        let table = [
            (Exit::of_launcher(Outcome::Exited(0)), 0, false),
            (Exit::of_launcher(Outcome::Exited(2)), 2, false),
            (Exit::of_launcher(Outcome::Exited(255)), 255, false),
            (Exit::of_launcher(Outcome::Signaled(9)), 255, false),
            (Exit::NotStarted, 1, true),
            (Exit::HypervisorLeft, 1, true),
            (Exit::Flags, 2, true),
            (Exit::Help, 0, false),
        ];
        for (exit, code, failure) in table {
            assert_eq!((exit.code(), exit.is_monitors_failure()), (code, failure), "{exit:?}");
        }
    }
}
