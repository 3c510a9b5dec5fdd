//! Signals, acknowledgements and the daemon's failure in the form in which the main line watches them.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::metadata::MetadataCache;
use crate::daemon::DaemonState;

/// Receives the termination signals from now on; the first one counts, later ones are swallowed. `earlier`: one came so long
/// ago, to a launcher before this one.
pub(super) fn watch_signals(earlier: Option<Duration>) -> std::io::Result<watch::Receiver<Option<Instant>>> {
    let now = Instant::now();
    let (sender, receiver) = watch::channel(earlier.map(|ago| now.checked_sub(ago).unwrap_or(now)));
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), SignalKind::quit()] {
        let (mut signals, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                let first = sender.send_if_modified(|since| {
                    let first = since.is_none();
                    since.get_or_insert_with(Instant::now);
                    first
                });
                if first {
                    tracing::info!("received signal {}, shutting down", kind.as_raw_value());
                }
            }
        });
    }
    Ok(receiver)
}

/// On the signal the VM is marked; virt-handler hears of it and drives the shutdown (contract/lifecycle.md 7.2).
pub(super) fn mark_for_shutdown(
    signalled: watch::Receiver<Option<Instant>>,
    metadata: MetadataCache,
) -> watch::Receiver<Option<Instant>> {
    let mut waiting = signalled.clone();
    tokio::spawn(async move {
        if waiting.wait_for(Option::is_some).await.is_ok() {
            metadata.edit(|metadata| {
                metadata.grace_period.get_or_insert_default().marked_for_graceful_shutdown = Some(true);
            });
        }
    });
    signalled
}

/// True once virt-handler has acknowledged the notification with this generation.
pub(super) fn told(
    mut wanted: watch::Receiver<Option<u64>>,
    mut acknowledged: watch::Receiver<u64>,
) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let generation = match wanted.wait_for(Option::is_some).await {
            Ok(generation) => generation.unwrap_or_default(),
            Err(_) => return,
        };
        if acknowledged.wait_for(|told| *told >= generation).await.is_ok() {
            sender.send_replace(true);
        }
    });
    receiver
}

/// Why the daemon will not be started any more, once that is so.
pub(super) fn failure(mut state: watch::Receiver<DaemonState>) -> watch::Receiver<Option<String>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        if let Ok(state) = state.wait_for(|state| matches!(state, DaemonState::Failed { .. })).await
            && let DaemonState::Failed { reason } = &*state
        {
            sender.send_replace(Some(reason.clone()));
        }
    });
    receiver
}
