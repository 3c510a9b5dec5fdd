//! Starts a daemon, keeps it running, publishes its state.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::libvirt_log::forward_libvirt_log;
use super::restart::{RestartPolicy, Restarts};
use crate::hypervisor::DaemonSpec;
use crate::process::{Appearance, raise_ambient_net_bind_service};

/// What a daemon is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonState {
    /// Started, its socket does not answer yet.
    Starting {
        /// Its process.
        pid: u32,
    },
    /// Its socket answers.
    Running {
        /// Its process.
        pid: u32,
        /// Counts starts from 1.
        generation: u64,
    },
    /// It ended and will be started again.
    Waiting,
    /// It will not be started again.
    Failed {
        /// Why, for a person.
        reason: String,
    },
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// For a started daemon's socket.
    pub ready: Duration,
    /// Between looks at a socket file that exists but does not answer yet, where no event tells.
    pub look_again: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Timings { ready: Duration::from_secs(15), look_again: Duration::from_millis(10) }
    }
}

/// A daemon under supervision; it is killed when this is dropped.
#[derive(Debug)]
pub struct Supervisor {
    state: watch::Receiver<DaemonState>,
    task: JoinHandle<()>,
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        // The child is killed with its task (contract/lifecycle.md 4.3: SIGKILL at the end).
        self.task.abort();
    }
}

impl Supervisor {
    /// Starts the daemon. Must be called from a thread that lives as long as the launcher: the kernel ends the daemon
    /// when the thread that started it ends, which is what makes an orphaned daemon impossible.
    pub fn start(spec: DaemonSpec, policy: RestartPolicy, timings: Timings, verbosity: i32) -> Supervisor {
        let (sender, state) = watch::channel(DaemonState::Waiting);
        let task = tokio::spawn(supervise(spec, policy, timings, verbosity, sender));
        Supervisor { state, task }
    }

    /// The daemon's state and its changes.
    pub fn state(&self) -> watch::Receiver<DaemonState> {
        self.state.clone()
    }
}

async fn supervise(
    spec: DaemonSpec,
    policy: RestartPolicy,
    timings: Timings,
    verbosity: i32,
    state: watch::Sender<DaemonState>,
) {
    let mut restarts = Restarts::default();
    for generation in 1.. {
        let started = Instant::now();
        let ended = run_once(&spec, timings, verbosity, generation, &state).await;
        match &ended {
            Ok(status) => tracing::error!("{} exited, restarting ({status})", spec.name),
            Err(error) => {
                tracing::error!(reason = %error, "{} cannot be started from {}", spec.name, spec.program.display())
            }
        }
        let Some(delay) = restarts.next(&policy, started.elapsed()) else {
            let why = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
            let reason = format!("{} ended {} times in a row, last: {why}", spec.name, policy.limit + 1);
            tracing::error!("{reason}");
            state.send_replace(DaemonState::Failed { reason });
            return;
        };
        state.send_replace(DaemonState::Waiting);
        tokio::time::sleep(delay).await;
    }
}

async fn run_once(
    spec: &DaemonSpec,
    timings: Timings,
    verbosity: i32,
    generation: u64,
    state: &watch::Sender<DaemonState>,
) -> io::Result<ExitStatus> {
    // Watched from before the start, so that the socket cannot appear unseen.
    let appearance = Appearance::of(&spec.socket);
    let mut child = spawn(spec)?;
    let pid = child.id().unwrap_or_default();
    state.send_replace(DaemonState::Starting { pid });
    if let Some(log) = child.stderr.take() {
        tokio::spawn(async move { forward_libvirt_log(tokio::io::BufReader::new(log), verbosity).await });
    }
    tokio::select! {
        status = child.wait() => return status,
        ready = tokio::time::timeout(timings.ready, answers(spec, appearance.ok(), timings.look_again)) => match ready {
            Ok(()) => {
                state.send_replace(DaemonState::Running { pid, generation });
            }
            Err(_) => tracing::error!(
                "{} does not answer on {} after {} s", spec.name, spec.socket.display(), timings.ready.as_secs()
            ),
        },
    }
    child.wait().await
}

/// Returns when the daemon's socket takes a connection. A left-over socket file refuses until the daemon has replaced it.
async fn answers(spec: &DaemonSpec, mut appearance: Option<Appearance>, look_again: Duration) {
    while UnixStream::connect(&spec.socket).await.is_err() {
        let told = match &mut appearance {
            Some(appearance) if !spec.socket.exists() => appearance.appeared().await.is_ok(),
            Some(_) | None => false,
        };
        if !told {
            // The file is there and listen(2) is not done yet, or the directory is not.
            tokio::time::sleep(look_again).await;
        }
    }
}

fn spawn(spec: &DaemonSpec) -> io::Result<Child> {
    let mut command = Command::new(&spec.program);
    command.args(&spec.args).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).kill_on_drop(true);
    command.stderr(if spec.forward_log { Stdio::piped() } else { Stdio::null() });
    let ambient = spec.ambient_net_bind_service;
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            if ambient {
                // Without the capability in the bounding set the daemon still works; only port forwarding below 1024
                // does not.
                let _ = raise_ambient_net_bind_service();
            }
            Ok(())
        });
    }
    command.spawn()
}
