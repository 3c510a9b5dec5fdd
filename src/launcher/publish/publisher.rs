//! The one writer of the published state: it looks at the domain whenever there is a cause, publishes what GetDomain
//! answers and hands virt-handler's next notification to the outbox (contract/notify.md 5.1).
//!
//! What the reader can rely on: causes are never dropped. While libvirt cannot be asked they are kept and added up, and
//! the look happens when the connection is back. Many causes at once make one look. Every operation ends with a look, and a
//! domain that is seen in the middle of its start is looked at again, so that such a moment is never the last that
//! virt-handler is told of.

mod introduction;

use std::sync::Arc;
use std::time::Duration;

use introduction::Introductions;
use tokio::sync::{mpsc, oneshot, watch};

use super::domain_log::DomainLog;
use super::faults::Faults;
use super::notification::Wanted;
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

/// Why the publisher should look.
#[derive(Debug)]
pub enum Cause {
    /// A lifecycle event of libvirt.
    Lifecycle(Lifecycle),
    /// Anything else that may have changed the live XML: device and agent events, the end of an operation.
    Changed,
    /// A backup has ended, which the metadata shows.
    BackupEnded,
    /// A reader wants to see the present state; nobody else is told. The sender is dropped when it is published.
    Refresh(oneshot::Sender<()>),
    /// An operation on the VM has ended, well or not; virt-handler is told if that leaves the domain other than it was told
    /// last. libvirt sends no event of a start that fails. The sender is dropped after the look.
    Settled(oneshot::Sender<()>),
    /// libvirt does not come back, and the VM has been ended: virt-handler is told so without asking.
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
    /// What the guest's agent has told, with word of changes.
    guest_data: watch::Receiver<GuestData>,
    /// The same when virt-handler was to be told of it last.
    guest_told: GuestData,
    /// Agents that are connected and have not told of themselves.
    introductions: Introductions,
    /// The document that was handed to the outbox last.
    last: watch::Sender<Option<Arc<str>>>,
    /// What virt-handler has acknowledged.
    acknowledged: watch::Receiver<u64>,
    /// Where the document is kept for the next launcher.
    state_file: StateFile,
    causes: mpsc::UnboundedReceiver<Cause>,
    published: watch::Sender<Published>,
    faults: Faults,
    /// Whether the VM has been running.
    tracker: Tracker,
    /// Its hypervisor, with word of its end.
    process: watch::Receiver<HypervisorProcess>,
    /// virt-handler was told that the VM has crashed, whatever libvirt, which takes its time to see it, says.
    crashed: bool,
    /// libvirt's log of the domain.
    domain_log: DomainLog,
    /// Generation of the notification that told the deletion.
    deletion: watch::Sender<Option<u64>>,
    /// Generation of the notification that told that the VM is to shut down.
    marked: watch::Sender<Option<u64>>,
    /// How long to wait before a look that failed is repeated, unless the connection comes back before.
    retry: Duration,
    /// Whether libvirt has ever shown a domain: before that there is nothing to tell.
    seen: bool,
}

/// The publisher's end that others hold.
#[derive(Clone)]
pub struct Publications {
    causes: mpsc::UnboundedSender<Cause>,
    /// What readers see.
    pub published: watch::Receiver<Published>,
    /// The generation under which the deletion was handed to the outbox.
    pub deletion: watch::Receiver<Option<u64>>,
    /// The generation under which the wish for a graceful shutdown was handed to the outbox.
    pub marked: watch::Receiver<Option<u64>>,
}

impl Publications {
    /// Asks for a look. Never blocks.
    pub fn look(&self, cause: Cause) {
        // A publisher that has ended has nobody left to tell.
        let _ = self.causes.send(cause);
    }

    /// Waits until the published state is not older than this call, as far as libvirt answers.
    pub async fn refreshed(&self) {
        self.looked(Cause::Refresh).await;
    }

    /// The same after an operation.
    pub async fn settled(&self) {
        self.looked(Cause::Settled).await;
    }

    async fn looked(&self, cause: fn(oneshot::Sender<()>) -> Cause) {
        let (sender, published) = oneshot::channel();
        self.look(cause(sender));
        // Ends with the sender; it is never used to send.
        let _ = published.await;
    }
}

/// What is due at the next look.
#[derive(Default)]
struct Due {
    /// What virt-handler is to be told, if anything.
    told: Option<Wanted>,
    /// Whether virt-handler is to be told of what it does not know yet.
    news: bool,
    /// Lifecycle events since the last look.
    lifecycle: Vec<Lifecycle>,
    /// Readers that wait for it.
    readers: Vec<oneshot::Sender<()>>,
    /// Nobody is left to ask.
    lost: bool,
}

impl Due {
    fn tell(&mut self, wanted: Wanted) {
        self.told = Some(self.told.unwrap_or_default().and(wanted));
    }

    fn add(&mut self, cause: Cause) {
        match cause {
            Cause::Lifecycle(lifecycle) => {
                self.lifecycle.push(lifecycle);
                self.tell(Wanted::from_lifecycle(lifecycle));
            }
            Cause::Changed => self.tell(Wanted::default()),
            // virt-handler looks at backups when a domain is new to it (contract/notify.md 5.4).
            Cause::BackupEnded => self.tell(Wanted { added: true, deletion_if_gone: false }),
            // An UNDEFINED or STOPPED may have been missed; if the domain is gone now, it was deleted.
            Cause::Reconnected => self.tell(Wanted { added: false, deletion_if_gone: true }),
            Cause::Lost => {
                self.lost = true;
                self.tell(Wanted { added: false, deletion_if_gone: true });
            }
            Cause::Refresh(reader) => self.readers.push(reader),
            Cause::Settled(reader) => {
                self.news = true;
                self.readers.push(reader);
            }
        }
    }

    /// Whether somebody waits for a look that has not succeeded yet.
    fn is_pending(&self) -> bool {
        self.told.is_some() || self.news
    }

    /// What the look that has succeeded is published for.
    fn take(&mut self) -> Told {
        match (self.told.take(), std::mem::take(&mut self.news)) {
            (Some(wanted), _) => Told::Always(wanted),
            (None, true) => Told::News,
            (None, false) => Told::Nobody,
        }
    }
}

/// Whether virt-handler is told of a look.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// In any case.
    Always(Wanted),
    /// If it shows what virt-handler was not told last: not a moment in the middle of a start, nor that the domain is gone,
    /// which libvirt sends an event of.
    News,
    /// Not at all.
    Nobody,
}

/// A domain at one moment.
struct Look {
    state: DomainState,
    /// Absent where there was none to be had.
    spec: Option<DomainSpec>,
}

impl From<DomainSnapshot> for Look {
    fn from(snapshot: DomainSnapshot) -> Self {
        let DomainSnapshot { state, xml } = snapshot;
        let spec = xml.and_then(|xml| {
            let read = DomainSpec::from_xml(&xml);
            read.inspect_err(|error| tracing::error!(reason = %error, "libvirt's domain XML cannot be read")).ok()
        });
        Look { state, spec }
    }
}

impl Publisher {
    /// A publisher of `vm` and the handle by which it is asked. libvirt's `domain_log` tells how a VM ended that nobody saw
    /// end, and the details of guest panics.
    pub fn new(
        identity: Identity,
        vm: &Vm,
        outbox: Outbox,
        domain_log: DomainLog,
        retry: Duration,
        restored: &Restored,
    ) -> (Self, Publications) {
        let (sender, causes) = mpsc::unbounded_channel();
        // While its hypervisor lives it is true but for what has happened since, and known before there is a libvirt to ask.
        let document = restored.document.clone().filter(|_| restored.hypervisor_lives);
        let shown = document.map(Published::from).unwrap_or_default();
        let (published, deletion) = (watch::Sender::new(shown), watch::Sender::new(None));
        let marked = watch::Sender::new(None);
        let publications = Publications {
            causes: sender,
            published: published.subscribe(),
            deletion: deletion.subscribe(),
            marked: marked.subscribe(),
        };
        let guest_data = vm.guest.data();
        let guest_told = guest_data.borrow().clone();
        let publisher = Publisher {
            identity,
            control: Arc::clone(&vm.control),
            metadata: vm.metadata.clone(),
            acknowledged: outbox.acknowledged(),
            outbox,
            introductions: Introductions::default(),
            last: watch::Sender::new(None),
            guest_data,
            guest_told,
            guest: vm.guest.clone(),
            faults: Faults::new(domain_log.clone(), restored.state.panics.clone()),
            tracker: vm.tracker.clone(),
            process: vm.tracker.subscribe(),
            crashed: false,
            domain_log,
            state_file: restored.file.clone(),
            causes,
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
        let mut due = Due::default();
        loop {
            tokio::select! {
                cause = self.causes.recv() => match cause {
                    Some(cause) => due.add(cause),
                    None => return,
                },
                Ok(()) = self.guest_data.changed() => {
                    let now = self.guest_data.borrow_and_update().clone();
                    self.state_file.change(|state| (state.freeze, state.agent) = (now.freeze.clone(), now.introduction()));
                    if !now.tells_more_than(&self.guest_told) {
                        continue;
                    }
                    self.guest_told = now;
                    due.tell(Wanted::default());
                }
                () = self.introductions.overdue() => due.news = true,
                () = self.metadata.changed() => due.tell(Wanted::default()),
                Ok(()) = self.process.changed() => {
                    self.foretell_crash();
                    continue;
                }
                // A daemon that hung and woke up again gives no sign of it.
                () = tokio::time::sleep(self.retry), if due.is_pending() || self.faults.unasked() => {}
            }
            while let Ok(cause) = self.causes.try_recv() {
                due.add(cause);
            }
            for lifecycle in due.lifecycle.drain(..) {
                if let Some(message) = self.faults.note(lifecycle).await {
                    self.state_file.change(|state| state.panics.clone_from(self.faults.panics()));
                    self.guest.warning("GuestPanicked", message);
                }
            }
            if due.lost {
                self.faults.spare_disks();
                self.publish(due.take(), None);
                due.readers.clear();
                continue;
            }
            match self.control.snapshot().await {
                Ok(mut snapshot) => {
                    self.explain_end(&mut snapshot).await;
                    let failing = self.faults.concern_disks(&snapshot);
                    let starting = snapshot.state.is_starting();
                    self.publish(due.take(), Some(snapshot.into()));
                    // Whatever becomes of the start: nobody may be left to say that it has ended.
                    due.news = starting;
                    if failing {
                        self.tell_disk_errors().await;
                    }
                }
                Err(error) if error.is_no_domain() => {
                    self.faults.spare_disks();
                    self.publish(due.take(), None);
                }
                Err(error) => tracing::warn!("the domain's state cannot be read now, its notification waits: {error}"),
            }
            due.readers.clear();
        }
    }

    /// What virt-handler is told of the VM's end. A hypervisor that was killed does not run, even where libvirt has not seen that
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

    /// Tells of a VM whose hypervisor was killed without asking libvirt, which comes to know it when it has cleaned up
    /// after it: some 50 ms later, and 250 ms where it looks for the process before that was reaped. The end of one that
    /// was not seen running is a failed start, which libvirt explains.
    fn foretell_crash(&mut self) {
        if *self.process.borrow_and_update() != HypervisorProcess::Killed {
            return;
        }
        let shown = self.published.borrow().domain.clone();
        let runs = |domain: &Arc<Domain>| {
            matches!(domain.status.status, LifeCycle::Running | LifeCycle::Blocked | LifeCycle::Paused)
        };
        if let Some(domain) = shown.filter(runs) {
            self.crashed = true;
            let look = Look { state: DomainState::CRASHED, spec: Some(domain.spec.clone()) };
            self.publish(Told::Always(Wanted::default()), Some(look));
        }
    }

    /// Which disks paused the VM. libvirt is asked again while it does not answer; where it answers that it cannot tell, at
    /// the next look.
    async fn tell_disk_errors(&mut self) {
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

    /// Publishes one look; none means that libvirt knows no domain.
    fn publish(&mut self, told: Told, look: Option<Look>) {
        if look.is_none() && !self.seen {
            return;
        }
        self.seen = true;
        let gone = look.is_none();
        let metadata = self.metadata.snapshot();
        let marked = metadata.grace_period.as_ref().and_then(|grace| grace.marked_for_graceful_shutdown) == Some(true);
        let document = self.show(look, metadata);
        let wanted = match told {
            Told::Always(wanted) => wanted,
            Told::News if !gone && document.status.reason != StateReason::StartingUp => Wanted::default(),
            Told::News | Told::Nobody => return,
        };
        self.notify(told, wanted, document, gone, marked);
    }

    /// Shows readers what was looked at; returns virt-handler's document of it.
    fn show(&mut self, look: Option<Look>, metadata: KubeVirtMetadata) -> Domain {
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
        let mut told_uid = self.identity.uid.clone();
        match look {
            None => {
                document.status.status = LifeCycle::NoState;
                document.status.reason = StateReason::NonExistent;
                document.spec.metadata.kubevirt.uid.clone_from(&self.identity.uid);
                self.guest.seen(None);
                self.state_file.keep_domain(None);
                self.published.send_replace(Published::default());
            }
            Some(Look { state: DomainState { status, reason }, spec }) => {
                // Whatever was told of an earlier one, this domain's deletion is still to come.
                self.deletion.send_if_modified(|deletion| deletion.take().is_some());
                document.status.status = status;
                document.status.reason = reason;
                if let Some(spec) = spec {
                    document.spec = spec;
                    // libvirt's may be a shorter one.
                    document.spec.name.clone_from(&self.identity.domain);
                    told_uid.clone_from(&metadata.uid);
                } else if let Some(shown) = &self.published.borrow().domain {
                    // Nobody may take what cannot be read now for gone: the agent, for one, is in there.
                    document.spec.clone_from(&shown.spec);
                    self.introductions.restore(&mut document.spec);
                }
                document.spec.metadata.kubevirt = metadata;
                if status.is_down() {
                    // By whatever road it came: virt-handler asks for what is live when the launcher may be gone.
                    document.spec.remove_live_state();
                }
                self.guest.seen(Some(&document));
                self.introductions.show(&mut document.spec, introduced);
                self.publish_document(&document);
            }
        }
        document.object_meta.uid = told_uid;
        document.status.fs_freeze_status = freeze;
        document
    }

    /// Hands the outbox virt-handler's notification of `document`, unless it was told the same last and wants news only.
    fn notify(&mut self, told: Told, wanted: Wanted, mut document: Domain, gone: bool, marked: bool) {
        let acknowledged = *self.acknowledged.borrow();
        let news = self.faults.acknowledged(acknowledged);
        self.state_file.change(|state| {
            state.virt_handler_heard |= acknowledged > 0;
            if news {
                state.panics.clone_from(self.faults.panics());
            }
        });
        self.faults.show(&mut document.status);
        let deleted = gone && (wanted.deletion_if_gone || self.deletion.borrow().is_some());
        if deleted {
            document.object_meta.deletion_timestamp = Some(Time::now());
        }
        let kind = match (deleted, wanted.added) {
            (true, _) => EventType::Deleted,
            (false, true) => EventType::Added,
            (false, false) => EventType::Modified,
        };
        let Some(json) = as_json(&document) else { return };
        let known = self.last.send_replace(Some(Arc::clone(&json)));
        if matches!(told, Told::News) && known.as_ref() == Some(&json) {
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
