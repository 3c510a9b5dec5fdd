//! How a process ended, as a pure function of its wait status.

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It returned this code, 0 to 255.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
}

impl Outcome {
    /// The outcome in the number that wait(2) reports, real-time signals included; stopped and continued
    /// processes have none yet.
    pub fn from_wait(status: i32) -> Option<Self> {
        if libc::WIFEXITED(status) {
            Some(Outcome::Exited(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(Outcome::Signaled(libc::WTERMSIG(status)))
        } else {
            None
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
    use super::*;

    #[test]
    fn statuses_become_outcomes() {
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
