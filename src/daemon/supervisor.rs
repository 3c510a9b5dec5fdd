//! A daemon that is kept running.
//!
//! ```text
//!        Waiting ── one of its devices is there ──► Starting, here and after each pause
//!
//!            ┌──────────── pause over ────────────┐
//!            ▼                                    │
//!        Starting ── socket accepts ──► Running   │
//!            │                             │      │
//!            └── ended, late, not started ─┴─► Backoff ── limit reached ──► Failed
//!
//!        Starting ── the executable cannot be run, first time ──► Failed
//!        any ── stop ──► Stopped
//! ```

use std::io;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::child;
use super::error::DaemonError;
use super::held::{End, Held};
use super::logs::{LibvirtLog, forward_libvirt};
use super::ready::{accepts, one_exists};
use crate::files::Watcher;
use crate::hypervisor::{DaemonRestart, DaemonSpec};
use crate::process::{Restart, RestartPolicy, chance};

/// What a daemon is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DaemonState {
    /// None of the devices exists without which it cannot run; it is started once one does.
    Waiting {
        /// Which ones.
        reason: String,
    },
    /// Started, or about to be; its socket does not accept connections yet.
    Starting {
        /// Counts the starts from 1.
        generation: u64,
    },
    /// Its socket accepted a connection.
    Running {
        /// Its process.
        pid: i32,
        /// Counts the starts from 1: a client of an earlier generation has lost its connection.
        generation: u64,
    },
    /// It ended, and waits for its next start.
    Backoff {
        /// How it ended.
        reason: String,
        /// From the end to the next start.
        pause: Duration,
    },
    /// It will not be started any more.
    Failed {
        /// Why.
        reason: String,
    },
    /// It was stopped, and has ended.
    Stopped,
}

/// How a daemon is looked after.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The pace of restarts.
    pub restart: RestartPolicy,
    /// From the start until its socket accepts connections; a daemon that takes longer hangs and is killed.
    pub ready: Duration,
    /// From SIGKILL until the process is gone; longer takes only one that is stuck in the kernel.
    pub stop: Duration,
    /// How long it may be stopped by a signal before it is killed and started anew. None: its clients find out, and say so
    /// through a [`Watchdog`].
    pub halted: Option<Duration>,
    /// Whose child a previous launcher's daemon became, if it outlives its launcher: PID 1.
    pub orphans_of: Option<i32>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            restart: DaemonRestart::default().into(),
            ready: Duration::from_secs(30),
            stop: Duration::from_secs(1),
            halted: None,
            orphans_of: None,
        }
    }
}

/// A supervised daemon. Dropping it kills the daemon without waiting for its end.
#[derive(Debug)]
pub struct Supervisor {
    name: String,
    state: watch::Receiver<DaemonState>,
    hangs: watch::Sender<u64>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// Starts the daemon and keeps it running. `log` receives the lines of its standard error if the spec says so.
    pub fn start(spec: DaemonSpec, settings: Settings, watcher: &Watcher, log: LibvirtLog) -> Self {
        let (publish, state) = watch::channel(DaemonState::Starting { generation: 1 });
        let (stop, stopped) = watch::channel(false);
        let name = spec.name.clone();
        let (hangs, hung) = watch::channel(0);
        let supervised = Task { spec, settings, watcher: watcher.clone(), log, publish, stopped, hung };
        let task = tokio::spawn(supervised.run());
        Supervisor { name, state, hangs, stop, task: Some(task) }
    }

    /// Its state and its changes.
    pub fn state(&self) -> watch::Receiver<DaemonState> {
        self.state.clone()
    }

    /// For a caller that has found that the daemon hangs.
    pub fn watchdog(&self) -> Watchdog {
        Watchdog { state: self.state.clone(), hangs: self.hangs.clone() }
    }

    /// Waits until the daemon runs, through restarts if need be; returns its pid and generation. Does not wait for devices.
    pub async fn ready(&self, within: Duration) -> Result<(i32, u64), DaemonError> {
        let mut state = self.state.clone();
        let settled = |state: &DaemonState| match state {
            DaemonState::Running { .. }
            | DaemonState::Waiting { .. }
            | DaemonState::Failed { .. }
            | DaemonState::Stopped => true,
            DaemonState::Starting { .. } | DaemonState::Backoff { .. } => false,
        };
        let unavailable = |reason| DaemonError::Unavailable { name: self.name.clone(), reason };
        let last = match tokio::time::timeout(within, state.wait_for(settled)).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) | Err(_) => self.state.borrow().clone(),
        };
        match last {
            DaemonState::Running { pid, generation } => Ok((pid, generation)),
            DaemonState::Waiting { reason } => Err(DaemonError::Waiting { reason }),
            // The reason says who and what already.
            DaemonState::Failed { reason } => Err(unavailable(reason)),
            DaemonState::Backoff { reason, .. } => Err(unavailable(format!("{reason}; gave it {within:?}"))),
            DaemonState::Starting { .. } => Err(unavailable(format!("still starting after {within:?}"))),
            DaemonState::Stopped => Err(unavailable("it was stopped".into())),
        }
    }

    /// Kills the daemon and waits for its end, at most the settings' `stop`.
    ///
    /// SIGKILL as in contract/lifecycle.md 8.3: the hypervisor is not a child of the daemon and does not notice, and a daemon that
    /// shuts down in an orderly way might see to its VMs itself.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

/// What a client of the daemon sees of it, and can do: end one that runs and does not answer, so that it is started again,
/// since one that was stopped (SIGSTOP) or is stuck shows nothing of it to the kernel.
#[derive(Debug, Clone)]
pub struct Watchdog {
    state: watch::Receiver<DaemonState>,
    hangs: watch::Sender<u64>,
}

impl Watchdog {
    /// The daemon's generation while it is said to run.
    pub fn running(&self) -> Option<u64> {
        match *self.state.borrow() {
            DaemonState::Running { generation, .. } => Some(generation),
            DaemonState::Waiting { .. }
            | DaemonState::Starting { .. }
            | DaemonState::Backoff { .. }
            | DaemonState::Failed { .. }
            | DaemonState::Stopped => None,
        }
    }

    /// What the daemon would need before it is even started, if that is missing.
    pub fn waits_for(&self) -> Option<String> {
        match &*self.state.borrow() {
            DaemonState::Waiting { reason } => Some(reason.clone()),
            DaemonState::Starting { .. }
            | DaemonState::Running { .. }
            | DaemonState::Backoff { .. }
            | DaemonState::Failed { .. }
            | DaemonState::Stopped => None,
        }
    }

    /// Kills this generation of the daemon, if it is still there.
    pub fn hangs(&self, generation: u64) {
        self.hangs.send_replace(generation);
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Task {
    spec: DaemonSpec,
    settings: Settings,
    watcher: Watcher,
    log: LibvirtLog,
    publish: watch::Sender<DaemonState>,
    stopped: watch::Receiver<bool>,
    /// The generation that was found to hang.
    hung: watch::Receiver<u64>,
}

/// Waits for [`Supervisor::stop`]. A supervisor that was dropped sends nothing: its task is aborted, and a daemon that
/// outlives its launcher is left alone.
async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    if stopped.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// How one generation ended.
enum Ended {
    /// By request.
    Stopped,
    /// By itself, after it had been ready for so long.
    Failed(DaemonError, Duration),
}

impl Task {
    async fn run(mut self) {
        let mut failures = 0;
        // Those since it last came as far as a socket.
        let mut failed_starts = 0_u32;
        let mut generation = 0;
        loop {
            if self.is_stopped_before_a_device_is_there().await {
                break;
            }
            generation += 1;
            self.publish.send_replace(DaemonState::Starting { generation });
            let (error, ready_for) = match self.generation(generation).await {
                Ended::Stopped => break,
                Ended::Failed(error, ready_for) => (error, ready_for),
            };
            let reason = error.to_string();
            failures = self.settings.restart.count(failures, ready_for);
            failed_starts = if ready_for.is_zero() { failed_starts.saturating_add(1) } else { 0 };
            let policy = self.settings.restart;
            let next = match generation {
                1 if error.is_lasting() => Restart::GiveUp,
                _ if policy.limit.is_some_and(|limit| failed_starts >= limit) => Restart::GiveUp,
                _ => RestartPolicy { limit: None, ..policy }.next(failures, chance()),
            };
            let name = &self.spec.name;
            let Restart::After(pause) = next else {
                tracing::error!(reason, "{name} failed");
                self.publish.send_replace(DaemonState::Failed { reason });
                return;
            };
            // The original's words, which tests look for (contract/lifecycle.md 5.4).
            tracing::warn!(reason, pause = ?pause, failures, "{name} exited, restarting");
            self.publish.send_replace(DaemonState::Backoff { reason, pause });
            if tokio::time::timeout(pause, told_to_stop(&mut self.stopped)).await.is_ok() {
                break;
            }
        }
        self.publish.send_replace(DaemonState::Stopped);
    }

    /// Waits for one of the devices that the daemon needs; true if a stop was ordered before.
    async fn is_stopped_before_a_device_is_there(&mut self) -> bool {
        let devices = &self.spec.needs_one_of;
        if devices.is_empty() || devices.iter().any(|device| device.exists()) {
            return false;
        }
        let missing: Vec<String> = devices.iter().map(|device| device.display().to_string()).collect();
        let reason = format!("there is no {}, and {} does not start without", missing.join(", no "), self.spec.name);
        tracing::warn!("{reason}: waiting for it");
        self.publish.send_replace(DaemonState::Waiting { reason });
        tokio::select! {
            biased;
            () = told_to_stop(&mut self.stopped) => true,
            () = one_exists(devices, &self.watcher) => false,
        }
    }

    /// One life of the daemon, from start to end.
    async fn generation(&mut self, generation: u64) -> Ended {
        let begun = Instant::now();
        let orphan = self.settings.orphans_of.filter(|_| generation == 1 && self.spec.outlives_launcher);
        let left = orphan.and_then(|parent| Held::left_behind(&self.spec, parent));
        if left.is_none() {
            self.remove_stale_socket();
        }
        let mut watch = self.watcher.path(&self.spec.socket);
        let mut child = match left {
            Some(left) => left,
            None => match self.spawn().await {
                Ok(child) => child,
                Err(source) => return Ended::Failed(self.cannot_start(source), Duration::ZERO),
            },
        };
        let (pid, adopted) = (child.pid(), child.is_adopted());

        let mut last = None;
        let within = self.settings.ready;
        tokio::select! {
            biased;
            () = told_to_stop(&mut self.stopped) => return self.kill(child).await,
            status = child.wait() => return Ended::Failed(self.ended(pid, status), Duration::ZERO),
            () = Held::stays_stopped(pid, adopted, self.settings.halted) => {
                let error = DaemonError::Halted { name: self.spec.name.clone(), pid };
                return self.give_up(child, error, Duration::ZERO).await;
            }
            ready = tokio::time::timeout(within, accepts(&self.spec.socket, &mut watch, &mut last)) => {
                if ready.is_err() {
                    let (name, socket) = (self.spec.name.clone(), self.spec.socket.clone());
                    let error = DaemonError::NotReady { name, socket, within, source: last };
                    return self.give_up(child, error, Duration::ZERO).await;
                }
            }
        }
        drop(watch);

        let ready = Instant::now();
        let whose = if adopted { ", which a previous launcher started," } else { "" };
        tracing::info!("{} with pid {pid}{whose} is ready after {} ms", self.spec.name, begun.elapsed().as_millis());
        self.publish.send_replace(DaemonState::Running { pid, generation });
        let hangs = async {
            // Without anybody who could find out, it never does.
            if self.hung.wait_for(|hung| *hung == generation).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let name = self.spec.name.clone();
        tokio::select! {
            biased;
            () = told_to_stop(&mut self.stopped) => self.kill(child).await,
            status = child.wait() => Ended::Failed(self.ended(pid, status), ready.elapsed()),
            () = hangs => self.give_up(child, DaemonError::Hung { name, pid }, ready.elapsed()).await,
            () = Held::stays_stopped(pid, adopted, self.settings.halted) => {
                self.give_up(child, DaemonError::Halted { name, pid }, ready.elapsed()).await
            }
        }
    }

    async fn spawn(&self) -> io::Result<Held> {
        let mut child = child::spawn(&self.spec).await?;
        if let Some(stderr) = child.stderr.take() {
            // Ends by itself: when the daemon and all heirs of its standard error have closed it.
            tokio::spawn(forward_libvirt(stderr, self.log.clone()));
        }
        Ok(Held::Child(Box::new(child)))
    }

    /// What an earlier generation, or a previous launcher's daemon, left behind would only refuse connections.
    fn remove_stale_socket(&self) {
        let socket = &self.spec.socket;
        match std::fs::remove_file(socket) {
            Ok(()) => tracing::info!(v = 3, "removed the stale socket {}", socket.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(reason = %error, "cannot remove the stale socket {}", socket.display());
            }
        }
    }

    /// Ends a daemon that is of no use any more.
    async fn give_up(&self, child: Held, error: DaemonError, ready_for: Duration) -> Ended {
        self.kill(child).await;
        Ended::Failed(error, ready_for)
    }

    async fn kill(&self, child: Held) -> Ended {
        let name = &self.spec.name;
        match tokio::time::timeout(self.settings.stop, child.kill()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(reason = %error, "cannot kill {name}"),
            Err(_) => tracing::warn!("{name} is still there {:?} after SIGKILL", self.settings.stop),
        }
        Ended::Stopped
    }

    fn cannot_start(&self, source: io::Error) -> DaemonError {
        DaemonError::CannotStart {
            name: self.spec.name.clone(),
            field: self.spec.field,
            program: self.spec.program.clone(),
            source,
        }
    }

    fn ended(&self, pid: i32, end: io::Result<End>) -> DaemonError {
        let name = self.spec.name.clone();
        match end {
            Ok(Some(outcome)) => DaemonError::Ended { name, pid, outcome },
            Ok(None) => DaemonError::Vanished { name, pid },
            Err(source) => DaemonError::CannotWait { name, pid, source },
        }
    }
}
