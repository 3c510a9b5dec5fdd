//! Signals and the daemon's failure in the form in which the main line watches them.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::daemon::DaemonState;
use crate::launcher::vm::metadata::MetadataCache;
use crate::launcher::vm::process::Tracker;

/// Receives the termination signals from now on; the first one counts, later ones are swallowed. `earlier`: one came so long
/// ago, to the previous launcher.
pub(crate) fn watch_signals(earlier: Option<Duration>) -> std::io::Result<watch::Receiver<Option<Instant>>> {
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
pub(crate) fn mark_for_shutdown(
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

/// Why a daemon that the VM needs will not be started any more, once that is so. virtlogd is needed for a start only: a VM that
/// runs goes on without.
pub(crate) fn failure(
    hypervisor_daemon: watch::Receiver<DaemonState>,
    virtlogd: Option<watch::Receiver<DaemonState>>,
    tracker: Tracker,
) -> watch::Receiver<Option<String>> {
    let (sender, receiver) = watch::channel(None);
    let told = sender.clone();
    tokio::spawn(async move {
        if let Some(why) = failed(hypervisor_daemon).await {
            told.send_replace(Some(format!("the libvirt daemon does not come back: {why}")));
        }
    });
    tokio::spawn(async move {
        let Some(virtlogd) = virtlogd else { return };
        let Some(why) = failed(virtlogd).await else { return };
        let why = format!("virtlogd does not come back: {why}");
        if !tracker.was_seen() {
            sender.send_replace(Some(why));
        } else {
            tracing::error!(reason = why, "the VM goes on without virtlogd");
        }
    });
    receiver
}

async fn failed(mut state: watch::Receiver<DaemonState>) -> Option<String> {
    let state = state.wait_for(|state| matches!(state, DaemonState::Failed { .. })).await;
    match &*state.ok()? {
        DaemonState::Failed { reason } => Some(reason.clone()),
        _ => None,
    }
}
