//! What daemons, hypervisor and firmware print, as log records (contract/lifecycle.md 5.2, 5.3).
//!
//! Nothing here stops reading for what it reads: lines may be endless, no UTF-8, or come faster than a guest should be able
//! to fill the log. Memory per source is bounded by a few times [`MAX_LINE`].

mod copied;
mod firmware;
mod follow;
mod guest;
mod libvirt;
mod limit;
mod lines;
mod mark;
mod qemu;
mod repeats;

pub use copied::copy_log;
pub use firmware::{FirmwareLog, FirmwareLogError};
pub use follow::{Follower, Position, Progress};
pub use libvirt::{LibvirtLog, forward_libvirt, parse_libvirt_line};
pub use limit::{LinesPerSecond, TokenBucket};
pub use lines::{Line, Lines, MAX_LINE};
pub use mark::Mark;
pub use qemu::QemuLog;

use std::fmt;
use std::sync::Arc;

use crate::logging::{Level, forwarded};

/// What another program said, ready for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// `libvirt` or `qemu`.
    pub subcomponent: &'static str,
    /// How bad it is.
    pub level: Level,
    /// The text.
    pub message: String,
    /// `function:line` in the other program.
    pub pos: Option<String>,
    /// The other program's thread.
    pub thread: Option<String>,
    /// In the log's form; none: now.
    pub timestamp: Option<String>,
}

impl Forwarded {
    /// A record of which nothing but the text is known.
    pub fn plain(subcomponent: &'static str, level: Level, message: impl Into<String>) -> Self {
        Forwarded { subcomponent, level, message: message.into(), pos: None, thread: None, timestamp: None }
    }
}

/// Where records go: the log, or a test.
#[derive(Clone)]
pub struct Sink(Arc<dyn Fn(Forwarded) + Send + Sync>);

impl Sink {
    /// Calls `take` for each record, from the runtime's threads; it must not wait.
    pub fn new(take: impl Fn(Forwarded) + Send + Sync + 'static) -> Self {
        Sink(Arc::new(take))
    }

    /// This process's log.
    pub fn log() -> Self {
        Sink::new(|Forwarded { subcomponent, level, message, pos, thread, timestamp }| {
            forwarded(subcomponent, level, &message, pos.as_deref(), thread.as_deref(), timestamp.as_deref()).write();
        })
    }

    /// Hands a record over.
    pub fn put(&self, record: Forwarded) {
        (self.0)(record);
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Sink")
    }
}
