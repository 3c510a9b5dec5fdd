//! The one task that changes the VM: others send it requests, libvirt sends it events.
//!
//! What the reader can rely on: at most one of Sync, Pause, Unpause and Shutdown runs at a time, in the order of arrival
//! (contract/cmd-server.md 3.4); Reset, SoftReboot, Kill and Delete pass them by, so that a stuck operation cannot block
//! a stop. A started operation always completes. A queued one is dropped if its caller has gone; after 18 s it is refused,
//! naming the operation ahead of it.

pub(crate) mod fresh_connection;
mod handle;
mod measures;
mod orders;
pub mod queue;

pub use handle::DriverHandle;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{self, JoinSet};

use crate::cmd::Action;
use crate::daemon::Watchdog;
use crate::launcher::error::Error;
use crate::launcher::publish::publisher::Trigger;
use crate::launcher::statistics::{self, Statistics};
use crate::launcher::sync::live;
use crate::launcher::sync::means::Boot;
use crate::launcher::vm::Vm;
use crate::launcher::vm::sev::Sev;
use crate::libvirt::{self, AgentChange, DomainEvent, Event, JobOperation, Lifecycle};
use fresh_connection::{Connected, FreshConnection};
use handle::{Request, answer};
use orders::{Context, Lane};
use queue::ExclusiveQueue;

/// Requests that may wait for the driver before callers are refused.
const WAITING: usize = 64;
/// How long a request may wait in the queue: below the client's 20 s, so that it learns why.
const QUEUE_LIMIT: Duration = Duration::from_secs(18);

/// What has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finished {
    /// An operation, or other work on the VM.
    Operation,
    /// The attempts to connect to libvirt again, with success.
    Reconnected,
}

/// The driver's means.
pub struct Driver {
    context: Arc<Context>,
    /// A reconnect is under way.
    reconnecting: bool,
    requests: mpsc::Receiver<Request>,
    events: mpsc::UnboundedReceiver<Event>,
    running: JoinSet<Finished>,
    /// The exclusive operation, while it runs.
    exclusive: Option<task::Id>,
    queue: ExclusiveQueue<Request>,
}

impl Driver {
    /// A driver and its door. `events` are those of the VM's connection.
    pub(crate) fn new(
        boot: Boot,
        fresh: FreshConnection,
        events: mpsc::UnboundedReceiver<Event>,
        watchdog: Watchdog,
    ) -> (Self, DriverHandle) {
        let FreshConnection { vm, milestones, publications, .. } = fresh.clone();
        let (sender, requests) = mpsc::channel(WAITING);
        let published = publications.published.clone();
        let handle = DriverHandle {
            requests: sender,
            publications,
            version: milestones.version.subscribe(),
            collects_vm_stats: boot.config.vm_stats_collector,
            sev: Sev::new(vm.clone(), boot.config.ovmf_path.clone()),
            statistics: Statistics::new(vm.clone(), published, statistics::Timings::default()),
            vm,
            runtime: Arc::new(boot.runtime.clone()),
        };
        let driver = Driver {
            context: Arc::new(Context { boot, fresh, watchdog }),
            reconnecting: false,
            requests,
            events,
            running: JoinSet::new(),
            exclusive: None,
            queue: ExclusiveQueue::new(QUEUE_LIMIT),
        };
        (driver, handle)
    }

    fn vm(&self) -> &Vm {
        &self.context.fresh.vm
    }

    fn request_refresh(&self, trigger: Trigger) {
        self.context.fresh.publications.request_refresh(trigger);
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
                (late, why) = self.queue.expired() => {
                    tracing::warn!("{why}");
                    answer(late.reply, Err(Error::not_now(why)));
                }
            }
        }
    }

    fn admit(&mut self, request: Request) {
        if request.reply.is_closed() {
            // It waited for the first connection longer than its caller did, who was told so and will ask again.
            return;
        }
        if let Some(early) = self.context.without_daemon(&request.action) {
            if let Err(failure) = &early {
                tracing::warn!("{}", failure.message());
            }
            return answer(request.reply, early);
        }
        if matches!(request.action, Action::HotplugHostDevices(_)) && self.is_plugging() {
            return answer(request.reply, Err(live::host_devices::in_progress()));
        }
        let lane = Lane::of(&request.action);
        let admitted = match lane {
            Lane::Exclusive => self.queue.enter(request.action.rpc(), request),
            Lane::Concurrent => Some(request),
        };
        if let Some(request) = admitted {
            self.start(lane, request);
        }
    }

    /// Whether a plug of host devices runs or waits for its turn.
    fn is_plugging(&self) -> bool {
        self.vm().hotplug.host_devices.is_closed()
            || self.queue.waiting().any(|request| matches!(request.action, Action::HotplugHostDevices(_)))
    }

    fn start(&mut self, lane: Lane, request: Request) {
        // Only now: an order that does not get its turn must not keep the launcher from asking the guest itself.
        if matches!(request.action, Action::Shutdown(_) | Action::Kill(_) | Action::Delete(_)) {
            self.context.fresh.milestones.end_ordered.send_replace(true);
        }
        let context = Arc::clone(&self.context);
        let task = self.running.spawn(async move {
            context.carry_out(request).await;
            Finished::Operation
        });
        if lane == Lane::Exclusive {
            self.exclusive = Some(task.id());
        }
    }

    fn on_end(&mut self, ended: Result<(task::Id, Finished), task::JoinError>) {
        let id = match ended {
            Ok((_, Finished::Reconnected)) => {
                self.reconnecting = false;
                if !self.vm().connection.is_open() {
                    // Lost again before this was seen.
                    return self.reconnect();
                }
                let fresh = self.context.fresh.clone();
                self.running.spawn(async move {
                    fresh.on_connected(Connected::Reconnected).await;
                    Finished::Operation
                });
                return;
            }
            Ok((id, Finished::Operation)) => id,
            Err(error) => {
                tracing::error!(reason = %error, "an operation on the VM ended unexpectedly");
                // Nobody waits for the look.
                self.request_refresh(Trigger::Settled(oneshot::channel().0));
                error.id()
            }
        };
        if self.exclusive != Some(id) {
            return;
        }
        self.exclusive = None;
        while let Some(next) = self.queue.start_next() {
            if !next.reply.is_closed() {
                return self.start(Lane::Exclusive, next);
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Domain(domain, event) => {
                if domain == self.vm().domain {
                    self.on_domain_event(event);
                }
            }
            Event::Closed(generation, reason) => {
                if self.vm().connection.closed(generation, reason) {
                    tracing::warn!("lost the connection to libvirt: {reason}");
                }
                if !self.vm().connection.is_open() {
                    self.reconnect();
                }
            }
            Event::Late(call) => {
                tracing::info!("{call} has ended after all, which was given up at its deadline");
                // The look at the end of its order saw a moment in the middle. Nobody waits for this one.
                self.request_refresh(Trigger::Settled(oneshot::channel().0));
            }
        }
    }

    fn on_domain_event(&mut self, event: DomainEvent) {
        match event {
            DomainEvent::Lifecycle(lifecycle) => return self.on_lifecycle(lifecycle),
            DomainEvent::JobCompleted(stats) if stats.operation == JobOperation::BACKUP => {
                let fresh = self.context.fresh.clone();
                self.running.spawn(async move {
                    fresh.note_end_of_backup(Some(*stats)).await;
                    Finished::Operation
                });
                return;
            }
            DomainEvent::DeviceRemoved(alias) => self.vm().hotplug.device_removed(&alias),
            DomainEvent::Agent(AgentChange::Connected) => self.vm().guest.agent_connected(),
            DomainEvent::Agent(AgentChange::Disconnected)
            | DomainEvent::JobCompleted(_)
            | DomainEvent::DeviceAdded
            | DomainEvent::MemoryDeviceSize => {}
            DomainEvent::MigrationIteration => return self.context.fresh.migrations.outgoing.iteration_begins(),
        }
        self.request_refresh(Trigger::Changed);
    }

    fn on_lifecycle(&mut self, lifecycle: Lifecycle) {
        let FreshConnection { vm, migrations, milestones, .. } = &self.context.fresh;
        migrations.incoming.note_event();
        match lifecycle {
            Lifecycle::Defined { .. } => {
                milestones.defined.send_replace(true);
            }
            Lifecycle::Started { migrated } => {
                vm.tracker.look();
                if migrated {
                    // It is defined only when all of it has come.
                    milestones.defined.send_replace(true);
                }
            }
            _ => vm.tracker.note_end(),
        }
        self.request_refresh(Trigger::Lifecycle(lifecycle));
    }

    fn reconnect(&mut self) {
        if std::mem::replace(&mut self.reconnecting, true) {
            return;
        }
        let (connection, pause, watchdog) =
            (self.vm().connection.clone(), self.context.fresh.timings.reconnect_pause, self.context.watchdog.clone());
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
            Finished::Reconnected
        });
    }
}
