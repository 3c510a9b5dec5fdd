//! What is remembered of the VM's devices from one sync to the next.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};

use super::state_file::{Restored, StateFile};
use crate::domain::Disk;
use crate::files::with_deadline;

/// How long the deletion of an overlay may take.
const DELETION: Duration = Duration::from_secs(10);

/// What is remembered between syncs. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Hotplug {
    /// Sizes of claims, and overlays of disks that are leaving; for the next launcher, too.
    pub(crate) state_file: StateFile,
    /// Whether host devices are being plugged.
    pub host_devices: Gate,
    /// Word that the guest has let go of a device.
    pub removals: Arc<Notify>,
    /// Held while an overlay is deleted.
    deleting: Arc<Mutex<()>>,
}

impl Hotplug {
    /// What the previous launcher remembered.
    pub fn restored(restored: &Restored) -> Self {
        Hotplug { state_file: restored.file.clone(), ..Hotplug::default() }
    }

    /// Keeps in mind the overlay of a disk that is about to go. The original deletes it while the guest may still write
    /// (contract/cmd-server.md 11, W9).
    pub(crate) fn remember_overlay(&self, disk: &Disk) {
        if let (Some(alias), Some(_)) = (&disk.alias, &disk.source.data_store) {
            let (alias, overlay) = (alias.xml_name().into_owned(), PathBuf::from(&disk.source.file));
            self.state_file.change(|state| state.leaving_overlays.insert(alias, overlay));
        }
    }

    /// The guest has let go of a device: its overlay goes too. An event of libvirt must not wait for the claim that the overlay
    /// is on.
    pub fn device_removed(&self, alias: &str) {
        self.removals.notify_waiters();
        if self.state_file.state().leaving_overlays.contains_key(alias) {
            let (hotplug, alias) = (self.clone(), alias.to_owned());
            tokio::spawn(async move { hotplug.delete_overlay(&alias).await });
        }
    }

    /// Returns when the overlay is deleted, or not within [`DELETION`]. An event and a sync may ask for the same one: the second
    /// must not delete what a new disk has got under the same name since.
    async fn delete_overlay(&self, alias: &str) {
        let _deleting = self.deleting.lock().await;
        let Some(overlay) = self.state_file.state().leaving_overlays.get(alias).cloned() else { return };
        match delete(overlay.clone()).await {
            Ok(()) => {
                tracing::info!("deleted the overlay {}", overlay.display());
                self.state_file.change(|state| state.leaving_overlays.remove(alias));
            }
            // It stays in the state file: the next change of disks tries again.
            Err(why) => tracing::warn!("failed to delete QCOW2 overlay {} of {alias}: {why}", overlay.display()),
        }
    }

    /// Deletes the overlays of disks that went without an event, as after a lost connection, before new disks are made.
    pub(crate) async fn forget_overlays_of_absent(&self, live: &[Disk]) {
        let there =
            |alias: &str| live.iter().any(|disk| disk.alias.as_ref().is_some_and(|known| known.xml_name() == alias));
        let leaving = self.state_file.state().leaving_overlays;
        for alias in leaving.keys().filter(|alias| !there(alias)) {
            self.removals.notify_waiters();
            self.delete_overlay(alias).await;
        }
    }
}

/// Deletes a file that need not be there.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
async fn delete(path: PathBuf) -> Result<(), String> {
    let deleted = with_deadline(DELETION, move || match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
        Ok(()) | Err(_) => Ok(()),
    });
    deleted.await?
}

/// Whether a plug of host devices is under way.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

/// Opens the gate again.
pub(crate) struct Pass(Gate);

impl Gate {
    /// Whether somebody is inside.
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn enter(&self) -> Pass {
        self.0.store(true, Ordering::Release);
        Pass(self.clone())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Alias, DataStore};

    #[test]
    fn gate_opens_again_however_the_plug_ends() {
        let gate = Gate::default();
        {
            let _pass = gate.enter();
            assert!(gate.is_closed());
        }
        assert!(!gate.is_closed());
    }

    #[tokio::test]
    async fn overlay_outlives_its_disk_until_the_guest_has_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let overlay = folder.path().join("v.qcow2");
        std::fs::write(&overlay, "x").unwrap();
        let mut disk = Disk { alias: Some(Alias::user("v")), ..Disk::default() };
        disk.source.file = overlay.display().to_string();
        let state = tempfile::tempdir().unwrap();
        let hotplug = Hotplug::restored(&Restored::open(state.path(), false));
        hotplug.remember_overlay(&disk);
        hotplug.device_removed("ua-v");
        assert!(overlay.exists(), "a disk without changed block tracking has no overlay");
        disk.source.data_store = Some(DataStore::default());
        hotplug.remember_overlay(&disk);
        drop(hotplug);
        // The next launcher adopts the VM.
        let hotplug = Hotplug::restored(&Restored::open(state.path(), true));
        hotplug.forget_overlays_of_absent(std::slice::from_ref(&disk)).await;
        hotplug.device_removed("ua-other");
        assert!(overlay.exists());
        // The event is here, and its deletion has not begun, when the sync deletes.
        hotplug.device_removed("ua-v");
        hotplug.forget_overlays_of_absent(&[]).await;
        assert!(!overlay.exists());
        std::fs::write(&overlay, "that of the next disk").unwrap();
        // In the order of arrival: the event's deletion has ended when this one begins.
        tokio::task::yield_now().await;
        hotplug.delete_overlay("ua-v").await;
        assert!(overlay.exists());
    }
}
