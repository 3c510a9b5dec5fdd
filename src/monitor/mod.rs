//! PID 1: starts the launcher, reaps everything, outlives it, starts another one for a VM whose launcher has died, ends
//! what the previous launcher left behind (contract/lifecycle.md 2.2, 8.1, 8.4).
//!
//! There is one thread, one loop and no async runtime. Between the launcher's start and its end nothing can make the
//! monitor give up: if PID 1 ends, the guest ends.
#![allow(clippy::disallowed_methods, reason = "the monitor reads its own small files, on tmpfs or in the image")]
#![allow(unsafe_code, reason = "a system call that has no safe wrapper here")]

pub mod adoption;
mod aftermath;
mod dump;
mod exit;
mod flags;
mod istio;
mod reaper;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

pub use exit::Exit;

use crate::logging::{Level, Logger};
use crate::process::{
    self, Outcome, RestartPolicy, find_descendants_by_command_prefix, raise_ambient_net_bind_service,
    release_text_pages,
};
use adoption::{LaunchSupervisor, Remnants};
use aftermath::{Hypervisors, Programs};
use flags::{Asked, Flags};
use reaper::{Event, Reaper};

/// `component` of the monitor's log lines.
const COMPONENT: &str = "virt-launcher-monitor";
/// Where the launcher is in an image of KubeVirt's shape.
const LAUNCHER: &str = "/usr/bin/virt-launcher";
/// passt's log, if it writes one.
const PASST_LOG: &str = "/var/run/kubevirt/passt.log";
/// Where session-mode libvirt keeps the logs of its hypervisors.
const HYPERVISOR_LOGS: &str = "/run/kubevirt-private/libvirt/qemu/log";
/// How long a hypervisor may take to end after SIGTERM (contract/lifecycle.md 2.5).
const HYPERVISOR_PATIENCE: Duration = Duration::from_secs(10);
/// How long a daemon may take that outlived its launcher.
const DAEMON_PATIENCE: Duration = Duration::from_secs(1);

/// Runs the monitor with the words after the program's name.
pub fn run(words: Vec<OsString>) -> ExitCode {
    let exit = match flags::read(&words) {
        Asked::Run(flags) => supervise(&flags, flags::for_launcher(words)),
        Asked::Help => {
            // Not `print!`, which panics on a pipe without a reader.
            let _ = io::stdout().write_all(flags::USAGE.as_bytes());
            Exit::Help
        }
        Asked::Wrong(why) => {
            let text = format!("{}{COMPONENT}: {why}\n", flags::USAGE);
            let _ = io::stderr().write_all(text.as_bytes());
            Exit::Flags
        }
    };
    ExitCode::from(exit.code())
}

fn supervise(flags: &Flags, arguments: Vec<OsString>) -> Exit {
    close_inherited_descriptors();
    let log = Logger::new(COMPONENT, flags.verbosity);
    let exit = match start_and_wait(&log, flags, &arguments) {
        Ok(outcome) => after_launcher(&log, flags, outcome),
        Err(error) => {
            log.error("cannot start virt-launcher", &error);
            Exit::NotStarted
        }
    };
    istio::quit(&log, &istio::Istio::default());
    aftermath::remove_sockets(&log, &flags.container_disk_dir);
    if flags.keep_after_failure && exit.code() != 0 {
        log.info("keeping virt-launcher container alive since --keep-after-failure is set to true");
        stay();
    }
    if exit.is_monitors_failure() {
        log.error("monitoring virt-launcher failed", &format!("{exit:?}"));
    } else {
        log.info("virt-launcher-monitor: Exiting...");
    }
    exit
}

/// The parent may have left some open; PID 1 would hold them for the pod's whole life.
fn close_inherited_descriptors() {
    let first: libc::c_uint = 3;
    // SAFETY: nothing of ours is open yet but the standard streams. A kernel without the call leaves them open.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}

fn start_and_wait(log: &Logger, flags: &Flags, arguments: &[OsString]) -> io::Result<Outcome> {
    let reaper = Reaper::new()?;
    if let Err(error) = raise_ambient_net_bind_service() {
        log.warning(&format!("virt-launcher starts without CAP_NET_BIND_SERVICE: {error}"));
    }
    let program = launcher_path();
    let policy = RestartPolicy { limit: flags.adopt_limit.or(adoption::POLICY.limit), ..adoption::POLICY };
    let mut launches = LaunchSupervisor::new(policy);
    let mut terminating: Option<Instant> = None;
    let mut tell = |event| {
        terminating.get_or_insert_with(Instant::now);
        match event {
            Event::PassedOn(signal) => log.info(&format!("received {signal}, signalled virt-launcher to shut down")),
            Event::NotPassedOn(signal, errno) => {
                log.error(&format!("received {signal} but can't signal virt-launcher to shut down"), &errno);
            }
            Event::Kept(signal) => log.info(&format!("received {signal}, the next virt-launcher is to shut down")),
        }
        terminating
    };
    let mut since = None;
    let mut outcome = None;
    loop {
        let mut environment = Vec::new();
        if launches.attempt() > 0 {
            environment.push((process::adoption::ATTEMPT, launches.attempt().to_string()));
        }
        if let Some(since) = since.map(|since: Instant| since.elapsed().as_millis()) {
            environment.push((process::adoption::TERMINATING_FOR, since.to_string()));
        }
        let started = Instant::now();
        let ended = match reaper.start(&program, arguments, &environment) {
            Ok(launcher) => {
                release_text_pages();
                reaper.run(launcher, |event| since = tell(event))
            }
            // A machine that is out of something recovers; the VM runs on meanwhile.
            Err(error) => match outcome {
                Some(last) => {
                    log.error("cannot start another virt-launcher", &error);
                    last
                }
                None => return Err(io::Error::new(error.kind(), format!("{}: {error}", program.display()))),
            },
        };
        outcome = Some(ended);
        let left = || Remnants { hypervisor: hypervisor_lives(log, flags), begun: has_begun(&flags.uid) };
        if flags.no_adopt || !launches.is_unfinished(ended, &left()) {
            break;
        }
        let Some(pause) = launches.next(started.elapsed()) else {
            log.error("virt-launcher dies again and again, ending its VM", &ended);
            break;
        };
        log.record(Level::Warning, "virt-launcher died and its VM needs one, starting another virt-launcher")
            .field("reason", ended.to_string())
            .field("attempt", launches.attempt().to_string())
            .write();
        reaper.pause(pause, |event| since = tell(event));
    }
    if let Err(error) = reaper.discard_orphans() {
        log.warning(&format!("orphans of the launcher stay zombies until the end: {error}"));
    }
    outcome.ok_or_else(|| io::Error::other("no virt-launcher ran"))
}

/// Whether there is a VM that a new launcher could own.
fn hypervisor_lives(log: &Logger, flags: &Flags) -> bool {
    let programs = Programs::load(log, flags.hypervisor_catalogue.as_deref());
    !find_descendants_by_command_prefix(&programs.hypervisors, nix::unistd::getpid().as_raw()).is_empty()
}

/// Whether a launcher has begun to remember what the next one needs.
fn has_begun(uid: &str) -> bool {
    process::adoption::state_file(uid).is_some_and(|path| path.symlink_metadata().is_ok())
}

/// `virt-launcher` beside our own executable, so that a tree outside `/usr/bin` works; else the usual place. Its name is
/// what `comm` shows, so that it is never our own file by another name.
fn launcher_path() -> PathBuf {
    std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name("virt-launcher"))
        .filter(|sibling| sibling.exists())
        .unwrap_or_else(|| Path::new(LAUNCHER).to_owned())
}

/// What follows the launcher's end, in the contract's order.
fn after_launcher(log: &Logger, flags: &Flags, outcome: Outcome) -> Exit {
    let exit = Exit::of_launcher(outcome);
    if exit.code() != 0 {
        log_dirty_end(log, outcome);
    }
    dump::dump_logs(log, Path::new(PASST_LOG), Path::new(HYPERVISOR_LOGS));
    let own = nix::unistd::getpid().as_raw();
    let programs = Programs::load(log, flags.hypervisor_catalogue.as_deref());
    let hypervisors = aftermath::end_hypervisors(log, &programs.hypervisors, own, HYPERVISOR_PATIENCE);
    // After the hypervisors, whose last words they write down.
    aftermath::end_daemons(log, &programs.daemons, own, DAEMON_PATIENCE);
    match hypervisors {
        Hypervisors::Gone => exit,
        Hypervisors::Left => Exit::HypervisorLeft,
    }
}

/// KubeVirt's test reporter lets this line pass only with the original's `pos` (contract/lifecycle.md 5.4). The number
/// for a signal is the original's, too; which signal it was is ours.
fn log_dirty_end(log: &Logger, outcome: Outcome) {
    let number = match outcome {
        Outcome::Exited(code) => code,
        Outcome::Signaled(_) => -1,
    };
    log.record(Level::Error, &format!("dirty virt-launcher shutdown: exit-code {number}"))
        .field("pos", "virt-launcher-monitor.go:1")
        .field("reason", outcome.to_string())
        .write();
}

/// Until somebody kills us with SIGKILL.
fn stay() -> ! {
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
    loop {
        nix::unistd::pause();
    }
}
