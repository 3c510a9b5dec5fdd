//! How a process ended, as a pure function of its wait status.

use nix::sys::wait::WaitStatus;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It returned this code, 0 to 255.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

impl Outcome {
    /// The outcome in a wait status; stopped and continued processes have none yet.
    pub fn from_status(status: WaitStatus) -> Option<Self> {
        match status {
            WaitStatus::Exited(_, code) => Some(Outcome::Exited(code)),
            WaitStatus::Signaled(_, signal, _) => Some(Outcome::Signaled(signal as i32)),
            _ => None,
        }
    }

    /// The outcome in the number that wait(2) reports; real-time signals, which [`WaitStatus`] cannot hold, too.
    pub fn from_wait(status: i32) -> Option<Self> {
        if libc::WIFEXITED(status) {
            Some(Outcome::Exited(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(Outcome::Signaled(libc::WTERMSIG(status)))
        } else {
            None
        }
    }

    /// The outcome of a finished `std` or `tokio` child.
    pub fn from_exit(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        match (status.code(), status.signal()) {
            (Some(code), _) => Outcome::Exited(code),
            (None, Some(signal)) => Outcome::Signaled(signal),
            (None, None) => Outcome::Exited(status.into_raw()),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Exited(code) => write!(out, "exit code {code}"),
            Outcome::Signaled(number) => match signal_hook::low_level::signal_name(*number) {
                Some(name) => write!(out, "signal {number} ({name})"),
                None => write!(out, "signal {number}"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn statuses_become_outcomes() {
        let pid = Pid::from_raw(7);
        let table = [
            (WaitStatus::Exited(pid, 0), Some(Outcome::Exited(0))),
            (WaitStatus::Exited(pid, 255), Some(Outcome::Exited(255))),
            (WaitStatus::Signaled(pid, Signal::SIGKILL, false), Some(Outcome::Signaled(9))),
            (WaitStatus::Signaled(pid, Signal::SIGSEGV, true), Some(Outcome::Signaled(11))),
            (WaitStatus::Stopped(pid, Signal::SIGSTOP), None),
            (WaitStatus::Continued(pid), None),
            (WaitStatus::StillAlive, None),
        ];
        for (status, outcome) in table {
            assert_eq!(Outcome::from_status(status), outcome, "{status:?}");
        }
        let table = [
            (0, Some(Outcome::Exited(0))),
            (0x0300, Some(Outcome::Exited(3))),
            (0xff00, Some(Outcome::Exited(255))),
            (9, Some(Outcome::Signaled(9))),
            // With the flag for a core dump; a real-time signal.
            (11 | 0x80, Some(Outcome::Signaled(11))),
            (34, Some(Outcome::Signaled(34))),
            // Stopped, continued.
            (0x137f, None),
            (0xffff, None),
        ];
        for (status, outcome) in table {
            assert_eq!(Outcome::from_wait(status), outcome, "{status:#x}");
        }
        assert_eq!(Outcome::Signaled(34).to_string(), "signal 34");
        assert_eq!(Outcome::Signaled(9).to_string(), "signal 9 (SIGKILL)");
    }
}
