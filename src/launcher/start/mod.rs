//! Start-up (contract/lifecycle.md 3). What does not depend on each other overlaps: the sockets are
//! made while the daemons start, the emulator is probed while virt-handler still prepares the pod.

pub mod directories;
pub mod error;
pub(crate) mod first_connection;
mod log_pipes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::cmd::{self, Action, Activity, Driver as _, SocketPaths, SyncRequest};
use crate::convert::SyncOptions;
use crate::daemon::logs::{FirmwareLog, LibvirtLog, LinesPerSecond, Mark, QemuLog, Sink};
use crate::daemon::{self, DaemonError, Settings, Supervisor};
use crate::files::{Folder, Watcher, is_component};
use crate::hooks::Hooks;
use crate::hypervisor::{
    Catalogue, DEFAULT_HYPERVISOR, Environment, Hypervisor, LibvirtWrapper, LogFilters, Remark, Runtime, VmSetup,
    host_architecture, log_filters,
};
use crate::launcher::config::{Adoption, Config};
use crate::launcher::driver::{Driver, DriverHandle};
use crate::launcher::guest::Guest;
use crate::launcher::publish::domain_log::DomainLog;
use crate::launcher::publish::publisher::{Cause, Publications, Publisher};
use crate::launcher::shutdown::lifecycle::Watched;
use crate::launcher::shutdown::watched::{failure, mark_for_shutdown, told, watch_signals};
use crate::launcher::sync::means::Boot;
use crate::launcher::timings::Timings;
use crate::launcher::vm::Vm;
use crate::launcher::vm::guest_clock::GuestClock;
use crate::launcher::vm::hotplug::Hotplug;
use crate::launcher::vm::identity::Identity;
use crate::launcher::vm::metadata::MetadataCache;
use crate::launcher::vm::milestones::Signs;
use crate::launcher::vm::paused::PausedSet;
use crate::launcher::vm::power_off::AskedAgent;
use crate::launcher::vm::process::{Search, Tracker, pid_file};
use crate::launcher::vm::state_file::SavedStore;
use crate::libvirt::Connection;
use crate::logging;
use crate::notify::Outbox;
use crate::process::{give_back_program_pages, handover};
use crate::storage::Owner;
use crate::vmi;
use crate::vmi::manifest::{Manifest, Options};
use directories::{Directories, DirectoryError};
use error::StartError;
use first_connection::FirstConnection;
use log_pipes::LogFiles;

/// QEMU writes its firmware's debug port there (contract/lifecycle.md 4.5).
const FIRMWARE_LOG: &str = "/var/run/kubevirt-private/QEMUSeaBiosDebugPipe";

/// How long virtlogd may be stopped by a signal; libvirt talks to it only at the start of a VM.
const VIRTLOGD_HALTED: Duration = Duration::from_secs(2);

/// How far the hypervisor's log was forwarded, in the VM's private directory.
const LOG_MARK: &str = "launcher-log-mark";

/// Each hook sidecar has a folder there.
const HOOKS: &str = "/var/run/kubevirt-hooks";
/// How long hook sidecars may take to answer to a launcher that takes over a VM which runs already.
const HOOKS_OF_ADOPTED: Duration = Duration::from_secs(5);

/// A launcher that serves its socket.
pub(super) struct Started {
    pub(super) config: Arc<Config>,
    pub(super) timings: Timings,
    pub(super) vm: Vm,
    pub(super) watched: Watched,
    pub(super) publications: Publications,
    pub(super) daemons: Vec<Supervisor>,
    pub(super) outbox: Outbox,
    pub(super) sockets: SocketPaths,
    pub(super) activity: Activity,
    /// A launcher before this one was answered by virt-handler.
    pub(super) virt_handler_was_heard: bool,
    pub(super) stop_server: oneshot::Sender<()>,
    pub(super) server: tokio::task::JoinHandle<()>,
    pub(super) logs: Logs,
    pub(super) hooks: Hooks,
}

/// Logs that are followed while this lives.
pub(super) struct Logs {
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
    pub(super) async fn stop(self) {
        if let Some(log) = self.qemu {
            log.stop().await;
        }
        if let Some(log) = self.firmware {
            log.stop().await;
        }
    }
}

impl Started {
    /// Brings everything up; the socket has its final name when this returns.
    pub(super) async fn start(config: Config, timings: Timings) -> Result<Self, StartError> {
        // First of all: a signal from now on is an orderly end.
        let adoption = config.environment.adoption;
        let signalled =
            watch_signals(adoption.and_then(|adoption| adoption.terminating_for)).map_err(StartError::Signals)?;
        let standalone = standalone(&config)?;
        let vmi = standalone.as_ref().map(|manifest| &manifest.vmi);
        let config = Arc::new(with_standalone(config, vmi)?);
        let catalogue = Catalogue::load(config.hypervisor_catalogue.as_deref())?;
        let (name, entry) = catalogue.get(config.hypervisor.as_deref().unwrap_or(DEFAULT_HYPERVISOR))?;
        let runtime = Runtime::resolve(name, entry, !config.run_as_nonroot, Path::exists)?;
        for remark in runtime.remarks() {
            match remark {
                Remark::OtherDaemon(text) => tracing::info!("{text}"),
                Remark::Contradiction(text) => tracing::warn!("hypervisor catalogue: {text}"),
            }
        }

        let qemu = make_directories(&config)?;
        if config.simulate_crash {
            return Err(StartError::SimulatedCrash);
        }
        let saved = SavedStore::open(&Path::new(directories::PRIVATE_DIR).join(&config.uid), adoption.is_some());
        if let Some(Adoption { attempt, .. }) = adoption {
            tracing::warn!(attempt, "taking over from a launcher that died");
        }
        let inherited = saved.state();
        daemon::write_files(&runtime.setup_libvirt(filters(&config).as_deref(), &environment(&config)))?;

        let watcher = Watcher::new();
        let sink = Sink::log();
        let libvirt_log = LibvirtLog { verbosity: logging::verbosity(config.verbosity).0, sink: sink.clone() };
        let settings = Settings { restart: runtime.daemon_restart().into(), ..Settings::default() };
        let hypervisor_daemon = Supervisor::start(
            runtime.start_hypervisor_daemon((qemu.uid, qemu.gid)),
            settings,
            &watcher,
            libvirt_log.clone(),
        );
        // Only its kernel buffers show that nobody reads: once they are full, a guest that writes to its console stands still.
        let settings = Settings {
            halted: Some(VIRTLOGD_HALTED),
            orphans_of: adoption.and_then(|_| handover::monitor()),
            ..settings
        };
        let virtlogd = runtime.start_virtlog().map(|spec| Supervisor::start(spec, settings, &watcher, libvirt_log));

        // While the daemons start.
        let sockets = SocketPaths::below(&config.kubevirt_share_dir);
        let listener = cmd::bind(&sockets.init)?;
        let identity = Identity {
            domain: format!("{}_{}", config.namespace, config.name),
            namespace: config.namespace.clone(),
            name: config.name.clone(),
            uid: config.uid.clone(),
        };
        // What libvirt calls it.
        let domain = runtime.domain_name(&identity.domain);
        let domain_log = runtime.domain_log(&domain);
        let log_files = LogFiles {
            hypervisor: domain_log.clone(),
            console: Path::new(directories::PRIVATE_DIR).join(&config.uid).join(directories::SERIAL_LOG),
        };
        let logs = Logs::follow(domain_log.as_deref(), &watcher, sink, log_mark(&config, adoption.is_some()));
        let outbox =
            Outbox::start_in_pod(notify_socket(&config), crate::notify::Timings::default(), handover::monitor());
        let (queue, events) = mpsc::unbounded_channel();
        let (uri, _user) = runtime.libvirt_uri_and_user();
        let connection = Connection::new(uri.to_owned(), timings.libvirt, queue.clone());
        let setup = VmSetup {
            connection: connection.clone(),
            events: queue,
            domain,
            private: Path::new(directories::PRIVATE_DIR).join(&config.uid),
            owner: (qemu.uid, qemu.gid),
        };
        let guest = Guest::new(&identity, connection, outbox.clone(), tpm_state(&config), saved.clone());
        let vm = vm(&runtime, identity.domain.clone(), setup, guest, saved.clone());
        let (publisher, publications) =
            Publisher::new(identity, &vm, outbox.clone(), DomainLog::new(domain_log), Duration::from_secs(1), saved);
        tokio::spawn(publisher.run());
        vm.guest.start_poller(config.agent);
        vm.guest.resume_safety_thaw();
        let signs = Signs::default();
        let hooks = hooks(&config, signalled.clone()).await?;
        let virtlogd_state = virtlogd.as_ref().map(Supervisor::state);
        let was_started = inherited.process.is_some();
        if let Some(virtlogd) = virtlogd_state.clone() {
            tokio::spawn(log_pipes::watch(virtlogd, vm.tracker.clone(), was_started, log_files, vm.guest.clone()));
        }
        let boot = Boot::new(Arc::clone(&config), runtime, catalogue, qemu, hooks.clone(), watcher, virtlogd_state);
        let (driver, handle) = Driver::new(
            vm.clone(),
            boot,
            publications.clone(),
            signs.clone(),
            events,
            timings.reconnect_pause,
            hypervisor_daemon.watchdog(),
        );
        let (begin, begun) = oneshot::channel();
        tokio::spawn(driver.run(begun));
        let (stop_server, stopped) = oneshot::channel();
        let server_timings = cmd::Timings { stop: timings.stop, ..cmd::Timings::default() };
        let (activity, driver) = (Activity::default(), Arc::new(handle.clone()));
        let server = tokio::spawn(cmd::serve_watched(listener, driver, server_timings, activity.clone(), async {
            // Told to stop, or nobody is left to tell.
            let _ = stopped.await;
        }));

        // A VM that runs is shown as the launcher before this one showed it, until libvirt can be asked; orders wait for that.
        let shown_early = publications.published.borrow().json.is_some();
        if shown_early {
            cmd::publish(&sockets)?;
            tracing::info!("answering with the VM's last known state");
        }
        signs.leave_early.send_replace(config.environment.target_pod_exit_signal);
        let first = FirstConnection {
            vm: vm.clone(),
            jobs: handle.jobs.clone(),
            signs: signs.clone(),
            publications: publications.clone(),
            timings,
            started: inherited.process.is_some(),
            // For a launcher that takes over this is a reconnect: whatever happened meanwhile has to be told now.
            cause: if adoption.is_some() { Cause::Reconnected } else { Cause::Changed },
        };
        match hypervisor_daemon.ready(timings.connect).await {
            Ok(_) => first.make().await?,
            // The driver refuses with the reason whatever needs libvirt.
            Err(DaemonError::Waiting { .. }) => first.make_later(hypervisor_daemon.state()).await,
            Err(error) => return Err(error.into()),
        }
        if !shown_early {
            cmd::publish(&sockets)?;
        }
        // Nobody waits for it if the driver has ended.
        let _ = begin.send(());
        tracing::info!("Marked as ready");
        // Most of what the start needs is not needed again.
        give_back_program_pages();

        // A VM that an earlier launcher started is not started again.
        if let Some(manifest) = standalone.filter(|_| inherited.process.is_none()) {
            run_standalone(&handle, manifest).await?;
        }
        let watched = Watched {
            signalled: mark_for_shutdown(signalled, vm.metadata.clone()),
            mark_told: told(publications.marked.clone(), outbox.acknowledged()),
            end_ordered: signs.end_ordered.subscribe(),
            leave_early: signs.leave_early.subscribe(),
            never_receives: signs.never_receives.subscribe(),
            defined: signs.defined.subscribe(),
            process: vm.tracker.subscribe(),
            deletion: publications.deletion.clone(),
            deletion_told: told(publications.deletion.clone(), outbox.acknowledged()),
            daemon_failed: failure(
                hypervisor_daemon.state(),
                virtlogd.as_ref().map(Supervisor::state),
                vm.tracker.clone(),
            ),
        };
        Ok(Started {
            config,
            timings,
            vm,
            watched,
            publications,
            daemons: std::iter::once(hypervisor_daemon).chain(virtlogd).collect(),
            outbox,
            sockets,
            activity,
            virt_handler_was_heard: inherited.virt_handler_heard,
            stop_server,
            server,
            logs,
            hooks,
        })
    }
}

/// The directories of this VM, and the user they are for.
fn make_directories(config: &Config) -> Result<Owner, DirectoryError> {
    let qemu = directories::user(Path::new(directories::PASSWD_FILE), directories::QEMU_USER)?;
    let directories = Directories {
        private: Path::new(directories::PRIVATE_DIR),
        ephemeral_disks: &config.ephemeral_disk_dir,
        container_disks: &config.container_disk_dir,
        hotplug_disks: &config.hotplug_disk_dir,
        uid: &config.uid,
        root: !config.run_as_nonroot,
        qemu,
    };
    directories.make()?;
    Ok(qemu)
}

/// The VM that KubeVirt calls `domain`.
fn vm(runtime: &Runtime, domain: String, setup: VmSetup, guest: Guest, saved: SavedStore) -> Vm {
    let search = Search {
        pid_file: pid_file(runtime.pid_dir(), &setup.domain),
        command_prefixes: runtime.hypervisor_command_prefixes().to_vec(),
    };
    Vm {
        domain: setup.domain.clone(),
        connection: setup.connection.clone(),
        control: runtime.vm_control(setup),
        guest,
        metadata: MetadataCache::saved_in(saved.clone()),
        paused: PausedSet::saved_in(saved.clone()),
        asked_agent: AskedAgent::default(),
        clock: GuestClock::default(),
        tracker: Tracker::new(domain, search, saved.clone()),
        hotplug: Hotplug::saved_in(saved),
    }
}

/// The name of the VM is the flags', or that of the standalone VMI, which may run in emulation whatever the flags say
/// (contract/lifecycle.md 3.1 step 16).
fn with_standalone(mut config: Config, standalone: Option<&vmi::VirtualMachineInstance>) -> Result<Config, StartError> {
    if let Some(vmi) = standalone {
        config.allow_emulation = true;
        for (own, theirs, field) in [
            (&mut config.name, &vmi.metadata.name, "name"),
            (&mut config.namespace, &vmi.metadata.namespace, "namespace"),
            (&mut config.uid, &vmi.metadata.uid, "uid"),
        ] {
            // They become parts of paths, as the flags' values do.
            if !theirs.is_empty() && !is_component(theirs) {
                let why = format!("metadata.{field} {theirs:?} must be usable as a file name");
                return Err(StartError::Standalone(why));
            }
            if own.is_empty() {
                own.clone_from(theirs);
            }
        }
    }
    Ok(config)
}

/// The standalone VMI, read as every person's file. The pod network is not added, because its tap would be virt-handler's
/// work.
fn standalone(config: &Config) -> Result<Option<Manifest>, StartError> {
    let Some(text) = config.environment.standalone_vmi.as_deref() else { return Ok(None) };
    let fallback = Some((config.name.as_str(), config.namespace.as_str()));
    let options = Options { host_arch: host_architecture(), fallback, ..Options::default() };
    let manifest = Manifest::read(text, &options).map_err(|error| StartError::Standalone(error.to_string()))?;
    for line in manifest.warning_lines() {
        tracing::warn!("STANDALONE_VMI: {line}");
    }
    Ok(Some(manifest))
}

async fn run_standalone(handle: &DriverHandle, manifest: Manifest) -> Result<(), StartError> {
    let vmi_json = serde_json::to_vec(&manifest.value).map_err(|error| StartError::Standalone(error.to_string()))?;
    let vmi = manifest.vmi.clone();
    let request = SyncRequest { vmi, options: SyncOptions::default(), plugins: Vec::new(), vmi_json };
    let synced = handle.perform(Action::Sync(Box::new(request))).await;
    synced.map_err(|failure| StartError::Standalone(manifest.located_if_field(&failure.message())))
}

/// Where libvirt keeps the state of persistent TPMs (contract/lifecycle.md 4.6).
fn tpm_state(config: &Config) -> PathBuf {
    match config.run_as_nonroot {
        true => Path::new(directories::PRIVATE_DIR).join("libvirt/qemu/swtpm"),
        false => "/var/lib/libvirt/swtpm".into(),
    }
}

/// How far the hypervisor's log was forwarded by an earlier launcher of this pod.
fn log_mark(config: &Config, adopts: bool) -> Option<Mark> {
    let directory = Path::new(directories::PRIVATE_DIR).join(&config.uid);
    Folder::open(&directory)
        .and_then(|folder| Mark::open(&folder, LOG_MARK, adopts))
        .inspect_err(
            |error| tracing::warn!(reason = %error, "a launcher that follows this one will forward logs again"),
        )
        .ok()
}

/// Where virt-handler listens.
pub(super) fn notify_socket(config: &Config) -> PathBuf {
    config.kubevirt_share_dir.join("domain-notify-pipe.sock")
}

/// The pod's hook sidecars (contract/lifecycle.md 10.1). A launcher that takes over a running VM goes on without those that
/// are gone, and one that is told to end does not wait for them.
async fn hooks(config: &Config, mut signalled: watch::Receiver<Option<Instant>>) -> Result<Hooks, StartError> {
    let count = usize::try_from(config.hook_sidecars).unwrap_or(usize::MAX);
    let adopts = config.environment.adoption.is_some();
    let within = if adopts { HOOKS_OF_ADOPTED } else { config.qemu_timeout };
    let collected = tokio::select! {
        collected = Hooks::collect(Path::new(HOOKS), count, within, crate::hooks::Timings::default()) => collected,
        Ok(_) = signalled.wait_for(Option::is_some) => return Ok(Hooks::default()),
    };
    match collected {
        Err(error) if adopts => {
            tracing::warn!("going on without hook sidecars: {error}");
            Ok(Hooks::default())
        }
        collected => Ok(collected?),
    }
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
