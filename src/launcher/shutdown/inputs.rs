//! Signals, acknowledgements and the daemon's failure in the form in which the main line watches them.

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

/// Whether virt-handler has acknowledged the notification with this generation; false while there is none, as after the end of
/// a domain that was made anew.
pub(crate) fn told(
    mut wanted: watch::Receiver<Option<u64>>,
    mut acknowledged: watch::Receiver<u64>,
) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let mut asked = true;
        loop {
            let heard = *acknowledged.borrow_and_update();
            let told = wanted.borrow_and_update().is_some_and(|generation| heard >= generation);
            sender.send_if_modified(|before| std::mem::replace(before, told) != told);
            tokio::select! {
                changed = wanted.changed(), if asked => asked = changed.is_ok(),
                changed = acknowledged.changed() => if changed.is_err() { return },
            }
        }
    });
    receiver
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_an_earlier_domain_is_not_that_of_its_successor() {
        let (wanted, acknowledged) = (watch::Sender::new(None), watch::Sender::new(0));
        let mut deletion_told = told(wanted.subscribe(), acknowledged.subscribe());
        wanted.send_replace(Some(3));
        acknowledged.send_replace(3);
        deletion_told.wait_for(|told| *told).await.unwrap();
        // A define that failed is begun again.
        wanted.send_replace(None);
        deletion_told.wait_for(|told| !*told).await.unwrap();
        acknowledged.send_replace(7);
        wanted.send_replace(Some(8));
        tokio::task::yield_now().await;
        assert!(!*deletion_told.borrow());
        // The publisher has ended; what it published can still be acknowledged.
        drop(wanted);
        acknowledged.send_replace(8);
        deletion_told.wait_for(|told| *told).await.unwrap();
    }
}
