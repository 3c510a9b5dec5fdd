//! The second phase: the daemons are started, and their logs and the hypervisor's are forwarded.

use std::path::Path;
use std::time::Duration;

use super::error::StartError;
use super::resolved::{Resolved, private_directory};
use crate::daemon::logs::{FirmwareLog, LibvirtLog, LinesPerSecond, Mark, QemuLog, Sink};
use crate::daemon::{self, Settings, Supervisor};
use crate::files::{Folder, Watcher, split};
use crate::hypervisor::{Environment, LibvirtWrapper, LogFilters, log_filters};
use crate::launcher::config::Config;
use crate::logging;
use crate::process::adoption;

/// QEMU writes its firmware's debug port there (contract/lifecycle.md 4.5).
const FIRMWARE_LOG: &str = "/var/run/kubevirt-private/QEMUSeaBiosDebugPipe";

/// How long virtlogd may be stopped by a signal; libvirt talks to it only at the start of a VM.
const VIRTLOGD_HALTED: Duration = Duration::from_secs(2);

/// How far the hypervisor's log was forwarded, in the VM's private directory.
const LOG_MARK: &str = "launcher-log-mark";

/// The launcher with its daemons; the command server does not answer yet.
pub(super) struct Daemons {
    pub(super) resolved: Resolved,
    pub(super) watcher: Watcher,
    pub(super) running: RunningDaemons,
}

/// The daemons that the VM needs, and the logs that are forwarded.
pub(crate) struct RunningDaemons {
    pub(super) hypervisor_daemon: Supervisor,
    pub(super) virtlogd: Option<Supervisor>,
    logs: Logs,
}

impl Resolved {
    pub(super) fn start_daemons(self) -> Result<Daemons, StartError> {
        let (config, runtime) = (&self.config, &self.runtime);
        daemon::write_files(&runtime.setup_libvirt(filters(config).as_deref(), &environment(config)))?;
        if let Some((known, real)) = runtime.other_socket() {
            // What is there already, another one's socket too, stays.
            link_socket(known, real).unwrap_or_else(|error| tracing::warn!("no link {}: {error}", known.display()));
        }
        let watcher = Watcher::new();
        let sink = Sink::log();
        let libvirt_log = LibvirtLog { verbosity: logging::verbosity(config.verbosity).0, sink: sink.clone() };
        let settings = Settings { restart: runtime.daemon_restart().into(), ..Settings::default() };
        let hypervisor_daemon = Supervisor::start(
            runtime.start_hypervisor_daemon((self.qemu.uid, self.qemu.gid)),
            settings,
            &watcher,
            libvirt_log.clone(),
        );
        // A pipe without a reader shows only by its full kernel buffer; then a guest that writes to its console blocks.
        let settings = Settings {
            halted: Some(VIRTLOGD_HALTED),
            orphans_of: config.environment.adoption.and_then(|_| adoption::monitor()),
            ..settings
        };
        let virtlogd = runtime.start_virtlog().map(|spec| Supervisor::start(spec, settings, &watcher, libvirt_log));
        let domain_log = runtime.domain_log(&self.domain());
        let logs = Logs::follow(domain_log.as_deref(), &watcher, sink, log_mark(config, self.adopts()));
        let running = RunningDaemons { hypervisor_daemon, virtlogd, logs };
        Ok(Daemons { resolved: self, watcher, running })
    }
}

impl RunningDaemons {
    /// Ends them at the end of the VM; the last lines of the logs may take so long to forward.
    pub(crate) async fn stop(self, within: Duration) {
        self.hypervisor_daemon.stop().await;
        if let Some(virtlogd) = self.virtlogd {
            virtlogd.stop().await;
        }
        // After virtlogd, which has written its last line by now.
        self.logs.stop(within).await;
    }

    /// The way down of a start that failed or a launcher that crashed. virtlogd is left to the next launcher, whose VM may write its logs through it, or to
    /// PID 1.
    pub(crate) async fn abandon(self, within: Duration) {
        self.hypervisor_daemon.stop().await;
        self.logs.stop(within).await;
    }
}

/// Lets the daemon be found where others look for the modular one whose place it takes: virt-handler's migration proxy, which connects
/// the source's daemon to the target's (contract/migration.md 3.1), and people with virsh. virt-handler comes from outside, so the
/// link has no absolute path.
fn link_socket(known: &Path, real: &Path) -> std::io::Result<()> {
    let (folder, name) = split(known)?;
    let target = if real.parent() == Some(folder) { real.file_name().map_or(real, Path::new) } else { real };
    match Folder::open(folder)?.link(name, target) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    }
}

/// Logs that are followed while this lives.
struct Logs {
    qemu: Option<QemuLog>,
    firmware: Option<FirmwareLog>,
}

impl Logs {
    fn follow(domain_log: Option<&Path>, watcher: &Watcher, sink: Sink, mark: Option<Mark>) -> Self {
        let rate = LinesPerSecond::default();
        Logs {
            qemu: domain_log.map(|path| QemuLog::follow(path, watcher, rate, sink.clone(), mark)),
            firmware: FirmwareLog::open(Path::new(FIRMWARE_LOG), rate, sink)
                .inspect_err(|error| tracing::warn!("no firmware log: {error}"))
                .ok(),
        }
    }

    /// Forwards what was written to the end: a hypervisor's last lines are the ones that are asked for.
    async fn stop(self, within: Duration) {
        let forwarded = tokio::time::timeout(within, async {
            if let Some(log) = self.qemu {
                log.stop().await;
            }
            if let Some(log) = self.firmware {
                log.stop().await;
            }
        });
        if forwarded.await.is_err() {
            tracing::warn!("the last lines of the hypervisor's log are missing here: they took too long to read");
        }
    }
}

/// How far the hypervisor's log was forwarded by the previous launcher.
fn log_mark(config: &Config, adopts: bool) -> Option<Mark> {
    Folder::open(&private_directory(config))
        .and_then(|folder| Mark::open(&folder, LOG_MARK, adopts))
        .inspect_err(|error| tracing::warn!(reason = %error, "the next launcher will forward logs again"))
        .ok()
}

fn filters(config: &Config) -> Option<String> {
    let verbosity = config.environment.log_verbosity.map(|verbosity| verbosity.to_string());
    log_filters(LogFilters {
        flag: config.libvirt_log_filters.as_deref().unwrap_or_default(),
        verbosity: verbosity.as_deref(),
        debug_logs: config.environment.libvirt_debug_logs,
    })
}

fn environment(config: &Config) -> Environment {
    Environment {
        hugepages: Path::new("/dev/hugepages").exists(),
        virtiofsd_debug: config.environment.virtiofsd_debug_logs,
        shared_filesystems: config.environment.shared_filesystem_paths.clone(),
    }
}
