//! A domain's events, jobs and disks as libvirt reports them, without its numbers.

use std::fmt;

use crate::domain::{JobSample, StateReason};

/// A lifecycle event (`virDomainEventType`), with as much of its detail as something depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// The domain was defined; not `added` if it was known before.
    Defined {
        /// libvirt did not know it before.
        added: bool,
    },
    /// libvirt knows the persistent domain no more.
    Undefined,
    /// The hypervisor runs.
    Started {
        /// It came from another host.
        migrated: bool,
    },
    /// The guest is held.
    Suspended,
    /// The guest runs again.
    Resumed,
    /// The hypervisor has ended. The reasons are those of a state that is shut off.
    Stopped(StateReason),
    /// The guest is shutting down.
    ShuttingDown,
    /// The guest suspended itself.
    PmSuspended,
    /// The guest crashed.
    Crashed {
        /// It panicked; else its crash kernel was loaded, and more follows.
        panicked: bool,
    },
    /// An event that libvirt has learnt since.
    Other,
}

/// How a background job on the domain stands or ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobStats {
    /// Whether it runs, or how it ended.
    pub job_type: JobType,
    /// What it does.
    pub operation: JobOperation,
    /// What libvirt says about the failure.
    pub error: Option<String>,
    /// A migration's figures.
    pub migration: JobSample,
}

/// Whether a job runs, or how it ended (`virDomainJobType`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum JobType {
    /// There is none.
    #[default]
    None,
    /// It runs, and its end can be foreseen.
    Bounded,
    /// It runs until it is done or stopped.
    Unbounded,
    /// It ended well.
    Completed,
    /// It failed.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// What libvirt has learnt since, by its number.
    Other(i32),
}

/// What a job does (`virDomainJobOperation`). It prints libvirt's number, as the original does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobOperation(pub(super) i32);

impl JobOperation {
    /// A migration that comes in.
    pub const MIGRATION_IN: Self = JobOperation(4);
    /// A migration that goes out.
    pub const MIGRATION_OUT: Self = JobOperation(5);
    /// A backup of the disks.
    pub const BACKUP: Self = JobOperation(9);
}

impl fmt::Display for JobOperation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// Why a disk failed (`virDomainDiskErrorCode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskError {
    /// An I/O error.
    Unspecified,
    /// There is no space left.
    NoSpace,
}
