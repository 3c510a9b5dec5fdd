//! The notifications that are still to be sent, as values without time or sockets.

use std::collections::VecDeque;
use std::sync::Arc;

/// What a domain document announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    /// The domain is new to virt-handler.
    Added,
    /// The domain is as described now.
    Modified,
    /// The domain is gone; the document has a `deletionTimestamp`. Travels as `MODIFIED`, as virt-handler expects.
    Deleted,
}

/// One document that is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// To be given back to [`DomainQueue::settle`].
    pub generation: u64,
    /// `eventType` on the wire.
    pub wire_type: &'static str,
    /// The domain document.
    pub json: Arc<str>,
}

/// A place in the queue; later content may take it over.
#[derive(Debug)]
struct Slot {
    /// The first generation that was here.
    opened: u64,
    /// The generation of `json`.
    generation: u64,
    /// Since when this has been an ADDED, if it is one.
    added: Option<u64>,
    deleted: bool,
    json: Arc<str>,
}

/// Slots that are worth keeping without virt-handler: two lives of the domain with their ends.
const MOST_AT_A_DELETION: usize = 4;

/// The domain documents not yet acknowledged, oldest first.
///
/// Live states are coalesced to the newest one, and an ADDED among them stays an ADDED. A deletion stays where it is, and
/// so does the last live state before it, since its reason (`Shutdown`, `Crashed`, …) decides how the VM is judged.
#[derive(Debug, Default)]
pub(super) struct DomainQueue {
    slots: VecDeque<Slot>,
    /// The last generation handed out.
    last: u64,
    /// The generation of the deletion, while the domain counts as deleted.
    deletion: Option<u64>,
}

impl DomainQueue {
    /// Takes a new document and returns the generation whose acknowledgement settles it.
    ///
    /// After a deletion only [`EventType::Added`] is news: anything else would raise the dead, and is left out.
    pub(super) fn push(&mut self, event: EventType, json: Arc<str>) -> u64 {
        let added = match (event, self.deletion) {
            (EventType::Modified | EventType::Deleted, Some(deletion)) => return deletion,
            (EventType::Deleted, None) => {
                let generation = self.open(None, true, json);
                self.deletion = Some(generation);
                // Of several lives that were not sent, the oldest are dropped.
                while self.slots.len() > MOST_AT_A_DELETION {
                    self.slots.pop_front();
                }
                return generation;
            }
            (EventType::Added, _) => {
                self.deletion = None;
                true
            }
            (EventType::Modified, None) => false,
        };
        let generation = self.last + 1;
        match self.slots.back_mut() {
            Some(slot) if !slot.deleted => {
                self.last = generation;
                slot.generation = generation;
                slot.added = slot.added.or(added.then_some(generation));
                slot.json = json;
                generation
            }
            Some(_) | None => self.open(added.then_some(generation), false, json),
        }
    }

    fn open(&mut self, added: Option<u64>, deleted: bool, json: Arc<str>) -> u64 {
        self.last += 1;
        self.slots.push_back(Slot { opened: self.last, generation: self.last, added, deleted, json });
        self.last
    }

    /// What to send next.
    pub(super) fn next(&self) -> Option<Outgoing> {
        self.slots.front().map(|slot| Outgoing {
            generation: slot.generation,
            wire_type: if slot.added.is_some() { "ADDED" } else { "MODIFIED" },
            json: Arc::clone(&slot.json),
        })
    }

    /// `generation` was answered, and with it everything older. What took over its slot meanwhile is still to be sent.
    pub(super) fn settle(&mut self, generation: u64) {
        while self.slots.front().is_some_and(|slot| slot.generation <= generation) {
            self.slots.pop_front();
        }
        if let Some(slot) = self.slots.front_mut()
            && slot.opened <= generation
        {
            slot.added = slot.added.filter(|added| *added > generation);
        }
    }

    /// How many documents are still to be sent.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

/// Kubernetes events that may wait; a guest can cause them, so there must be an end.
pub(super) const MOST_K8S_EVENTS: usize = 100;

/// Kubernetes events not yet acknowledged, oldest first.
#[derive(Debug, Default)]
pub(super) struct K8sQueue {
    events: VecDeque<Arc<str>>,
    /// Position of the front since the start, so that a settled event is not mistaken for its successor.
    front: u64,
    dropped: u64,
}

impl K8sQueue {
    /// Takes an event; returns how many have been dropped so far if one had to go for it.
    pub(super) fn push(&mut self, event: Arc<str>) -> Option<u64> {
        self.events.push_back(event);
        if self.events.len() <= MOST_K8S_EVENTS {
            return None;
        }
        self.events.pop_front();
        self.front += 1;
        self.dropped += 1;
        Some(self.dropped)
    }

    /// What to send next, and its position.
    pub(super) fn next(&self) -> Option<(u64, Arc<str>)> {
        self.events.front().map(|event| (self.front, Arc::clone(event)))
    }

    /// The event at `position` was answered.
    pub(super) fn settle(&mut self, position: u64) {
        if position == self.front && self.events.pop_front().is_some() {
            self.front += 1;
        }
    }

    /// How many events are still to be sent.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(queue: &mut DomainQueue, event: EventType, json: &str) -> u64 {
        queue.push(event, Arc::from(json))
    }

    fn drain(queue: &mut DomainQueue) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some(out) = queue.next() {
            sent.push(format!("{} {}", out.wire_type, out.json));
            queue.settle(out.generation);
        }
        sent
    }

    #[test]
    fn unsent_added_stays_added_with_newer_content() {
        let mut queue = DomainQueue::default();
        push(&mut queue, EventType::Added, "defined");
        for n in 0..200 {
            push(&mut queue, EventType::Modified, &format!("state {n}"));
        }
        assert_eq!(drain(&mut queue), ["ADDED state 199"]);
    }

    #[test]
    fn content_that_came_while_sending_is_sent_as_news_of_a_known_domain() {
        let mut queue = DomainQueue::default();
        push(&mut queue, EventType::Added, "defined");
        let sending = queue.next().unwrap();
        let newer = push(&mut queue, EventType::Modified, "running");
        queue.settle(sending.generation);
        assert_eq!(
            queue.next(),
            Some(Outgoing { generation: newer, wire_type: "MODIFIED", json: Arc::from("running") })
        );
    }

    #[test]
    fn added_that_overtakes_a_modified_in_flight_is_not_swallowed() {
        let mut queue = DomainQueue::default();
        push(&mut queue, EventType::Modified, "old");
        let sending = queue.next().unwrap();
        push(&mut queue, EventType::Added, "backup done");
        queue.settle(sending.generation);
        assert_eq!(drain(&mut queue), ["ADDED backup done"]);
    }

    #[test]
    fn failed_send_is_repeated_with_the_newest_content() {
        let mut queue = DomainQueue::default();
        push(&mut queue, EventType::Added, "defined");
        let failed = queue.next().unwrap();
        assert_eq!(failed.wire_type, "ADDED");
        push(&mut queue, EventType::Modified, "running");
        assert_eq!(drain(&mut queue), ["ADDED running"]);
    }

    #[test]
    fn deletion_keeps_the_state_before_it_and_lets_nothing_follow() {
        let mut queue = DomainQueue::default();
        push(&mut queue, EventType::Modified, "running");
        push(&mut queue, EventType::Modified, "shutoff");
        let deletion = push(&mut queue, EventType::Deleted, "deleted");
        assert_eq!(push(&mut queue, EventType::Modified, "zombie"), deletion);
        assert_eq!(push(&mut queue, EventType::Deleted, "deleted again"), deletion);
        assert_eq!(drain(&mut queue), ["MODIFIED shutoff", "MODIFIED deleted"]);
        assert_eq!(push(&mut queue, EventType::Modified, "zombie"), deletion, "also once it was sent");
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn unsent_added_survives_a_deletion() {
        let mut queue = DomainQueue::default();
        push(&mut queue, EventType::Added, "defined");
        push(&mut queue, EventType::Deleted, "deleted");
        assert_eq!(drain(&mut queue), ["ADDED defined", "MODIFIED deleted"]);
    }

    #[test]
    fn new_life_comes_after_the_deletion() {
        let mut queue = DomainQueue::default();
        push(&mut queue, EventType::Modified, "shutoff");
        push(&mut queue, EventType::Deleted, "deleted");
        push(&mut queue, EventType::Added, "defined");
        push(&mut queue, EventType::Modified, "running");
        assert_eq!(drain(&mut queue), ["MODIFIED shutoff", "MODIFIED deleted", "ADDED running"]);
    }

    #[test]
    fn many_unheard_lives_stay_bounded_and_end_true() {
        let mut queue = DomainQueue::default();
        for n in 0..1000 {
            push(&mut queue, EventType::Added, &format!("life {n}"));
            push(&mut queue, EventType::Deleted, &format!("end {n}"));
            assert!(queue.len() <= MOST_AT_A_DELETION + 1);
        }
        assert_eq!(drain(&mut queue), ["ADDED life 998", "MODIFIED end 998", "ADDED life 999", "MODIFIED end 999"]);
    }

    #[test]
    fn settling_the_newest_settles_all() {
        let mut queue = DomainQueue::default();
        push(&mut queue, EventType::Added, "defined");
        let sending = queue.next().unwrap();
        push(&mut queue, EventType::Deleted, "deleted");
        for n in 0..10 {
            push(&mut queue, EventType::Added, &format!("life {n}"));
            push(&mut queue, EventType::Deleted, "deleted");
        }
        queue.settle(sending.generation);
        assert_eq!(queue.len(), MOST_AT_A_DELETION, "what was in flight had already been given up");
    }

    #[test]
    fn oldest_kubernetes_event_gives_way() {
        let mut queue = K8sQueue::default();
        for n in 0..MOST_K8S_EVENTS {
            assert_eq!(queue.push(Arc::from(n.to_string())), None);
        }
        let (position, first) = queue.next().unwrap();
        assert_eq!(&*first, "0");
        assert_eq!(queue.push(Arc::from("one too many")), Some(1));
        queue.settle(position);
        assert_eq!(queue.next().unwrap().1.as_ref(), "1", "the answer to a dropped event settles no other");
        assert_eq!(queue.len(), MOST_K8S_EVENTS);
    }
}
