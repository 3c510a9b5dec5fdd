//! VMIs that were paused on purpose.

use super::state_file::SavedStore;

/// UIDs of VMIs that were paused on purpose, which a sync therefore does not resume. A launcher that follows this one
/// knows them, too.
#[derive(Debug, Clone, Default)]
pub struct PausedSet(SavedStore);

impl PausedSet {
    /// The set as the launcher before this one left it.
    pub fn saved_in(saved: SavedStore) -> Self {
        PausedSet(saved)
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
