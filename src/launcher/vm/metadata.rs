//! What the launcher remembers of its VM and reports to virt-handler with every domain document
//! (contract/notify.md 4.4). Every change goes into the state file.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::state_file::{Restored, StateFile};
use crate::domain::KubeVirtMetadata;
use crate::vmi::VirtualMachineInstance;

/// The metadata cache. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MetadataCache {
    value: Arc<Mutex<KubeVirtMetadata>>,
    changed: Arc<Notify>,
    state_file: StateFile,
}

impl MetadataCache {
    /// The cache as the previous launcher left it.
    pub fn restored(restored: &Restored) -> Self {
        let value = Arc::new(Mutex::new(restored.state.metadata.clone()));
        MetadataCache { value, changed: Arc::default(), state_file: restored.file.clone() }
    }

    /// The present value.
    pub fn snapshot(&self) -> KubeVirtMetadata {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the value without telling anybody.
    pub fn set(&self, change: impl FnOnce(&mut KubeVirtMetadata)) {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut value);
        self.state_file.change(|state| state.metadata.clone_from(&value));
    }

    /// Changes the value, and notifies virt-handler if it differs afterwards.
    pub fn edit(&self, change: impl FnOnce(&mut KubeVirtMetadata)) {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        let before = value.clone();
        change(&mut value);
        if *value != before {
            self.state_file.change(|state| state.metadata.clone_from(&value));
            self.changed.notify_one();
        }
    }

    /// Waits for the next `edit` that changed something; changes meanwhile are one.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Notes whose VM it is, and how long its shutdown may take. The rest of the grace period stays: a signal may have left its
/// mark there.
pub fn note_vmi(metadata: &mut KubeVirtMetadata, vmi: &VirtualMachineInstance) {
    metadata.uid.clone_from(&vmi.metadata.uid);
    metadata.grace_period.get_or_insert_default().deletion_grace_period_seconds =
        vmi.spec.termination_grace_period_seconds.unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_an_edit_that_changes_something_is_reported() {
        let cache = MetadataCache::default();
        cache.set(|value| value.uid = "u1".into());
        cache.edit(|value| value.uid = "u1".into());
        let told = tokio::time::timeout(Duration::from_secs(1), cache.changed()).await;
        assert!(told.is_err(), "a silent set or an edit without effect was published");
        cache.edit(|value| value.uid = "u2".into());
        cache.edit(|value| value.uid = "u3".into());
        tokio::time::timeout(Duration::from_secs(1), cache.changed()).await.unwrap();
        assert_eq!(cache.snapshot().uid, "u3");
    }
}
