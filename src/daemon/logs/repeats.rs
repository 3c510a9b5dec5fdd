//! A daemon that says the same thing over and over says it once.

use std::time::{Duration, Instant};

use super::{Forwarded, Sink};

/// A message that still comes after this time is shown again.
const SHOW_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Holds back records that only repeat the one before them (libvirtd without `/dev/kvm` complains a dozen times for every
/// look at the host's CPU), and counts them.
#[derive(Debug)]
pub struct Repeats {
    sink: Sink,
    shown: Option<Shown>,
}

#[derive(Debug)]
struct Shown {
    record: Forwarded,
    at: Instant,
    /// Times it came again.
    again: u64,
    /// When it came last, in the log's form.
    last: Option<String>,
}

impl Repeats {
    /// Of what goes to this sink.
    pub fn new(sink: Sink) -> Self {
        Repeats { sink, shown: None }
    }

    /// Shows the record, or counts it.
    pub fn put(&mut self, record: Forwarded, now: Instant) {
        if let Some(shown) = &mut self.shown
            && now < shown.at + SHOW_AGAIN_AFTER
            && (shown.record.level, &shown.record.message, &shown.record.pos)
                == (record.level, &record.message, &record.pos)
        {
            shown.again = shown.again.saturating_add(1);
            shown.last = record.timestamp;
            return;
        }
        self.settle();
        self.shown = Some(Shown { record: record.clone(), at: now, again: 0, last: None });
        self.sink.put(record);
    }

    /// When [`Repeats::settle`] is to be called if nothing comes until then.
    pub fn due(&self) -> Option<Instant> {
        self.shown.as_ref().filter(|shown| shown.again > 0).map(|shown| shown.at + SHOW_AGAIN_AFTER)
    }

    /// Tells what was counted.
    pub fn settle(&mut self) {
        let Some(Shown { record, again: again @ 1.., last, .. }) = self.shown.take() else { return };
        let times = if again == 1 { "time" } else { "times" };
        let message = format!("{} ({again} more {times})", record.message);
        self.sink.put(Forwarded { message, timestamp: last, ..record });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::logging::Level;

    fn said(script: &[(u64, &str)]) -> Vec<String> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Sink::new({
            let seen = Arc::clone(&seen);
            move |record: Forwarded| seen.lock().unwrap().push(record.message)
        });
        let mut repeats = Repeats::new(sink);
        let start = Instant::now();
        for (second, text) in script {
            repeats.put(Forwarded::plain("libvirt", Level::Error, *text), start + Duration::from_secs(*second));
        }
        assert_eq!(repeats.due().is_some(), repeats.shown.as_ref().is_some_and(|shown| shown.again > 0));
        repeats.settle();
        repeats.settle();
        Arc::try_unwrap(seen).map(|seen| seen.into_inner().unwrap()).unwrap_or_else(|seen| seen.lock().unwrap().clone())
    }

    #[test]
    fn what_repeats_is_counted() {
        assert_eq!(said(&[(0, "a"), (0, "a"), (1, "a"), (1, "b"), (2, "a")]), ["a", "a (2 more times)", "b", "a"]);
        assert_eq!(said(&[(0, "a"), (0, "a")]), ["a", "a (1 more time)"]);
        assert_eq!(said(&[(0, "a"), (0, "b"), (0, "a"), (0, "b")]), ["a", "b", "a", "b"]);
    }

    #[test]
    fn what_goes_on_is_shown_from_time_to_time() {
        assert_eq!(said(&[(0, "a"), (9, "a"), (10, "a"), (11, "a")]), ["a", "a (1 more time)", "a", "a (1 more time)"]);
    }
}
