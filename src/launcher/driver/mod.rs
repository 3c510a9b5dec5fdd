//! The one task that changes the VM: others send it requests, libvirt sends it events.
//!
//! What the reader can rely on: at most one of Sync, Pause, Unpause and Shutdown runs at a time, in the order of arrival
//! (contract/cmd-server.md 3.4); Reset, SoftReboot, Kill and Delete pass them by, so that a stuck operation cannot block
//! a stop. Work that has begun goes on when its caller has gone; work that has not begun is then left, and who waits too
//! long for its turn is told for whom.

pub(crate) mod fresh_connection;
mod measures;
pub mod turns;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, JoinSet};

use crate::cmd::{self, Action, Answer, Failure, GuestCommand, GuestOutput};
use crate::daemon::Watchdog;
use crate::hypervisor::Runtime;
use crate::launcher::jobs::Jobs;
use crate::launcher::migration::options::MigrationOptions;
use crate::launcher::migration::{Migrations, finalize, outgoing};
use crate::launcher::publish::publisher::{Cause, Publications};
use crate::launcher::statistics::{self, Statistics};
use crate::launcher::sync::live;
use crate::launcher::sync::means::Boot;
use crate::launcher::vm::Vm;
use crate::launcher::vm::milestones::Milestones;
use crate::launcher::vm::operations;
use crate::launcher::vm::sev::{self, Sev};
use crate::libvirt::{self, AgentChange, DomainEvent, Event, JobOperation, Lifecycle};
use fresh_connection::{Connected, FreshConnection};
use turns::Turns;

/// Requests that may wait for the driver before callers are refused.
const WAITING: usize = 64;
/// How long a request may wait for its turn: below the client's 20 s, so that it learns why.
const TURN: Duration = Duration::from_secs(18);

/// How long the answer to an operation that failed may wait for the look that follows it.
const SETTLING: Duration = Duration::from_secs(1);

struct Request {
    action: Action,
    reply: oneshot::Sender<Result<(), Failure>>,
}

/// The driver's door, held by the command service.
#[derive(Clone)]
pub struct DriverHandle {
    requests: mpsc::Sender<Request>,
    publications: Publications,
    version: watch::Receiver<Option<String>>,
    pub(super) statistics: Statistics,
    vm: Vm,
    pub(super) sev: Sev,
    pub(super) collects_vm_stats: bool,
    /// The hypervisor, whose feature table says what it does not do.
    runtime: Arc<Runtime>,
}

impl DriverHandle {
    /// Refuses what the hypervisor's feature table says no to. Orders pass here, and questions that libvirt or the guest answers.
    fn supported(&self, rpc: &str) -> Result<(), Failure> {
        self.runtime.refusal(rpc).map_or(Ok(()), |why| Err(Failure::text(why)))
    }

    /// The `answer` to `rpc`, unless the hypervisor does not do that.
    pub(super) fn answer_if_supported<T: Send + 'static>(
        &self,
        rpc: &str,
        answer: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Answer<T> {
        match self.supported(rpc) {
            Ok(()) => Box::pin(answer),
            Err(failure) => Box::pin(std::future::ready(Err(failure))),
        }
    }
}

impl cmd::Driver for DriverHandle {
    fn perform(&self, action: Action) -> Answer<()> {
        let rpc = action.rpc();
        // The end of a target that cannot receive its VM tells virt-controller more than a refusal would
        // (`migration_target`).
        if !matches!(action, Action::ReceiveMigration(_))
            && let Err(failure) = self.supported(rpc)
        {
            return Box::pin(std::future::ready(Err(failure)));
        }
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.try_send(Request { action, reply });
        Box::pin(async move {
            sent.map_err(|_| Failure::text(format!("{rpc}: too many requests are waiting for the VM")))?;
            match answer.await {
                Ok(result) => result,
                Err(_) => Err(Failure::text(format!("{rpc} ended without an answer, see the launcher's log"))),
            }
        })
    }

    fn domain(&self) -> Result<Option<Arc<str>>, Failure> {
        Ok(self.publications.published.borrow().json.clone())
    }

    fn hypervisor_version(&self) -> Result<String, Failure> {
        self.version.borrow().clone().ok_or_else(|| Failure::text("the hypervisor's version is not known yet"))
    }

    fn guest_info(&self) -> Result<String, Failure> {
        self.vm.guest.info()
    }

    fn users(&self) -> Result<String, Failure> {
        self.vm.guest.users()
    }

    fn filesystems(&self) -> Result<String, Failure> {
        self.vm.guest.filesystems()
    }

    fn exec(&self, command: GuestCommand) -> Answer<GuestOutput> {
        let guest = self.vm.guest.clone();
        self.answer_if_supported("Exec", async move { guest.exec(command).await })
    }

    fn guest_ping(&self, domain: String) -> Answer<()> {
        let vm = self.vm.clone();
        self.answer_if_supported("GuestPing", async move { vm.guest.ping(domain, &vm.metadata.snapshot()).await })
    }
}

/// The driver's means.
pub struct Driver {
    vm: Vm,
    boot: Arc<Boot>,
    jobs: Jobs,
    migrations: Migrations,
    publications: Publications,
    milestones: Milestones,
    /// This pod's name (`POD_NAME`).
    pod_name: Option<String>,
    /// What is due after a reconnect.
    fresh: FreshConnection,
    /// Of the libvirt daemon.
    watchdog: Watchdog,
    /// A reconnect is under way.
    reconnecting: bool,
    requests: mpsc::Receiver<Request>,
    events: mpsc::UnboundedReceiver<Event>,
    running: JoinSet<Turn>,
    /// The operation that has the turn, while it runs.
    exclusive: Option<task::Id>,
    turns: Turns<Request>,
}

/// What ended: an operation that others wait for, one that nobody waits for, or a reconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Exclusive,
    Free,
    Reconnected,
}

fn turn_of(action: &Action) -> Turn {
    match action {
        Action::Sync(_)
        | Action::SyncCpus(_)
        | Action::SyncMemory(_)
        | Action::HotplugHostDevices(_)
        | Action::Pause(_)
        | Action::Unpause(_)
        | Action::Shutdown(_)
        | Action::ReceiveMigration(_)
        | Action::Migrate(_)
        | Action::FinalizeMigration { .. } => Turn::Exclusive,
        Action::Reset(_)
        | Action::SoftReboot(_)
        | Action::Kill(_)
        | Action::Delete(_)
        | Action::Freeze(_)
        | Action::Unfreeze(_)
        | Action::MemoryDump { .. }
        | Action::InjectLaunchSecret { .. }
        | Action::Backup(_)
        | Action::RedefineCheckpoint(_)
        | Action::CancelMigration
        | Action::SignalTargetPodCleanup { .. } => Turn::Free,
    }
}

/// MigrateVirtualMachine.
fn migrate(migrations: &Migrations, request: cmd::MigrateRequest) -> Result<(), Failure> {
    let cmd::MigrateRequest { vmi, options } = request;
    let options = MigrationOptions::parse(&options).map_err(|error| {
        Failure::text(format!("no valid migration options object present in command server request: {error}"))
    })?;
    migrations.outgoing.migrate(outgoing::Order { vmi, options })
}

impl Driver {
    /// A driver and its door. `events` are those of the VM's connection.
    pub(crate) fn new(
        boot: Boot,
        fresh: FreshConnection,
        events: mpsc::UnboundedReceiver<Event>,
        watchdog: Watchdog,
    ) -> (Self, DriverHandle) {
        let FreshConnection { vm, jobs, migrations, milestones, publications, .. } = fresh.clone();
        let (sender, requests) = mpsc::channel(WAITING);
        let published = publications.published.clone();
        let handle = DriverHandle {
            requests: sender,
            publications: publications.clone(),
            version: milestones.version.subscribe(),
            collects_vm_stats: boot.config.vm_stats_collector,
            sev: Sev::new(vm.clone(), boot.config.ovmf_path.clone()),
            statistics: Statistics::new(vm.clone(), published, statistics::Timings::default()),
            vm: vm.clone(),
            runtime: Arc::new(boot.runtime.clone()),
        };
        let driver = Driver {
            jobs,
            migrations,
            vm,
            pod_name: boot.config.environment.pod_name.clone(),
            boot: Arc::new(boot),
            publications,
            milestones,
            fresh,
            watchdog,
            reconnecting: false,
            requests,
            events,
            running: JoinSet::new(),
            exclusive: None,
            turns: Turns::new(TURN),
        };
        (driver, handle)
    }

    /// Runs until every door is gone. Orders wait for the word to `begin`, or the end of who would give it.
    pub async fn run(mut self, mut begin: oneshot::Receiver<()>) {
        let mut begun = false;
        loop {
            tokio::select! {
                _ = &mut begin, if !begun => begun = true,
                request = self.requests.recv(), if begun => match request {
                    Some(request) => self.admit(request),
                    None => return,
                },
                Some(event) = self.events.recv() => self.on_event(event),
                Some(ended) = self.running.join_next_with_id() => self.on_end(ended),
                (late, why) = self.turns.late() => {
                    tracing::warn!("{why}");
                    // A caller that is gone does not mind.
                    let _ = late.reply.send(Err(Failure::text(why)));
                }
            }
        }
    }

    fn admit(&mut self, request: Request) {
        if request.reply.is_closed() {
            // It waited for the first connection longer than its caller did, who was told so and will ask again.
            return;
        }
        if let Some(answer) = self.without_daemon(&request.action) {
            if let Err(failure) = &answer {
                tracing::warn!("{}", failure.message());
            }
            // A caller that is gone does not mind.
            let _ = request.reply.send(answer);
            return;
        }
        if matches!(request.action, Action::HotplugHostDevices(_)) && self.is_plugging() {
            // A caller that is gone does not mind.
            let _ = request.reply.send(Err(live::host_devices::in_progress()));
            return;
        }
        match turn_of(&request.action) {
            turn @ Turn::Exclusive => {
                if let Some(request) = self.turns.ask(request.action.rpc(), request) {
                    self.start(turn, request);
                }
            }
            turn @ (Turn::Free | Turn::Reconnected) => self.start(turn, request),
        }
    }

    /// The answer to an order that comes before there is a libvirt daemon: it waits for a device, and there is no VM. Where
    /// there is one, its hypervisor may be able to do without the daemon, and is asked as always.
    fn without_daemon(&self, action: &Action) -> Option<Result<(), Failure>> {
        let why = self.watchdog.waits_for().filter(|_| !self.vm.tracker.was_seen())?;
        match action {
            // What is to be ended is not there.
            Action::Shutdown(_) | Action::Kill(_) | Action::Delete(_) => Some(Ok(())),
            Action::SignalTargetPodCleanup { .. } | Action::ReceiveMigration(_) | Action::CancelMigration => None,
            Action::Sync(_)
            | Action::SyncCpus(_)
            | Action::SyncMemory(_)
            | Action::HotplugHostDevices(_)
            | Action::Pause(_)
            | Action::Unpause(_)
            | Action::Reset(_)
            | Action::SoftReboot(_)
            | Action::Freeze(_)
            | Action::Unfreeze(_)
            | Action::MemoryDump { .. }
            | Action::InjectLaunchSecret { .. }
            | Action::Backup(_)
            | Action::Migrate(_)
            | Action::FinalizeMigration { .. }
            | Action::RedefineCheckpoint(_) => Some(Err(Failure::text(format!("{}: {why}", action.rpc())))),
        }
    }

    /// Whether a plug of host devices runs or waits for its turn.
    fn is_plugging(&self) -> bool {
        self.vm.hotplug.host_devices.is_closed()
            || self.turns.waiting().any(|request| matches!(request.action, Action::HotplugHostDevices(_)))
    }

    fn start(&mut self, turn: Turn, request: Request) {
        let (vm, boot, publications) = (self.vm.clone(), self.boot.clone(), self.publications.clone());
        let (jobs, migrations) = (self.jobs.clone(), self.migrations.clone());
        let (milestones, pod_name) = (self.milestones.clone(), self.pod_name.clone());
        let without_daemon = self.watchdog.waits_for().is_some();
        let Request { action, reply } = request;
        // Only now: an order that does not get its turn must not keep the launcher from asking the guest itself.
        if matches!(action, Action::Shutdown(_) | Action::Kill(_) | Action::Delete(_)) {
            milestones.end_ordered.send_replace(true);
        }
        let task = self.running.spawn(async move {
            let rpc = action.rpc();
            let mut never_receives = None;
            let result = match action {
                Action::SyncCpus(sync) => live::cpu::synchronise(&vm, &boot, *sync).await,
                Action::SyncMemory(vmi) => live::memory::synchronise(&vm, &vmi).await,
                Action::HotplugHostDevices(sync) => live::host_devices::plug(&vm, &boot, *sync).await,
                Action::Sync(sync) => {
                    let vmi = sync.vmi.clone();
                    let synced = boot.sync(&vm, *sync, &milestones.defined).await;
                    vm.guest.pause_probes(vmi.annotation("kubevirt.io/pause-guest-agent-probes"));
                    if synced.is_ok() {
                        vm.guest.propagate_credentials(&vmi, &vm.metadata, &boot.root);
                    }
                    synced
                }
                Action::Pause(vmi) => operations::pause(&vm, &vmi).await,
                Action::Unpause(vmi) => operations::unpause(&vm, &vmi).await,
                Action::Reset(_) => operations::reset(&vm).await,
                Action::SoftReboot(vmi) => operations::soft_reboot(&vm, &vmi).await,
                Action::Shutdown(_) => operations::shutdown(&vm).await,
                Action::Kill(_) => operations::kill(&vm).await,
                Action::Delete(_) => operations::delete(&vm).await,
                Action::Freeze(request) => vm.guest.freeze(*request, &vm.metadata.snapshot()).await,
                Action::Unfreeze(_) => vm.guest.unfreeze().await,
                Action::MemoryDump { path } => jobs.memory_dump(path),
                Action::Backup(request) => jobs.backup(*request).await,
                Action::RedefineCheckpoint(checkpoint) => jobs.redefine_checkpoint(&checkpoint).await,
                Action::InjectLaunchSecret { header, secret } => sev::inject_secret(&vm, &header, &secret).await,
                Action::Migrate(request) => migrate(&migrations, *request),
                Action::CancelMigration => {
                    migrations.outgoing.abort();
                    Ok(())
                }
                Action::FinalizeMigration { refresh } => finalize::finalize(&vm, &refresh).await,
                Action::ReceiveMigration(sync) => match migrations.incoming.receive(&boot, *sync, without_daemon).await
                {
                    Ok(()) => Ok(()),
                    Err(refusal) => {
                        never_receives = refusal.never();
                        Err(refusal.into())
                    }
                },
                Action::SignalTargetPodCleanup { target_pod } => {
                    if !target_pod.is_empty() && pod_name.as_deref() == Some(target_pod.as_str()) {
                        milestones.leave_early.send_replace(true);
                    }
                    Ok(())
                }
            };
            // Who asks GetDomain after this answer sees what the operation did, or left behind.
            match &result {
                Ok(()) => publications.settled().await,
                Err(failure) => {
                    tracing::warn!("{rpc}: {}", failure.message());
                    // A libvirt that does not answer must not keep the reason back; the publisher goes on looking.
                    let _ = tokio::time::timeout(SETTLING, publications.settled()).await;
                }
            }
            // A caller that is gone will ask again.
            let _ = reply.send(result);
            if never_receives.is_some() {
                milestones.never_receives.send_replace(never_receives);
            }
            turn
        });
        if turn == Turn::Exclusive {
            self.exclusive = Some(task.id());
        }
    }

    fn on_end(&mut self, ended: Result<(task::Id, Turn), task::JoinError>) {
        let id = match ended {
            Ok((_, Turn::Reconnected)) => {
                self.reconnecting = false;
                if !self.vm.connection.is_open() {
                    // Lost again before this was seen.
                    return self.reconnect();
                }
                let fresh = self.fresh.clone();
                self.running.spawn(async move {
                    fresh.on_connected(Connected::Reconnected).await;
                    Turn::Free
                });
                return;
            }
            Ok((id, Turn::Free | Turn::Exclusive)) => id,
            Err(error) => {
                tracing::error!(reason = %error, "an operation on the VM ended unexpectedly");
                // Nobody waits for the look.
                self.publications.look(Cause::Settled(oneshot::channel().0));
                error.id()
            }
        };
        if self.exclusive != Some(id) {
            return;
        }
        self.exclusive = None;
        while let Some(next) = self.turns.pass_on() {
            if !next.reply.is_closed() {
                return self.start(Turn::Exclusive, next);
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Domain(domain, event) => {
                if domain == self.vm.domain {
                    self.on_domain_event(event);
                }
            }
            Event::Closed(generation, reason) => {
                if self.vm.connection.closed(generation, reason) {
                    tracing::warn!("lost the connection to libvirt: {reason}");
                }
                if !self.vm.connection.is_open() {
                    self.reconnect();
                }
            }
        }
    }

    fn on_domain_event(&mut self, event: DomainEvent) {
        match event {
            DomainEvent::Lifecycle(lifecycle) => return self.on_lifecycle(lifecycle),
            DomainEvent::JobCompleted(stats) if stats.operation == JobOperation::BACKUP => {
                let fresh = self.fresh.clone();
                self.running.spawn(async move {
                    fresh.note_end_of_backup(Some(*stats)).await;
                    Turn::Free
                });
                return;
            }
            DomainEvent::DeviceRemoved(alias) => self.vm.hotplug.device_removed(&alias),
            DomainEvent::Agent(AgentChange::Connected) => self.vm.guest.agent_connected(),
            DomainEvent::Agent(AgentChange::Disconnected)
            | DomainEvent::JobCompleted(_)
            | DomainEvent::DeviceAdded
            | DomainEvent::MemoryDeviceSize => {}
            DomainEvent::MigrationIteration => return self.migrations.outgoing.iteration_begins(),
        }
        self.publications.look(Cause::Changed);
    }

    fn on_lifecycle(&mut self, lifecycle: Lifecycle) {
        self.migrations.incoming.note_event();
        match lifecycle {
            Lifecycle::Defined { .. } => {
                self.milestones.defined.send_replace(true);
            }
            Lifecycle::Started { migrated } => {
                self.vm.tracker.look();
                if migrated {
                    // It is defined only when all of it has come.
                    self.milestones.defined.send_replace(true);
                }
            }
            _ => self.vm.tracker.note_end(),
        }
        self.publications.look(Cause::Lifecycle(lifecycle));
    }

    fn reconnect(&mut self) {
        if std::mem::replace(&mut self.reconnecting, true) {
            return;
        }
        let (connection, pause, watchdog) =
            (self.vm.connection.clone(), self.fresh.timings.reconnect_pause, self.watchdog.clone());
        self.running.spawn(async move {
            let (mut told, mut silent) = (false, None);
            loop {
                let running = watchdog.running();
                let Err(error) = connection.connect().await else { break };
                if let (libvirt::Error::Deadline { .. }, Some(generation)) = (&error, running) {
                    // Twice in a row, so that a busy machine alone is not enough.
                    if silent.replace(generation) == Some(generation) {
                        watchdog.hangs(generation);
                    }
                }
                if !told {
                    tracing::warn!("cannot reconnect to libvirt yet: {error}");
                    told = true;
                }
                tokio::time::sleep(pause).await;
            }
            tracing::info!("connected to libvirt again");
            Turn::Reconnected
        });
    }
}
