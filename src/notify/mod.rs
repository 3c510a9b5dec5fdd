//! Notifications to virt-handler: an outbox that keeps the latest state until it is acknowledged (contract/notify.md).
//!
//! What the reader can rely on: handing something over never waits; whatever virt-handler does, it ends with the true
//! last state, in order; an idle outbox sleeps in the kernel.

mod k8s;
mod link;
mod outbox;
mod queue;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use k8s::{InvolvedObject, K8sEvent, K8sEventType};
pub use outbox::{Delivery, Leftover, Outbox};
pub use queue::EventType;

/// virt-handler's socket below `--kubevirt-share-dir`; virt-handler makes it after it first connected to the launcher.
pub fn socket_below(share_dir: &Path) -> PathBuf {
    share_dir.join("domain-notify-pipe.sock")
}

/// How long the outbox waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// For a connection.
    pub connect: Duration,
    /// For each call, version negotiation included.
    pub call: Duration,
    /// After the first failure; doubled with each further one.
    pub retry_first: Duration,
    /// Between two attempts at most. A socket that appears ends the wait at once.
    pub retry_most: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            connect: Duration::from_secs(2),
            call: Duration::from_secs(5),
            retry_first: Duration::from_millis(50),
            retry_most: Duration::from_secs(1),
        }
    }
}
