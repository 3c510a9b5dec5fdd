//! The one writer of the published state: on each trigger it reads the domain, publishes what GetDomain answers and hands
//! virt-handler's next notification to the outbox (contract/notify.md 5.1).
//!
//! What the reader can rely on: triggers are never dropped. While libvirt cannot be asked they are kept and added up, and
//! the refresh happens when the connection is back. Many triggers at once make one refresh. Every operation ends with a
//! refresh, and a domain that is seen in the middle of its start is read again, so that virt-handler's last event never
//! shows such a moment.

mod introduction;

use std::sync::Arc;
use std::time::Duration;

use introduction::Introductions;
use tokio::sync::{mpsc, oneshot, watch};

use super::domain_log::DomainLog;
use super::faults::Faults;
use super::notification::NotificationKind;
use crate::domain::{
    Domain, DomainSpec, DomainState, DomainStatus, GracePeriodMetadata, KubeVirtMetadata, LifeCycle, ObjectMeta,
    StateReason, Time,
};
use crate::guest_agent::GuestData;
use crate::hypervisor::{ControlError, VmControl};
use crate::launcher::guest::Guest;
use crate::launcher::vm::Vm;
use crate::launcher::vm::identity::Identity;
use crate::launcher::vm::metadata::MetadataCache;
use crate::launcher::vm::process::{HypervisorProcess, Tracker};
use crate::launcher::vm::state_file::{Document, Restored, StateFile};
use crate::libvirt::{self, DomainSnapshot, Lifecycle};
use crate::notify::{EventType, Outbox};

/// What libvirt says of a domain that ended before its daemon was started.
const ENDED_WITHOUT_REASON: DomainState = DomainState::new(LifeCycle::Shutoff, StateReason::Unknown);

/// Why the publisher reads the domain.
#[derive(Debug)]
pub enum Trigger {
    /// A lifecycle event of libvirt.
    Lifecycle(Lifecycle),
    /// Anything else that may have changed the live XML: device and agent events, the end of an operation.
    Changed,
    /// A backup has ended, which the metadata shows.
    BackupEnded,
    /// A reader wants to see the present state; virt-handler is not notified. The sender is dropped when it is published.
    Refresh(oneshot::Sender<()>),
    /// An operation on the VM has ended, well or not; virt-handler is notified if the domain is not as in its last event.
    /// libvirt sends no event of a start that fails. The sender is dropped after the refresh.
    Settled(oneshot::Sender<()>),
    /// libvirt does not come back, and the VM has been ended: virt-handler is notified without asking libvirt.
    Lost,
    /// The connection to libvirt is new; whatever happened meanwhile has to be seen now.
    Reconnected,
}

/// The state that readers see without asking libvirt.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// The document that GetDomain answers; absent while libvirt knows no domain.
    pub domain: Option<Arc<Domain>>,
    /// The same as JSON.
    pub json: Option<Arc<str>>,
}

impl From<Document> for Published {
    fn from(Document { domain, json }: Document) -> Self {
        Published { domain: Some(domain), json: Some(json) }
    }
}

/// The publisher's means and its outputs.
pub struct Publisher {
    identity: Identity,
    control: Arc<dyn VmControl>,
    metadata: MetadataCache,
    outbox: Outbox,
    guest: Guest,
    /// What the guest's agent has answered; it announces changes.
    guest_data: watch::Receiver<GuestData>,
    /// The same as of the last notification for its sake.
    guest_notified: GuestData,
    /// Agents that are connected and have not introduced themselves.
    introductions: Introductions,
    /// The document that was handed to the outbox last.
    last: watch::Sender<Option<Arc<str>>>,
    /// What virt-handler has acknowledged.
    acknowledged: watch::Receiver<u64>,
    /// Where the document is kept for the next launcher.
    state_file: StateFile,
    triggers: mpsc::UnboundedReceiver<Trigger>,
    published: watch::Sender<Published>,
    faults: Faults,
    /// Whether the VM has been running.
    tracker: Tracker,
    /// Its hypervisor's process.
    process: watch::Receiver<HypervisorProcess>,
    /// The crash was published before libvirt, which takes its time to see it, reported it.
    crashed: bool,
    /// libvirt's log of the domain.
    domain_log: DomainLog,
    /// Generation of the notification of the deletion.
    deletion: watch::Sender<Option<u64>>,
    /// Generation of the notification that asks for the VM's shutdown.
    marked: watch::Sender<Option<u64>>,
    /// How long to wait before a refresh that failed is repeated, unless the connection comes back before.
    retry: Duration,
    /// Whether libvirt has ever shown a domain: before that there is nothing to publish.
    seen: bool,
}

/// The publisher's end that others hold.
#[derive(Clone)]
pub struct Publications {
    triggers: mpsc::UnboundedSender<Trigger>,
    /// What readers see.
    pub published: watch::Receiver<Published>,
    /// The generation under which the deletion was handed to the outbox.
    pub deletion: watch::Receiver<Option<u64>>,
    /// The generation under which the wish for a graceful shutdown was handed to the outbox.
    pub marked: watch::Receiver<Option<u64>>,
}

impl Publications {
    /// Asks for a refresh. Never blocks.
    pub fn request_refresh(&self, trigger: Trigger) {
        // A publisher that has ended publishes no more.
        let _ = self.triggers.send(trigger);
    }

    /// Waits until the published state is not older than this call, as far as libvirt answers.
    pub async fn refreshed(&self) {
        self.wait(Trigger::Refresh).await;
    }

    /// The same after an operation.
    pub async fn settled(&self) {
        self.wait(Trigger::Settled).await;
    }

    async fn wait(&self, trigger: fn(oneshot::Sender<()>) -> Trigger) {
        let (sender, published) = oneshot::channel();
        self.request_refresh(trigger(sender));
        // Ends with the sender; it is never used to send.
        let _ = published.await;
    }
}

/// What the next refresh is for.
#[derive(Default)]
struct Pending {
    /// The notification that virt-handler gets in any case.
    notification: Option<NotificationKind>,
    /// Whether virt-handler is notified of what it does not know yet.
    news: bool,
    /// Lifecycle events since the last refresh.
    lifecycle: Vec<Lifecycle>,
    /// Readers that wait for the refresh.
    readers: Vec<oneshot::Sender<()>>,
    /// libvirt does not come back.
    lost: bool,
}

impl Pending {
    fn request(&mut self, kind: NotificationKind) {
        self.notification = Some(self.notification.unwrap_or_default().and(kind));
    }

    fn add(&mut self, trigger: Trigger) {
        match trigger {
            Trigger::Lifecycle(lifecycle) => {
                self.lifecycle.push(lifecycle);
                self.request(NotificationKind::from_lifecycle(lifecycle));
            }
            Trigger::Changed => self.request(NotificationKind::default()),
            // virt-handler looks at backups when a domain is new to it (contract/notify.md 5.4).
            Trigger::BackupEnded => self.request(NotificationKind { added: true, deletion_if_gone: false }),
            // An UNDEFINED or STOPPED may have been missed; if the domain is gone now, it was deleted.
            Trigger::Reconnected => self.request(NotificationKind { added: false, deletion_if_gone: true }),
            Trigger::Lost => {
                self.lost = true;
                self.request(NotificationKind { added: false, deletion_if_gone: true });
            }
            Trigger::Refresh(reader) => self.readers.push(reader),
            Trigger::Settled(reader) => {
                self.news = true;
                self.readers.push(reader);
            }
        }
    }

    /// Whether a refresh has not succeeded yet.
    fn needs_refresh(&self) -> bool {
        self.notification.is_some() || self.news
    }

    /// Who is to hear of the refresh that has succeeded.
    fn take(&mut self) -> Audience {
        match (self.notification.take(), std::mem::take(&mut self.news)) {
            (Some(kind), _) => Audience::Always(kind),
            (None, true) => Audience::News,
            (None, false) => Audience::Nobody,
        }
    }
}

/// Whether virt-handler is notified of an observation.
#[derive(Debug, Clone, Copy)]
enum Audience {
    /// In any case.
    Always(NotificationKind),
    /// If it is not what virt-handler's last event shows: not a moment in the middle of a start, nor that the domain is gone,
    /// for which libvirt sends an event.
    News,
    /// Not at all.
    Nobody,
}

/// A domain at one moment.
struct Observation {
    state: DomainState,
    /// Absent where there was none to be had.
    spec: Option<DomainSpec>,
}

impl From<DomainSnapshot> for Observation {
    fn from(snapshot: DomainSnapshot) -> Self {
        let DomainSnapshot { state, xml } = snapshot;
        let spec = xml.and_then(|xml| {
            let read = DomainSpec::from_xml(&xml);
            read.inspect_err(|error| tracing::error!(reason = %error, "libvirt's domain XML cannot be read")).ok()
        });
        Observation { state, spec }
    }
}

impl Publisher {
    /// A publisher of `vm` and its handle. libvirt's `domain_log` has the reason of an end that nobody saw, and the details of
    /// guest panics.
    pub fn new(
        identity: Identity,
        vm: &Vm,
        outbox: Outbox,
        domain_log: DomainLog,
        retry: Duration,
        restored: &Restored,
    ) -> (Self, Publications) {
        let (sender, triggers) = mpsc::unbounded_channel();
        // While its hypervisor lives it is true but for what has happened since, and known before there is a libvirt to ask.
        let document = restored.document.clone().filter(|_| restored.hypervisor_lives);
        let shown = document.map(Published::from).unwrap_or_default();
        let (published, deletion) = (watch::Sender::new(shown), watch::Sender::new(None));
        let marked = watch::Sender::new(None);
        let publications = Publications {
            triggers: sender,
            published: published.subscribe(),
            deletion: deletion.subscribe(),
            marked: marked.subscribe(),
        };
        let guest_data = vm.guest.data();
        let guest_notified = guest_data.borrow().clone();
        let publisher = Publisher {
            identity,
            control: Arc::clone(&vm.control),
            metadata: vm.metadata.clone(),
            acknowledged: outbox.acknowledged(),
            outbox,
            introductions: Introductions::default(),
            last: watch::Sender::new(None),
            guest_data,
            guest_notified,
            guest: vm.guest.clone(),
            faults: Faults::new(domain_log.clone(), restored.state.panics.clone()),
            tracker: vm.tracker.clone(),
            process: vm.tracker.subscribe(),
            crashed: false,
            domain_log,
            state_file: restored.file.clone(),
            triggers,
            published,
            deletion,
            marked,
            retry,
            // The previous launcher may have shown this domain to virt-handler.
            seen: vm.tracker.was_seen(),
        };
        (publisher, publications)
    }

    /// Runs until every `Publications` is gone.
    pub async fn run(mut self) {
        let mut pending = Pending::default();
        loop {
            tokio::select! {
                trigger = self.triggers.recv() => match trigger {
                    Some(trigger) => pending.add(trigger),
                    None => return,
                },
                Ok(()) = self.guest_data.changed() => {
                    let now = self.guest_data.borrow_and_update().clone();
                    self.state_file.change(|state| (state.freeze, state.agent) = (now.freeze.clone(), now.introduction()));
                    if !now.tells_more_than(&self.guest_notified) {
                        continue;
                    }
                    self.guest_notified = now;
                    pending.request(NotificationKind::default());
                }
                () = self.introductions.overdue() => pending.news = true,
                () = self.metadata.changed() => pending.request(NotificationKind::default()),
                Ok(()) = self.process.changed() => {
                    self.announce_crash();
                    continue;
                }
                // A daemon that hung and woke up again gives no sign of it.
                () = tokio::time::sleep(self.retry), if pending.needs_refresh() || self.faults.unasked() => {}
            }
            while let Ok(trigger) = self.triggers.try_recv() {
                pending.add(trigger);
            }
            for lifecycle in pending.lifecycle.drain(..) {
                if let Some(message) = self.faults.note(lifecycle).await {
                    self.state_file.change(|state| state.panics.clone_from(self.faults.panics()));
                    self.guest.warning("GuestPanicked", message);
                }
            }
            if pending.lost {
                self.faults.spare_disks();
                self.publish(pending.take(), None);
                pending.readers.clear();
                continue;
            }
            match self.control.snapshot().await {
                Ok(mut snapshot) => {
                    self.explain_end(&mut snapshot).await;
                    let failing = self.faults.concern_disks(&snapshot);
                    let starting = snapshot.state.is_starting();
                    self.publish(pending.take(), Some(snapshot.into()));
                    // Whatever becomes of the start: there may be no event of its end.
                    pending.news = starting;
                    if failing {
                        self.report_disk_errors().await;
                    }
                }
                Err(error) if error.is_no_domain() => {
                    self.faults.spare_disks();
                    self.publish(pending.take(), None);
                }
                Err(error) => tracing::warn!("the domain's state cannot be read now, its notification waits: {error}"),
            }
            pending.readers.clear();
        }
    }

    /// Sets the reason of the VM's end. A hypervisor that was killed does not run, even where libvirt has not seen that
    /// yet. A VM that ended in a migration without libvirt knowing how may run at the target: until the migration's end, which
    /// has a deadline, it stands still, for virt-handler would give up the whole VM.
    async fn explain_end(&self, snapshot: &mut DomainSnapshot) {
        if self.crashed && !snapshot.state.may_be_started() {
            snapshot.state = DomainState::CRASHED;
        }
        if snapshot.state.status != LifeCycle::Shutoff {
            return;
        }
        let state = self.state_file.state();
        if state.left {
            snapshot.state.reason = StateReason::Migrated;
            return;
        }
        if !self.crashed {
            snapshot.state.reason = self.reason_of_end(snapshot.state).await;
        }
        let is_leaving = !state.incoming && self.metadata.snapshot().migration_under_way().is_some();
        if is_leaving && snapshot.state == DomainState::CRASHED {
            snapshot.state = DomainState::new(LifeCycle::Paused, StateReason::Migration);
        }
    }

    /// A libvirt daemon that was started after the VM's end does not know how it ended: it gives no reason, which virt-handler
    /// takes for a VM that is yet to be started (contract/notify.md 5.1), or says that it crashed.
    async fn reason_of_end(&self, state: DomainState) -> StateReason {
        let told = match state {
            ENDED_WITHOUT_REASON if !self.tracker.was_seen() => return state.reason,
            ENDED_WITHOUT_REASON | DomainState::CRASHED => self.domain_log.reason_of_end().await,
            _ => return state.reason,
        };
        told.unwrap_or_else(|| match self.metadata.snapshot().grace_period {
            _ if state == DomainState::CRASHED => StateReason::Crashed,
            Some(GracePeriodMetadata { deletion_timestamp: Some(_), .. }) => StateReason::Shutdown,
            Some(_) | None => StateReason::Crashed,
        })
    }

    /// Publishes that the VM has crashed when its hypervisor was killed, without asking libvirt, which reports it when it has
    /// cleaned up: some 50 ms later, and 250 ms where it looks for the process before that was reaped. The end of one that
    /// was not seen running is a failed start, which libvirt explains.
    fn announce_crash(&mut self) {
        if *self.process.borrow_and_update() != HypervisorProcess::Killed {
            return;
        }
        let shown = self.published.borrow().domain.clone();
        let runs = |domain: &Arc<Domain>| {
            matches!(domain.status.status, LifeCycle::Running | LifeCycle::Blocked | LifeCycle::Paused)
        };
        if let Some(domain) = shown.filter(runs) {
            self.crashed = true;
            let observation = Observation { state: DomainState::CRASHED, spec: Some(domain.spec.clone()) };
            self.publish(Audience::Always(NotificationKind::default()), Some(observation));
        }
    }

    /// Which disks paused the VM. libvirt is asked again while it does not answer; where it answers that it cannot tell, at
    /// the next look.
    async fn report_disk_errors(&mut self) {
        match self.control.disk_errors().await {
            Ok(errors) => {
                for message in self.faults.disk_errors(errors, self.published.borrow().domain.as_deref()) {
                    self.guest.warning("IOerror", message);
                }
            }
            Err(error) => {
                tracing::warn!("which disk paused the VM cannot be asked: {error}");
                if let ControlError::Libvirt(libvirt::Error::Libvirt(_)) = error {
                    self.faults.spare_disks();
                }
            }
        }
    }

    /// Publishes one observation; `None`: libvirt knows no domain.
    fn publish(&mut self, audience: Audience, observation: Option<Observation>) {
        if observation.is_none() && !self.seen {
            return;
        }
        self.seen = true;
        let gone = observation.is_none();
        let metadata = self.metadata.snapshot();
        let marked = metadata.grace_period.as_ref().and_then(|grace| grace.marked_for_graceful_shutdown) == Some(true);
        let document = self.show(observation, metadata);
        let requested = match audience {
            Audience::Always(requested) => requested,
            Audience::News if !gone && document.status.reason != StateReason::StartingUp => NotificationKind::default(),
            Audience::News | Audience::Nobody => return,
        };
        self.notify(audience, requested, document, gone, marked);
    }

    /// Shows readers the observation; returns virt-handler's document of it.
    fn show(&mut self, observation: Option<Observation>, metadata: KubeVirtMetadata) -> Domain {
        let (interfaces, os_info, freeze, introduced) = {
            let guest = self.guest_data.borrow();
            (guest.interfaces.clone(), guest.os.clone(), guest.freeze.clone(), guest.is_introduced())
        };
        let mut document = Domain {
            object_meta: ObjectMeta {
                name: self.identity.name.clone(),
                namespace: self.identity.namespace.clone(),
                ..ObjectMeta::default()
            },
            status: DomainStatus { interfaces, os_info, ..DomainStatus::default() },
            ..Domain::default()
        };
        let mut uid = self.identity.uid.clone();
        match observation {
            None => {
                document.status.status = LifeCycle::NoState;
                document.status.reason = StateReason::NonExistent;
                document.spec.metadata.kubevirt.uid.clone_from(&self.identity.uid);
                self.guest.seen(None);
                self.state_file.keep_domain(None);
                self.published.send_replace(Published::default());
            }
            Some(Observation { state: DomainState { status, reason }, spec }) => {
                // Whatever was reported of an earlier one, this domain's deletion is still to come.
                self.deletion.send_if_modified(|deletion| deletion.take().is_some());
                document.status.status = status;
                document.status.reason = reason;
                if let Some(spec) = spec {
                    document.spec = spec;
                    // libvirt's may be a shorter one.
                    document.spec.name.clone_from(&self.identity.domain);
                    uid.clone_from(&metadata.uid);
                } else if let Some(shown) = &self.published.borrow().domain {
                    // What cannot be read now is not gone: the agent, for one, is in there.
                    document.spec.clone_from(&shown.spec);
                    self.introductions.restore(&mut document.spec);
                }
                document.spec.metadata.kubevirt = metadata;
                if status.is_down() {
                    // virt-handler would ask the socket about what is live, when the launcher may be gone.
                    document.spec.remove_live_state();
                }
                self.guest.seen(Some(&document));
                self.introductions.show(&mut document.spec, introduced);
                self.publish_document(&document);
            }
        }
        document.object_meta.uid = uid;
        document.status.fs_freeze_status = freeze;
        document
    }

    /// Hands the outbox virt-handler's notification of `document`, unless only news count and its last event shows the same.
    fn notify(
        &mut self,
        audience: Audience,
        requested: NotificationKind,
        mut document: Domain,
        gone: bool,
        marked: bool,
    ) {
        let acknowledged = *self.acknowledged.borrow();
        let news = self.faults.acknowledged(acknowledged);
        self.state_file.change(|state| {
            state.virt_handler_heard |= acknowledged > 0;
            if news {
                state.panics.clone_from(self.faults.panics());
            }
        });
        self.faults.show(&mut document.status);
        let deleted = gone && (requested.deletion_if_gone || self.deletion.borrow().is_some());
        if deleted {
            document.object_meta.deletion_timestamp = Some(Time::now());
        }
        let kind = match (deleted, requested.added) {
            (true, _) => EventType::Deleted,
            (false, true) => EventType::Added,
            (false, false) => EventType::Modified,
        };
        let Some(json) = as_json(&document) else { return };
        let known = self.last.send_replace(Some(Arc::clone(&json)));
        if matches!(audience, Audience::News) && known.as_ref() == Some(&json) {
            return;
        }
        let generation = self.outbox.domain_event(kind, json);
        self.faults.shown(&document.status, generation);
        if deleted {
            keep_first(&self.deletion, generation);
        }
        if marked {
            keep_first(&self.marked, generation);
        }
    }

    fn publish_document(&self, document: &Domain) {
        if let Some(json) = as_json(document) {
            self.state_file.keep_domain(Some(&json));
            self.published.send_replace(Published { domain: Some(Arc::new(document.clone())), json: Some(json) });
        }
    }
}

fn keep_first(first: &watch::Sender<Option<u64>>, generation: u64) {
    first.send_if_modified(|first| {
        let new = first.is_none();
        first.get_or_insert(generation);
        new
    });
}

fn as_json(document: &Domain) -> Option<Arc<str>> {
    match serde_json::to_string(document) {
        Ok(json) => Some(json.into()),
        Err(error) => {
            tracing::error!(reason = %error, "the domain document cannot be written as JSON");
            None
        }
    }
}

#[cfg(test)]
mod tests;
