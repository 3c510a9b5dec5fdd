//! The outbox: two senders, one for the domain's state and one for Kubernetes events, over one connection.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::link::{CallOutcome, GrpcError, Link, Message};
use super::queue::{DomainQueue, K8sQueue};
use super::{EventType, K8sEvent, Timings};
use crate::files::Appearance;

/// One notification on its way to virt-handler.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its generation; `None` while there is none, as after the end of a domain that was made anew.
    pub handed_over: watch::Receiver<Option<u64>>,
    /// The newest generation that virt-handler has acknowledged.
    pub acknowledged: watch::Receiver<u64>,
}

impl Delivery {
    /// Waits until the outbox has the notification; for ever if its owner ends before.
    pub async fn handed_over(&mut self) {
        if self.handed_over.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until virt-handler has acknowledged the notification; for ever if the outbox ends before.
    pub async fn acknowledged(&mut self) {
        let mut has_owner = true;
        loop {
            let newest = *self.acknowledged.borrow_and_update();
            if self.handed_over.borrow_and_update().is_some_and(|generation| newest >= generation) {
                return;
            }
            tokio::select! {
                // The owner may end first: what it handed over can still be acknowledged.
                changed = self.handed_over.changed(), if has_owner => has_owner = changed.is_ok(),
                changed = self.acknowledged.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
            }
        }
    }
}

/// What virt-handler had not acknowledged when the outbox closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leftover {
    /// Domain documents.
    pub domain_events: usize,
    /// Kubernetes events.
    pub k8s_events: usize,
}

/// A handle to the outbox; clones reach the same one. When the last is dropped, nothing more is sent.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
    senders: Arc<Mutex<JoinSet<()>>>,
}

struct Shared {
    queues: Mutex<Queues>,
    /// Wakes the sender of domain documents.
    domain: Notify,
    /// Wakes the sender of Kubernetes events.
    k8s: Notify,
    acknowledged: watch::Sender<u64>,
    leftover: watch::Sender<Leftover>,
}

#[derive(Default)]
struct Queues {
    domain: DomainQueue,
    k8s: K8sQueue,
}

impl Outbox {
    /// Starts the senders in the current runtime. They connect to virt-handler's `socket` when there is something to say.
    pub fn start(socket: PathBuf, timings: Timings) -> Self {
        Outbox::start_in_pod(socket, timings, None)
    }

    /// [`Outbox::start`] in the pod whose processes descend from `monitor`: none of them is taken for virt-handler, whatever
    /// it puts in the place of the socket.
    pub fn start_in_pod(socket: PathBuf, timings: Timings, monitor: Option<i32>) -> Self {
        let shared = Arc::new(Shared {
            queues: Mutex::default(),
            domain: Notify::new(),
            k8s: Notify::new(),
            acknowledged: watch::Sender::new(0),
            leftover: watch::Sender::new(Leftover::default()),
        });
        let link = Arc::new(Link::new(socket, timings, monitor));
        let mut senders = JoinSet::new();
        senders.spawn(send_domain_events(Arc::clone(&shared), Arc::clone(&link)));
        senders.spawn(send_k8s_events(Arc::clone(&shared), link));
        Outbox { shared, senders: Arc::new(Mutex::new(senders)) }
    }

    /// Takes a domain document (contract/cmd-server.md 9.1) and returns its generation; once [`Outbox::acknowledged`]
    /// has reached it, virt-handler knows this state or a newer one.
    ///
    /// After [`EventType::Deleted`] only [`EventType::Added`] is news; what else comes is left out, and the deletion's
    /// generation is returned.
    pub fn domain_event(&self, event: EventType, domain: Arc<str>) -> u64 {
        let generation = {
            let mut queues = self.shared.queues();
            let generation = queues.domain.push(event, domain);
            self.shared.publish_leftover(&queues);
            generation
        };
        self.shared.domain.notify_one();
        generation
    }

    /// Takes a Kubernetes event. A hundred may wait; then the oldest gives way.
    pub fn k8s_event(&self, event: &K8sEvent) {
        let json = match serde_json::to_string(event) {
            Ok(json) => json,
            Err(error) => {
                warn!("Kubernetes event {} cannot be written: {error}", event.reason);
                return;
            }
        };
        {
            let mut queues = self.shared.queues();
            // The first, then ever more rarely: a guest may cause these.
            if let Some(dropped) = queues.k8s.push(Arc::from(json))
                && dropped.is_power_of_two()
            {
                warn!("virt-handler does not take Kubernetes events; {dropped} of the oldest dropped so far");
            }
            self.shared.publish_leftover(&queues);
        }
        self.shared.k8s.notify_one();
    }

    /// The newest generation that virt-handler has answered, 0 before the first.
    pub fn acknowledged(&self) -> watch::Receiver<u64> {
        self.shared.acknowledged.subscribe()
    }

    /// The delivery of the notification whose generation `handed_over` shows, once there is one.
    pub fn delivery(&self, handed_over: watch::Receiver<Option<u64>>) -> Delivery {
        Delivery { handed_over, acknowledged: self.acknowledged() }
    }

    /// Waits until everything is acknowledged, at most for `deadline`, then stops sending. Returns what is left.
    pub async fn close(&self, deadline: Duration) -> Leftover {
        let mut leftover = self.shared.leftover.subscribe();
        // Late or not, what is left says it.
        let _ = tokio::time::timeout(deadline, leftover.wait_for(|left| *left == Leftover::default())).await;
        self.senders.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        *self.shared.leftover.borrow()
    }
}

impl Shared {
    /// No code that holds this lock can panic halfway through a change.
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_leftover(&self, queues: &Queues) {
        let leftover = Leftover { domain_events: queues.domain.len(), k8s_events: queues.k8s.len() };
        self.leftover.send_replace(leftover);
    }
}

async fn send_domain_events(shared: Arc<Shared>, link: Arc<Link>) {
    let mut tries = Tries::default();
    loop {
        let next = shared.queues().domain.next();
        let Some(out) = next else {
            shared.domain.notified().await;
            continue;
        };
        let message = Message::Domain { wire_type: out.wire_type, json: out.json };
        match link.send(&message).await {
            Ok(answer) => {
                tries.succeeded("domain events");
                if let CallOutcome::Refused(why) = answer {
                    warn!("virt-handler refused a domain event: {why}");
                }
                let mut queues = shared.queues();
                queues.domain.settle(out.generation);
                shared.publish_leftover(&queues);
                shared.acknowledged.send_if_modified(|newest| {
                    let newer = out.generation > *newest;
                    *newest = out.generation.max(*newest);
                    newer
                });
            }
            Err(error) => tries.failed(&link, "domain events", error).await,
        }
    }
}

async fn send_k8s_events(shared: Arc<Shared>, link: Arc<Link>) {
    let mut tries = Tries::default();
    loop {
        let next = shared.queues().k8s.next();
        let Some((position, json)) = next else {
            shared.k8s.notified().await;
            continue;
        };
        match link.send(&Message::K8s { json }).await {
            Ok(answer) => {
                tries.succeeded("Kubernetes events");
                if let CallOutcome::Refused(why) = answer {
                    warn!("virt-handler refused a Kubernetes event: {why}");
                }
                let mut queues = shared.queues();
                queues.k8s.settle(position);
                shared.publish_leftover(&queues);
            }
            Err(error) => tries.failed(&link, "Kubernetes events", error).await,
        }
    }
}

/// While the socket is absent the kernel reports its appearance; this covers a directory that was replaced meanwhile.
const ABSENT_RECHECK: Duration = Duration::from_secs(120);

/// Failures in a row, and what is done between them.
#[derive(Default)]
struct Tries {
    failures: u32,
    /// The last logged reason why virt-handler was not reached: a socket without a listener must not hide who
    /// listens there next.
    warned: Option<String>,
    /// Set while there are failures, so that a socket that appears between two attempts is noticed.
    appearance: Option<Appearance>,
}

impl Tries {
    fn succeeded(&mut self, what: &str) {
        if self.failures > 0 {
            info!("virt-handler takes {what} again");
        }
        *self = Tries::default();
    }

    /// Waits until another attempt makes sense.
    async fn failed(&mut self, link: &Link, what: &str, error: GrpcError) {
        let Timings { connect: _, call: _, retry_first, retry_most } = link.timings;
        let first = self.failures == 0;
        let path = link.path.display();
        match &error {
            // Normal until virt-handler has first connected to the launcher.
            GrpcError::Absent if first => info!("{what} wait for virt-handler at {path}"),
            GrpcError::NotConnected(why) | GrpcError::NoAnswer(why) if self.warned.as_ref() != Some(why) => {
                warn!("{what} wait, virt-handler at {path} cannot be reached: {why}");
                self.warned = Some(why.clone());
            }
            GrpcError::Absent | GrpcError::NotConnected(_) | GrpcError::NoAnswer(_) => {}
        }
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        if self.appearance.is_none() {
            self.appearance = Appearance::of(&link.path).ok();
            if self.appearance.is_some() {
                // The socket may have appeared before the watch began: look once more before waiting.
                return;
            }
        }
        let back_off = retry_first.saturating_mul(1 << doublings).min(retry_most);
        match (&mut self.appearance, error) {
            (Some(appearance), GrpcError::Absent) => {
                let appeared = tokio::time::timeout(ABSENT_RECHECK, appearance.appeared()).await;
                self.woken(matches!(appeared, Ok(Ok(()))));
            }
            (Some(appearance), GrpcError::NotConnected(_) | GrpcError::NoAnswer(_)) => {
                let appeared = tokio::time::timeout(back_off, appearance.appeared()).await;
                self.woken(matches!(appeared, Ok(Ok(()))));
            }
            (None, _) => tokio::time::sleep(back_off).await,
        }
    }

    /// A new socket deserves quick attempts: it may be bound and not yet listened to.
    fn woken(&mut self, appeared: bool) {
        if appeared {
            *self = Tries { failures: 1, ..Tries::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn end_of_an_earlier_domain_is_not_that_of_its_successor() {
        let (wanted, acknowledged) = (watch::Sender::new(None), watch::Sender::new(0));
        let delivery = Delivery { handed_over: wanted.subscribe(), acknowledged: acknowledged.subscribe() };
        let is_acknowledged =
            async |within: Duration| tokio::time::timeout(within, delivery.clone().acknowledged()).await.is_ok();
        const LONG: Duration = Duration::from_secs(20);
        wanted.send_replace(Some(3));
        acknowledged.send_replace(3);
        assert!(is_acknowledged(LONG).await);
        // A define that failed is begun again.
        wanted.send_replace(None);
        acknowledged.send_replace(7);
        assert!(!is_acknowledged(Duration::ZERO).await);
        wanted.send_replace(Some(8));
        assert!(!is_acknowledged(Duration::ZERO).await);
        // The publisher has ended; what it published can still be acknowledged.
        drop(wanted);
        acknowledged.send_replace(8);
        assert!(is_acknowledged(LONG).await);
    }
}
