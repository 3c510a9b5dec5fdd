//! The third phase: the command server answers. Readers get the VM's last known state; orders wait for libvirt.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::daemons::{Daemons, RunningDaemons};
use super::directories;
use super::error::StartError;
use super::log_pipes::{self, LogFiles};
use super::resolved::{Resolved, private_directory};
use crate::cmd::{self, Activity, SocketPaths};
use crate::daemon::Supervisor;
use crate::files::Watcher;
use crate::hooks::Hooks;
use crate::hypervisor::{LibvirtWrapper, VmSetup};
use crate::launcher::config::Config;
use crate::launcher::driver::fresh_connection::FreshConnection;
use crate::launcher::driver::{Driver, DriverHandle};
use crate::launcher::guest::Guest;
use crate::launcher::jobs::Jobs;
use crate::launcher::migration::Migrations;
use crate::launcher::publish::domain_log::DomainLog;
use crate::launcher::publish::publisher::{Publications, Publisher};
use crate::launcher::shutdown::core_tasks::CoreTasks;
use crate::launcher::shutdown::teardown::CommandServer;
use crate::launcher::sync::means::{Boot, BootParts};
use crate::launcher::timings::Timings;
use crate::launcher::vm::Vm;
use crate::launcher::vm::guest_clock::GuestClock;
use crate::launcher::vm::hotplug::Hotplug;
use crate::launcher::vm::metadata::MetadataCache;
use crate::launcher::vm::migration_progress::MigrationProgress;
use crate::launcher::vm::milestones::Milestones;
use crate::launcher::vm::paused::PausedSet;
use crate::launcher::vm::power_off::AskedAgent;
use crate::launcher::vm::process::{Search, Tracker, pid_file};
use crate::launcher::vm::state_file::Restored;
use crate::libvirt::{Connection, Event};
use crate::notify::{self, Outbox};
use crate::process::adoption;
use crate::vmi::manifest::Manifest;

/// Each hook sidecar has a folder there.
const HOOKS: &str = "/var/run/kubevirt-hooks";
/// How long hook sidecars may take to answer to a launcher that adopts a VM.
const HOOKS_OF_ADOPTED: Duration = Duration::from_secs(5);
/// Between two looks at a domain of which the first one failed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The launcher with its command service.
pub(super) struct Serving {
    pub(super) config: Arc<Config>,
    pub(super) timings: Timings,
    pub(super) signalled: watch::Receiver<Option<Instant>>,
    pub(super) standalone: Option<Manifest>,
    pub(super) restored: Restored,
    pub(super) daemons: RunningDaemons,
    pub(super) outbox: Outbox,
    pub(super) hooks: Hooks,
    /// The VM with those who publish and order it.
    pub(super) fresh: FreshConnection,
    /// The driver's door.
    pub(super) handle: DriverHandle,
    /// Lets the driver take orders.
    pub(super) begin: Option<oneshot::Sender<()>>,
    pub(super) core: CoreTasks,
    pub(super) server: CommandServer,
    /// The command socket has its final name already.
    pub(super) is_published: bool,
}

/// The VM and its publications.
struct Machine {
    vm: Vm,
    publications: Publications,
    outbox: Outbox,
    events: mpsc::UnboundedReceiver<Event>,
    publisher: JoinHandle<()>,
    guest_poller: JoinHandle<()>,
}

impl Daemons {
    /// The way down: the sockets and the daemons.
    pub(super) async fn serve(self) -> Result<Serving, StartError> {
        let Daemons { resolved, watcher, running } = self;
        let within = resolved.timings.stop;
        let sockets = SocketPaths::below(&resolved.config.kubevirt_share_dir);
        let listener = match cmd::bind(&sockets.init) {
            Ok(listener) => listener,
            Err(error) => {
                running.abandon(within).await;
                return Err(error.into());
            }
        };
        let machine = Machine::new(&resolved);
        let hooks = match hooks(&resolved.config, resolved.signalled.clone()).await {
            Ok(hooks) => hooks,
            Err(error) => {
                machine.vm.connection.close();
                running.abandon(within).await;
                return Err(error);
            }
        };
        let serving = machine.serve(resolved, watcher, running, hooks, (listener, sockets));
        // A VM that runs is shown as the previous launcher showed it, until libvirt can be asked; orders wait for that.
        if serving.fresh.publications.published.borrow().json.is_none() {
            return Ok(serving);
        }
        if let Err(error) = cmd::publish(&serving.server.sockets) {
            serving.abandon().await;
            return Err(error.into());
        }
        tracing::info!("answering with the VM's last known state");
        Ok(Serving { is_published: true, ..serving })
    }
}

impl Serving {
    /// The way down of a start that failed from here on. The socket files stay where they are: the next launcher replaces them.
    pub(super) async fn abandon(self) {
        self.server.stop(self.timings.stop).await;
        self.fresh.vm.connection.close();
        self.daemons.abandon(self.timings.stop).await;
    }
}

impl Machine {
    /// Needs a runtime: the publisher and the guest's poller run from now on.
    fn new(resolved: &Resolved) -> Self {
        let Resolved { config, runtime, restored, identity, .. } = resolved;
        let outbox = Outbox::start_in_pod(
            notify::socket_below(&config.kubevirt_share_dir),
            notify::Timings::default(),
            adoption::monitor(),
        );
        let (queue, events) = mpsc::unbounded_channel();
        let (uri, _user) = runtime.libvirt_uri_and_user();
        let connection = Connection::new(uri.to_owned(), resolved.timings.libvirt, queue.clone());
        let setup = VmSetup {
            connection: connection.clone(),
            events: queue,
            domain: resolved.domain(),
            private: private_directory(config),
            owner: (resolved.qemu.uid, resolved.qemu.gid),
        };
        let domain_log = DomainLog::new(runtime.domain_log(&setup.domain));
        let guest = Guest::new(identity, connection, outbox.clone(), tpm_state(config), restored);
        let vm = vm(resolved, setup, guest);
        let (publisher, publications) =
            Publisher::new(identity.clone(), &vm, outbox.clone(), domain_log, LOOK_AGAIN, restored);
        let publisher = tokio::spawn(publisher.run());
        let guest_poller = vm.guest.start_poller(config.agent);
        vm.guest.resume_safety_thaw();
        Machine { vm, publications, outbox, events, publisher, guest_poller }
    }

    /// Starts the driver and the command service.
    fn serve(
        self,
        resolved: Resolved,
        watcher: Watcher,
        daemons: RunningDaemons,
        hooks: Hooks,
        (listener, sockets): (UnixListener, SocketPaths),
    ) -> Serving {
        let Machine { vm, publications, outbox, events, publisher, guest_poller } = self;
        let virtlogd = daemons.virtlogd.as_ref().map(Supervisor::state);
        if let Some(virtlogd) = virtlogd.clone() {
            let files = LogFiles {
                hypervisor: resolved.runtime.domain_log(&vm.domain),
                console: private_directory(&resolved.config).join(directories::SERIAL_LOG),
            };
            let was_started = resolved.restored.was_started();
            tokio::spawn(log_pipes::watch(virtlogd, vm.tracker.clone(), was_started, files, vm.guest.clone()));
        }
        let Resolved { config, timings, signalled, standalone, catalogue, runtime, qemu, restored, .. } = resolved;
        let fresh = FreshConnection {
            jobs: Jobs::new(vm.clone(), watcher.clone()),
            migrations: Migrations::new(&vm, &config, &restored, DomainLog::new(runtime.domain_log(&vm.domain))),
            vm,
            milestones: Milestones::default(),
            publications,
            timings,
            was_started: restored.was_started(),
            is_attached: Arc::default(),
        };
        let boot = Boot::new(BootParts {
            config: Arc::clone(&config),
            runtime,
            catalogue,
            owner: qemu,
            hooks: hooks.clone(),
            watcher,
            virtlogd,
        });
        let (driver, handle) = Driver::new(boot, fresh.clone(), events, daemons.hypervisor_daemon.watchdog());
        let (begin, begun) = oneshot::channel();
        let core = CoreTasks { publisher, guest_poller, driver: tokio::spawn(driver.run(begun)) };
        let (stop, stopped) = oneshot::channel();
        let server_timings = cmd::Timings { stop: timings.stop, ..cmd::Timings::default() };
        let (activity, door) = (Activity::default(), Arc::new(handle.clone()));
        let task = tokio::spawn(cmd::serve_watched(listener, door, server_timings, activity.clone(), async {
            // Either a stop order, or the end of its sender.
            let _ = stopped.await;
        }));
        Serving {
            config,
            timings,
            signalled,
            standalone,
            restored,
            daemons,
            outbox,
            hooks,
            fresh,
            handle,
            begin: Some(begin),
            core,
            server: CommandServer { sockets, activity, stop, task },
            is_published: false,
        }
    }
}

/// The VM as the previous launcher left it.
fn vm(resolved: &Resolved, setup: VmSetup, guest: Guest) -> Vm {
    let Resolved { runtime, restored, identity, .. } = resolved;
    let search = Search {
        pid_file: pid_file(runtime.pid_dir(), &setup.domain),
        command_prefixes: runtime.hypervisor_command_prefixes().to_vec(),
    };
    Vm {
        domain: setup.domain.clone(),
        connection: setup.connection.clone(),
        control: runtime.vm_control(setup),
        guest,
        metadata: MetadataCache::restored(restored),
        paused: PausedSet::restored(restored),
        asked_agent: AskedAgent::default(),
        clock: GuestClock::default(),
        tracker: Tracker::new(identity.domain.clone(), search, restored),
        hotplug: Hotplug::restored(restored),
        migration_progress: MigrationProgress::default(),
    }
}

/// Where libvirt keeps the state of persistent TPMs (contract/lifecycle.md 4.6).
fn tpm_state(config: &Config) -> PathBuf {
    match config.run_as_nonroot {
        true => Path::new(directories::PRIVATE_DIR).join("libvirt/qemu/swtpm"),
        false => "/var/lib/libvirt/swtpm".into(),
    }
}

/// The pod's hook sidecars (contract/lifecycle.md 10.1). A launcher that adopts a running VM goes on without those that
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
