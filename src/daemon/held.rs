//! A daemon that runs: a child of this launcher, or one that a previous launcher started and that PID 1 is the parent of
//! now.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use procfs::process::ProcState;
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};

use crate::hypervisor::DaemonSpec;
use crate::process::{Outcome, PidFd, ProcessError, ProcessId, find_by_command_prefix, identify};

/// The process of a daemon.
#[derive(Debug)]
pub(super) enum Held {
    /// Our child.
    Child(Box<Child>),
    /// Somebody else's.
    Adopted(ProcessId),
}

/// How it ended; none where only its parent knows.
pub(super) type End = Option<Outcome>;

impl Held {
    /// The daemon that a previous launcher left to `parent`, if it runs. Of several the youngest has the socket; the others are
    /// strays, and ended.
    pub(super) fn left_behind(spec: &DaemonSpec, parent: i32) -> Option<Self> {
        let found = find_by_command_prefix(&[&spec.name], Some(parent));
        let mut left: Vec<ProcessId> = found.into_iter().filter_map(|found| identify(found.pid)).collect();
        left.sort_by_key(|process| process.started);
        let youngest = left.pop()?;
        for stray in left {
            tracing::warn!("ending {} with pid {}: there is another, with pid {}", spec.name, stray.pid, youngest.pid);
            // One that has ended meanwhile need not be ended.
            let _ = open(&stray).map(|process| process.map(|process| process.signal(Signal::SIGKILL)));
        }
        Some(Held::Adopted(youngest))
    }

    /// Its number; 0 once it was waited for.
    pub(super) fn pid(&self) -> i32 {
        match self {
            Held::Child(child) => child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default(),
            Held::Adopted(process) => process.pid,
        }
    }

    /// Waits for its end. Cancel-safe.
    pub(super) async fn wait(&mut self) -> io::Result<End> {
        match self {
            Held::Child(child) => {
                let status = child.wait().await?;
                Ok(Some(match status.signal() {
                    Some(signal) => Outcome::Signaled(signal),
                    None => Outcome::Exited(status.code().unwrap_or_default()),
                }))
            }
            Held::Adopted(process) => match open(process)? {
                Some(process) => process.exited().await.map_err(|error| error.source),
                None => Ok(None),
            },
        }
    }

    /// Sends SIGKILL and waits for the end.
    pub(super) async fn kill(mut self) -> io::Result<()> {
        match &mut self {
            Held::Child(child) => child.start_kill()?,
            Held::Adopted(process) => match open(process)?.map(|process| process.signal(Signal::SIGKILL)) {
                Some(Err(error)) if !is_gone(&error) => return Err(error.source),
                Some(_) | None => {}
            },
        }
        self.wait().await.map(drop)
    }

    /// Returns once a signal has stopped it for so long; never where there is no such limit. The kernel reports a stop
    /// only to the parent; another's child is looked at.
    pub(super) async fn stays_stopped(pid: i32, adopted: bool, limit: Option<Duration>) {
        let (Some(limit), Ok(mut changes)) = (limit, signal(SignalKind::child())) else {
            return std::future::pending().await;
        };
        loop {
            if is_stopped(pid) {
                tokio::time::sleep(limit).await;
                if is_stopped(pid) {
                    return;
                }
            }
            if adopted {
                tokio::time::sleep(limit).await;
            } else if changes.recv().await.is_none() {
                return std::future::pending().await;
            }
        }
    }

    pub(super) fn is_adopted(&self) -> bool {
        matches!(self, Held::Adopted(_))
    }
}

/// A hold on the process; none if it has ended, even if its number is in use again.
fn open(process: &ProcessId) -> io::Result<Option<PidFd>> {
    match PidFd::open(process.pid) {
        Ok(held) => Ok((identify(process.pid) == Some(*process)).then_some(held)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error.source),
    }
}

fn is_gone(error: &ProcessError) -> bool {
    error.source.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// What cannot be seen is not stopped: its end is noticed otherwise.
fn is_stopped(pid: i32) -> bool {
    procfs::process::Process::new(pid)
        .and_then(|process| process.stat())
        .and_then(|stat| stat.state())
        .is_ok_and(|state| state == ProcState::Stopped)
}
