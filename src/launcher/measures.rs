//! The driver's door for whoever wants something measured: past the queue of changes, straight to [`Statistics`].
//!
//! [`Statistics`]: super::statistics::Statistics

use std::sync::Arc;

use super::driver::DriverHandle;
use crate::cmd::{Answer, Measures};

impl Measures for DriverHandle {
    fn domain_stats(&self) -> Answer<Arc<str>> {
        let statistics = self.statistics.clone();
        Box::pin(async move { statistics.domain_stats().await })
    }

    fn dirty_rate(&self) -> Answer<i64> {
        let statistics = self.statistics.clone();
        Box::pin(async move { statistics.dirty_rate().await })
    }
}
