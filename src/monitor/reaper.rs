//! The one place that starts and waits.
//!
//! All signals that matter are blocked before the launcher is started and then taken one after the other, so that neither
//! its end nor a request to stop can come too early. There is no thread and no handler.
#![allow(unsafe_code, reason = "signals, and what a child does between fork and exec")]

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{Pid, getpid, getppid};

use crate::process::Outcome;

/// Signals that are passed on to the launcher, as SIGTERM (contract/lifecycle.md 7.2).
const TERMINATION: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT];

/// What the loop reports while the launcher runs.
#[derive(Debug)]
pub enum Event {
    /// A termination signal was passed on to the launcher.
    PassedOn(Signal),
    /// It could not be passed on.
    NotPassedOn(Signal, Errno),
    /// It came while there was no launcher; it is passed to the next one.
    Kept(Signal),
}

/// Owner of every child of this process.
pub struct Reaper {
    awaited: SigSet,
    found_mask: SigSet,
}

impl Reaper {
    /// Blocks the signals. From now on none is lost. Outside a PID namespace of its own the process becomes a child
    /// subreaper, so that orphans come to it all the same.
    pub fn new() -> io::Result<Self> {
        let mut awaited = SigSet::from_iter(TERMINATION);
        awaited.add(Signal::SIGCHLD);
        let mut found_mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&awaited), Some(&mut found_mask))?;
        // The parent may have ignored it; then the kernel would discard exit statuses.
        set_disposition_of_children(SigHandler::SigDfl)?;
        if getpid() != Pid::from_raw(1) {
            prctl::set_child_subreaper(true)?;
        }
        Ok(Reaper { awaited, found_mask })
    }

    /// Starts the launcher: standard input empty, signal mask as we found it, a process group of its own (what a
    /// terminal sends then reaches it once, through us), SIGTERM if we die (where no PID namespace ends it with us).
    /// `environment` is added to our own.
    pub fn start(&self, program: &Path, arguments: &[OsString], environment: &[(&str, String)]) -> io::Result<Pid> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).process_group(0);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mask = self.found_mask;
        let us = getpid();
        let prepare = move || {
            prctl::set_pdeathsig(Signal::SIGTERM)?;
            // We may have died before the line above.
            if getppid() != us {
                return Err(io::Error::from(Errno::ESRCH));
            }
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
            Ok(())
        };
        // SAFETY: `prepare` makes system calls only.
        unsafe { command.pre_exec(prepare) };
        let child = command.spawn()?;
        // `Child` neither waits nor kills when it is dropped; `run` collects the process.
        Ok(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))
    }

    /// Reaps everything and passes termination signals on, until the launcher has ended.
    pub fn run(&self, launcher: Pid, mut told: impl FnMut(Event)) -> Outcome {
        loop {
            // Before the first signal is read: nothing depends on which signal woke us, nor on how many were merged.
            if let Some(outcome) = reap(Some(launcher)) {
                return outcome;
            }
            // sigwait(3) fails for an impossible mask only, and this one was good enough to be blocked.
            if let Ok(signal) = self.awaited.wait()
                && TERMINATION.contains(&signal)
            {
                // The launcher is not reaped yet, so that its number is still its own.
                told(match nix::sys::signal::kill(launcher, Signal::SIGTERM) {
                    Ok(()) => Event::PassedOn(signal),
                    Err(errno) => Event::NotPassedOn(signal, errno),
                });
            }
        }
    }

    /// Reaps everything for so long. Termination signals are passed on and end the pause: a launcher that is asked to stop has no time
    /// to lose.
    pub fn pause(&self, pause: Duration, mut told: impl FnMut(Event)) {
        let deadline = Instant::now() + pause;
        loop {
            let _ = reap(None);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let timeout = libc::timespec {
                tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            // SAFETY: the set and the time are valid; no information about the signal is asked for.
            let number = unsafe { libc::sigtimedwait(self.awaited.as_ref(), std::ptr::null_mut(), &raw const timeout) };
            if let Ok(signal) = Signal::try_from(number)
                && TERMINATION.contains(&signal)
            {
                return told(Event::Kept(signal));
            }
        }
    }

    /// The launcher's status is known; from now on the kernel itself discards whatever ends below us, at once, whether
    /// we look or not. Termination signals stay blocked: the end is under way already.
    pub fn discard_orphans(&self) -> io::Result<()> {
        set_disposition_of_children(SigHandler::SigIgn)?;
        // Those that ended before are still there.
        let _ = reap(None);
        Ok(())
    }
}

fn set_disposition_of_children(handler: SigHandler) -> io::Result<()> {
    // SAFETY: default and ignore run no code of ours.
    unsafe { nix::sys::signal::signal(Signal::SIGCHLD, handler) }?;
    Ok(())
}

/// Collects what has ended until nothing is left. Unknown processes are orphans and normal. Returns the outcome of
/// `awaited` if it was among them.
fn reap(awaited: Option<Pid>) -> Option<Outcome> {
    let mut outcome = None;
    loop {
        let mut status = 0;
        // Not nix's `waitpid`: it knows no outcome for a real-time signal and would lose the status.
        // SAFETY: `status` is a valid place for an int.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match pid {
            0 => return outcome,
            // ECHILD: no children at all, which is normal between the launcher's end and ours.
            -1 if Errno::last() == Errno::EINTR => {}
            -1 => return outcome,
            pid => {
                if awaited == Some(Pid::from_raw(pid)) {
                    outcome = Outcome::from_wait(status);
                }
            }
        }
    }
}
