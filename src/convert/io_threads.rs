//! How many IO threads there are and which disk has which (contract/domain-xml-qemu.md 8.7).

use super::context::Context;
use super::error::ConvertError;
use crate::domain::{DiskIoThread, DiskIoThreads};

/// Every disk lists all threads of a pool, so their number must have a bound; QEMU's own is far below.
const MOST_THREADS: u32 = 4096;

/// The counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct IoThreadCounts {
    /// All threads.
    pub total: u64,
    /// Threads shared by the disks without a dedicated one.
    pub auto: u64,
    /// Threads of the supplemental pool.
    pub pool: Option<u32>,
}

/// Whether the VMI asks for IO threads: by a policy, or by a disk with its own.
pub(super) fn has_threads(context: &Context<'_>) -> bool {
    let policy = &context.vmi.spec.domain.io_threads_policy;
    policy.is_some() || context.disks().iter().any(|disk| disk.dedicated_io_thread == Some(true))
}

/// Counts the threads; all zero when the VMI has none.
pub(super) fn count(context: &Context<'_>) -> Result<IoThreadCounts, ConvertError> {
    let domain = &context.vmi.spec.domain;
    let disks = context.disks();
    let is_dedicated = |disk: &&crate::vmi::Disk| disk.dedicated_io_thread == Some(true);
    let policy = domain.io_threads_policy.as_deref();
    if !has_threads(context) {
        return Ok(IoThreadCounts::default());
    }
    if policy == Some("supplementalPool") {
        let count = domain.io_threads.as_ref().and_then(|threads| threads.supplemental_pool_thread_count);
        let Some(count) = count else {
            return Err(ConvertError::field(
                "spec.domain.ioThreads.supplementalPoolThreadCount",
                "needed by ioThreadsPolicy supplementalPool",
            ));
        };
        if count > MOST_THREADS {
            return Err(ConvertError::field(
                "spec.domain.ioThreads.supplementalPoolThreadCount",
                format!("{count} threads, more than {MOST_THREADS}"),
            ));
        }
        return Ok(IoThreadCounts { total: u64::from(count), auto: 0, pool: Some(count) });
    }
    let dedicated = disks.iter().filter(is_dedicated).count() as u64;
    let others = disks.len() as u64 - dedicated;
    let limit = match policy {
        None | Some("shared") => 1,
        Some("auto") => {
            let isolated =
                domain.cpu.as_ref().is_some_and(|cpu| cpu.dedicated_cpu_placement && cpu.isolate_emulator_thread);
            let resources = &domain.resources;
            let cpus = [resources.requests.get("cpu"), resources.limits.get("cpu")];
            let cpus = cpus.into_iter().flatten().next();
            // The rules refuse less than no CPU. More than any machine has is as good as more than there are disks.
            let cpus = cpus.map_or(1, |quantity| u64::try_from(quantity.value()).unwrap_or(1));
            if isolated { 1 } else { 2 * cpus }
        }
        Some(_) => 0,
    };
    let auto = if others + dedicated > limit { limit.saturating_sub(dedicated).max(1) } else { others };
    let auto = if disks.is_empty() { 0 } else { auto };
    Ok(IoThreadCounts { total: auto + dedicated, auto, pool: None })
}

/// Hands the threads out, disk by disk, in order.
pub(super) struct Assignment {
    counts: IoThreadCounts,
    next_auto: u64,
    next_dedicated: u64,
}

impl Assignment {
    pub(super) fn new(counts: IoThreadCounts) -> Self {
        Assignment { counts, next_auto: 1, next_dedicated: counts.auto + 1 }
    }

    /// The thread attribute and the threads child of the next virtio disk.
    pub(super) fn next(&mut self, dedicated: bool) -> (Option<u64>, Option<DiskIoThreads>) {
        if let Some(pool) = self.counts.pool {
            let io_thread = (1..=pool).map(|id| DiskIoThread { id }).collect();
            return (None, Some(DiskIoThreads { io_thread }));
        }
        if self.counts.total == 0 {
            return (None, None);
        }
        let thread = if dedicated { &mut self.next_dedicated } else { &mut self.next_auto };
        let given = *thread;
        *thread += 1;
        if !dedicated && self.next_auto > self.counts.auto {
            self.next_auto = 1;
        }
        (Some(given), None)
    }
}
