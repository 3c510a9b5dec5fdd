//! Lines that a guest can cause: QEMU's and the firmware's (contract/lifecycle.md 5.3).

use std::time::Instant;

use super::limit::{LinesPerSecond, TokenBucket};
use super::lines::{Lines, MAX_LINE};
use super::{Forwarded, Sink};
use crate::logging::Level;

/// Turns the bytes of one source into records: blank lines dropped, a line that ends in a backslash joined with the
/// following ones (backslash kept, so a QEMU command line is one record), rate-limited.
#[derive(Debug)]
pub(super) struct GuestLines {
    lines: Lines,
    out: Out,
}

#[derive(Debug)]
struct Out {
    /// In front of each record's text.
    prefix: &'static str,
    joined: String,
    bucket: TokenBucket,
    sink: Sink,
}

impl GuestLines {
    pub(super) fn new(prefix: &'static str, rate: LinesPerSecond, sink: Sink) -> Self {
        let bucket = TokenBucket::new(rate, Instant::now());
        let out = Out { prefix, joined: String::new(), bucket, sink };
        GuestLines { lines: Lines::default(), out }
    }

    /// The next bytes of the source.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let GuestLines { lines, out } = self;
        lines.push(bytes, |line| out.line(&line.text()));
    }

    /// How many of the bytes so far are not forwarded yet; none while lines are being joined.
    pub(super) fn pending(&self) -> Option<u64> {
        self.out.joined.is_empty().then(|| self.lines.pending() as u64)
    }

    /// The source has ended, or goes on as another file.
    pub(super) fn finish(&mut self) {
        let GuestLines { lines, out } = self;
        lines.finish(|line| out.line(&line.text()));
        out.flush();
    }

    /// Writes what is still owed: the rest of joined lines, and the number of suppressed ones.
    pub(super) fn end(&mut self) {
        self.finish();
        let suppressed = self.out.bucket.take();
        self.out.note(suppressed);
    }

    /// Waits until a note about suppressed lines is due; for ever if none is. Then call `write_note`.
    pub(super) async fn note_due(&self) {
        match self.out.bucket.note_due() {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn write_note(&mut self) {
        let suppressed = self.out.bucket.note(Instant::now());
        self.out.note(suppressed);
    }
}

impl Out {
    fn line(&mut self, text: &str) {
        if self.joined.is_empty() && text.trim().is_empty() {
            return;
        }
        if self.joined.len().saturating_add(text.len()) > MAX_LINE {
            self.flush();
        }
        self.joined.push_str(text);
        if !text.ends_with('\\') {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.joined);
        if text.is_empty() {
            return;
        }
        let now = Instant::now();
        if self.bucket.admit(now) {
            self.sink.put(Forwarded::plain("qemu", Level::Info, format!("{}{text}", self.prefix)));
        }
        let suppressed = self.bucket.note(now);
        self.note(suppressed);
    }

    fn note(&self, suppressed: Option<u64>) {
        if let Some(suppressed) = suppressed {
            let text = format!("{}{suppressed} lines suppressed", self.prefix);
            self.sink.put(Forwarded::plain("qemu", Level::Warning, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn lines(rate: LinesPerSecond) -> (GuestLines, Arc<Mutex<Vec<Forwarded>>>) {
        let records = Arc::<Mutex<Vec<Forwarded>>>::default();
        let into = Arc::clone(&records);
        (GuestLines::new("[x]: ", rate, Sink::new(move |record| into.lock().unwrap().push(record))), records)
    }

    #[test]
    fn command_lines_are_one_record_and_blank_lines_none() {
        let (mut lines, records) = lines(LinesPerSecond::default());
        lines.push(b"\n  \nqemu \\\n-name x \\\n-m 1\nplain\nopen \\\n");
        lines.push(b"unfinished");
        lines.end();
        let texts: Vec<String> = records.lock().unwrap().iter().map(|record| record.message.clone()).collect();
        assert_eq!(texts, ["[x]: qemu \\-name x \\-m 1", "[x]: plain", "[x]: open \\unfinished"]);
    }

    #[test]
    fn endless_continuation_does_not_grow_without_bound() {
        let (mut lines, records) = lines(LinesPerSecond::default());
        let line = format!("{}\\\n", "y".repeat(1000));
        (0..2 * MAX_LINE / 1000).for_each(|_| lines.push(line.as_bytes()));
        assert!(!records.lock().unwrap().is_empty());
        assert!(lines.out.joined.len() <= MAX_LINE);
    }

    #[test]
    fn floods_are_cut_and_counted() {
        let (mut lines, records) = lines(LinesPerSecond { burst: 3, sustained: 0 });
        (0..10).for_each(|_| lines.push(b"noise\n"));
        lines.end();
        let records = records.lock().unwrap();
        assert_eq!(records.len(), 4);
        assert_eq!(records[3], Forwarded::plain("qemu", Level::Warning, "[x]: 7 lines suppressed"));
    }
}
