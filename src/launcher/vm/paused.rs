//! VMIs that were paused on purpose.

use super::state_file::{Restored, StateFile};

/// UIDs of VMIs that were paused on purpose, which a sync therefore does not resume. The next launcher knows
/// them, too.
#[derive(Debug, Clone, Default)]
pub struct PausedSet(StateFile);

impl PausedSet {
    /// The set as the previous launcher left it.
    pub fn restored(restored: &Restored) -> Self {
        PausedSet(restored.file.clone())
    }

    /// Adds a VMI.
    pub fn insert(&self, uid: &str) {
        self.0.change(|state| {
            state.paused.insert(uid.to_owned());
        });
    }

    /// Removes a VMI.
    pub fn remove(&self, uid: &str) {
        self.0.change(|state| {
            state.paused.remove(uid);
        });
    }

    /// Forgets all: the domain was seen running.
    pub fn clear(&self) {
        self.0.change(|state| state.paused.clear());
    }

    /// Whether the VMI was paused on purpose.
    pub fn contains(&self, uid: &str) -> bool {
        self.0.state().paused.contains(uid)
    }
}
