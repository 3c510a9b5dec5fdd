//! Figures of a migration that goes on, as libvirt's job statistics have them.

use serde::{Deserialize, Serialize};

/// One look at the statistics of an active migration job (`virDomainGetJobStats`, job type "unbounded"). What libvirt did not
/// tell is absent. Amounts are bytes, speeds bytes per second, times milliseconds unless the field says otherwise.
///
/// The totals are those of memory and disks together. While disks are copied first, all figures of memory are 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobSample {
    /// Since the job began.
    pub time_elapsed: Option<u64>,
    pub data_total: Option<u64>,
    pub data_processed: Option<u64>,
    pub data_remaining: Option<u64>,
    pub memory_total: Option<u64>,
    pub memory_processed: Option<u64>,
    pub memory_remaining: Option<u64>,
    pub memory_bps: Option<u64>,
    /// Pages of one repeated byte, which need no transfer.
    pub memory_constant: Option<u64>,
    /// Pages that were sent.
    pub memory_normal: Option<u64>,
    /// Bytes of these pages.
    pub memory_normal_bytes: Option<u64>,
    pub memory_page_size: Option<u64>,
    /// Pages that the guest writes in a second.
    pub memory_dirty_rate: Option<u64>,
    /// How often the whole memory was gone through.
    pub memory_iteration: Option<u64>,
    /// Pages that the target asked for after the switch to post-copy.
    pub memory_postcopy_requests: Option<u64>,
    pub disk_total: Option<u64>,
    pub disk_processed: Option<u64>,
    pub disk_remaining: Option<u64>,
    pub disk_bps: Option<u64>,
    /// Expected while the job goes on, real once it is through.
    pub downtime: Option<u64>,
    /// The downtime without the hosts' clock difference; only of a job that is through.
    pub downtime_net: Option<u64>,
}

impl JobSample {
    /// Whether disks are still copied before memory: QEMU's own migration, of which memory is part, has not begun.
    pub fn copies_disks_first(&self) -> bool {
        let some = |figure: Option<u64>| figure.is_some_and(|figure| figure > 0);
        some(self.disk_total) && !some(self.memory_total)
    }

    /// What the guest writes, in bytes per second.
    pub fn dirty_bps(&self) -> Option<u64> {
        Some(self.memory_dirty_rate?.saturating_mul(self.memory_page_size?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_copied_first_until_there_is_memory_to_move() {
        let disk = JobSample { disk_total: Some(10), ..JobSample::default() };
        assert!(disk.copies_disks_first());
        assert!(JobSample { memory_total: Some(0), ..disk }.copies_disks_first());
        assert!(!JobSample { memory_total: Some(1), ..disk }.copies_disks_first());
        assert!(!JobSample { disk_total: Some(0), ..disk }.copies_disks_first());
        assert!(!JobSample::default().copies_disks_first());
    }

    #[test]
    fn dirty_rate_needs_the_page_size() {
        let rate = JobSample { memory_dirty_rate: Some(5), ..JobSample::default() };
        assert_eq!(rate.dirty_bps(), None);
        assert_eq!(JobSample { memory_page_size: Some(4096), ..rate }.dirty_bps(), Some(20_480));
        assert_eq!(JobSample { memory_page_size: Some(u64::MAX), ..rate }.dirty_bps(), Some(u64::MAX));
    }
}
