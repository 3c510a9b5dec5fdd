//! How far a migration to another node has come, for those who ask for statistics.

use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::JobSample;

/// The last figures of the migration that is under way. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct MigrationProgress(Arc<Mutex<Option<JobSample>>>);

impl MigrationProgress {
    /// The last figures; none while there is no migration.
    pub fn last(&self) -> Option<JobSample> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the last figures; none when the migration has ended.
    pub fn set(&self, sample: Option<JobSample>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sample;
    }
}
