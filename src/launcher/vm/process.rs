//! The hypervisor's process: found once through libvirt's pid file, then watched through a pidfd.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::state_file::{Restored, StateFile};
use crate::process::{Outcome, PidFd, adoption, find_by_command_prefix, identify, read_pid_file};

/// What is known of the hypervisor's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HypervisorProcess {
    /// Not seen yet.
    Unknown,
    /// Alive under this pid.
    Running(i32),
    /// It was alive and has ended.
    Gone,
    /// A signal has ended it that the launcher did not order: it has crashed, or was killed from outside.
    Killed,
}

impl HypervisorProcess {
    /// Whether it was alive and is no more.
    pub fn has_ended(&self) -> bool {
        matches!(self, HypervisorProcess::Gone | HypervisorProcess::Killed)
    }
}

/// Where a hypervisor's process is looked for.
#[derive(Debug, Clone)]
pub struct Search {
    /// libvirt's pid file, `<pidDir>/<domain>.pid` (contract/lifecycle.md 4.6).
    pub pid_file: PathBuf,
    /// Executable name prefixes from the catalogue, for a daemon that keeps its pid files elsewhere.
    pub command_prefixes: Vec<String>,
}

impl Search {
    /// The pid of the running hypervisor: from the pid file, else the one process whose executable's name fits.
    pub fn find(&self) -> Option<i32> {
        match read_pid_file(&self.pid_file) {
            Ok(pid) => Some(pid),
            Err(error) => {
                tracing::debug!("{error}");
                find_by_command_prefix(&self.command_prefixes, None).first().map(|found| found.pid)
            }
        }
    }
}

/// Publishes the process's life. `look` is cheap and may be called at every hint that there may be one now.
#[derive(Debug, Clone)]
pub struct Tracker {
    domain: String,
    search: Search,
    state: watch::Sender<HypervisorProcess>,
    end_is_expected: Arc<AtomicBool>,
    state_file: StateFile,
}

impl Tracker {
    /// A tracker that has not looked yet. `domain` is libvirt's name, for the log. A process that the previous
    /// launcher saw, and that has ended since, is gone: there will be no other.
    pub fn new(domain: String, search: Search, restored: &Restored) -> Self {
        let state = match restored.was_started() && !restored.hypervisor_lives {
            true => HypervisorProcess::Gone,
            false => HypervisorProcess::Unknown,
        };
        Tracker {
            domain,
            search,
            state: watch::Sender::new(state),
            end_is_expected: Arc::default(),
            state_file: restored.file.clone(),
        }
    }

    /// The process's state and its changes.
    pub fn subscribe(&self) -> watch::Receiver<HypervisorProcess> {
        self.state.subscribe()
    }

    /// The pid while the process lives.
    pub fn pid(&self) -> Option<i32> {
        match *self.state.borrow() {
            HypervisorProcess::Running(pid) => Some(pid),
            HypervisorProcess::Unknown | HypervisorProcess::Gone | HypervisorProcess::Killed => None,
        }
    }

    /// Whether a process was seen, by this launcher or by a previous one.
    pub fn was_seen(&self) -> bool {
        *self.state.borrow() != HypervisorProcess::Unknown || self.state_file.state().process.is_some()
    }

    /// Whether the process was seen and is no more.
    pub fn has_ended(&self) -> bool {
        self.state.borrow().has_ended()
    }

    /// From now on its end is expected: libvirt was asked to end it, and may do so by a signal.
    pub fn expect_end(&self) {
        self.end_is_expected.store(true, Ordering::Relaxed);
    }

    /// The expected end did not come: from now on an end is unexpected again.
    pub fn expect_no_end(&self) {
        self.end_is_expected.store(false, Ordering::Relaxed);
    }

    /// Kills what a launcher or a daemon that died in the middle of a start may have left: a hypervisor that libvirt does not know, since
    /// this is called when libvirt knows of none that runs. It never ran its guest: libvirt lets it go on as its last step.
    pub fn end_strays(&self) {
        // Hypervisors are re-parented to the monitor; other processes are left alone.
        let Some(monitor) = adoption::monitor() else { return };
        if self.was_seen() {
            return;
        }
        for stray in find_by_command_prefix(&self.search.command_prefixes, Some(monitor)) {
            tracing::warn!("ending {} with pid {}, which libvirt does not know", stray.name, stray.pid);
            let killed = PidFd::open(stray.pid).and_then(|process| process.signal(Signal::SIGKILL));
            if let Err(error) = killed {
                tracing::warn!("cannot end it: {error}");
            }
        }
    }

    /// Notices the end of a process that the previous launcher saw and that was gone before this one found it.
    pub fn note_end(&self) {
        self.state.send_if_modified(|state| {
            let ended = *state == HypervisorProcess::Unknown && self.state_file.state().hypervisor_ended();
            if ended {
                *state = HypervisorProcess::Gone;
            }
            ended
        });
    }

    /// Looks for the process unless it is known. Returns whether it is known now.
    pub fn look(&self) -> bool {
        if *self.state.borrow() != HypervisorProcess::Unknown {
            return true;
        }
        let Some(pid) = self.search.find() else { return false };
        let pidfd = match PidFd::open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) => {
                tracing::warn!("{error}");
                return false;
            }
        };
        let claimed = self.state.send_if_modified(|state| {
            let first = *state == HypervisorProcess::Unknown;
            if first {
                *state = HypervisorProcess::Running(pid);
            }
            first
        });
        if claimed {
            // Tests of the original wait for this line (contract/lifecycle.md 5.4).
            tracing::info!("Found PID for {}: {pid}", self.domain);
            // Held by the pidfd, so that the number is still its own; if it has ended, its start time cannot be read any more.
            if let Some(process) = identify(pid) {
                self.state_file.change(|state| state.process = Some(process));
            }
            let (state, expected) = (self.state.clone(), Arc::clone(&self.end_is_expected));
            tokio::spawn(async move {
                let ended = match pidfd.exited().await {
                    Ok(Some(outcome @ Outcome::Signaled(_))) if !expected.load(Ordering::Relaxed) => {
                        tracing::error!(reason = %outcome, "the hypervisor was ended from outside, or has crashed");
                        HypervisorProcess::Killed
                    }
                    Ok(_) => HypervisorProcess::Gone,
                    Err(error) => {
                        tracing::error!(reason = %error, "cannot watch the hypervisor with pid {pid}");
                        HypervisorProcess::Gone
                    }
                };
                state.send_replace(ended);
            });
        }
        true
    }
}

/// The pid file of a domain.
pub fn pid_file(pid_dir: &Path, domain: &str) -> PathBuf {
    pid_dir.join(format!("{domain}.pid"))
}
