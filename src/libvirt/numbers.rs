//! libvirt's numbers of domain states, their reasons, lifecycle events and jobs, as the types that everybody else knows.

use std::fmt;

use super::params::Params;
use super::types::{DiskError, JobOperation, JobStats, JobType, Lifecycle};
use crate::domain::{DomainState, JobSample, LifeCycle, StateReason};

/// `virDomainState` and the reason that belongs to it, such as `virDomainPausedReason`. A reason that libvirt has learnt since is
/// [`StateReason::Unset`], which the original does not name either.
pub(super) fn domain_state(state: i32, reason: i32) -> DomainState {
    let status = match state {
        0 => LifeCycle::NoState,
        1 => LifeCycle::Running,
        2 => LifeCycle::Blocked,
        3 => LifeCycle::Paused,
        4 => LifeCycle::Shutdown,
        5 => LifeCycle::Shutoff,
        6 => LifeCycle::Crashed,
        7 => LifeCycle::PmSuspended,
        _ => LifeCycle::Unknown,
    };
    DomainState { status, reason: reason_of(status, reason) }
}

fn reason_of(status: LifeCycle, reason: i32) -> StateReason {
    use StateReason as Reason;
    let names: &[Reason] = match status {
        LifeCycle::Paused => &[
            Reason::Unknown,
            Reason::User,
            Reason::Migration,
            Reason::Save,
            Reason::Dump,
            Reason::IoError,
            Reason::Watchdog,
            Reason::FromSnapshot,
            Reason::ShuttingDown,
            Reason::Snapshot,
            Reason::Crashed,
            Reason::StartingUp,
            Reason::Postcopy,
            Reason::PostcopyFailed,
        ],
        LifeCycle::Shutdown => &[Reason::Unknown, Reason::User],
        LifeCycle::Shutoff => &[
            Reason::Unknown,
            Reason::Shutdown,
            Reason::Destroyed,
            Reason::Crashed,
            Reason::Migrated,
            Reason::Saved,
            Reason::Failed,
            Reason::FromSnapshot,
        ],
        LifeCycle::Crashed => &[Reason::Unknown, Reason::Panicked],
        LifeCycle::Unset
        | LifeCycle::NoState
        | LifeCycle::Running
        | LifeCycle::Blocked
        | LifeCycle::PmSuspended
        | LifeCycle::Unknown => return Reason::Unknown,
    };
    usize::try_from(reason).ok().and_then(|at| names.get(at)).copied().unwrap_or_default()
}

/// `virDomainEventType` with the detail that belongs to it, such as `virDomainEventStoppedDetailType`.
pub(super) fn lifecycle(event: i32, detail: i32) -> Lifecycle {
    match event {
        0 => Lifecycle::Defined { added: detail == 0 },
        1 => Lifecycle::Undefined,
        2 => Lifecycle::Started { migrated: detail == 1 },
        3 => Lifecycle::Suspended,
        4 => Lifecycle::Resumed,
        // The details of this event are the reasons of the state, without the unknown one.
        5 => Lifecycle::Stopped(reason_of(LifeCycle::Shutoff, detail.saturating_add(1))),
        6 => Lifecycle::ShuttingDown,
        7 => Lifecycle::PmSuspended,
        // The other detail, a crash kernel that is loaded, is followed by more.
        8 => Lifecycle::Crashed { panicked: detail == 0 },
        _ => Lifecycle::Other,
    }
}

/// `virDomainJobType`.
pub(super) fn job_type(number: i32) -> JobType {
    match number {
        0 => JobType::None,
        1 => JobType::Bounded,
        2 => JobType::Unbounded,
        3 => JobType::Completed,
        4 => JobType::Failed,
        5 => JobType::Cancelled,
        other => JobType::Other(other),
    }
}

/// The number of a [`job_type`].
pub(super) fn number_of(job_type: JobType) -> i32 {
    match job_type {
        JobType::None => 0,
        JobType::Bounded => 1,
        JobType::Unbounded => 2,
        JobType::Completed => 3,
        JobType::Failed => 4,
        JobType::Cancelled => 5,
        JobType::Other(number) => number,
    }
}

impl JobStats {
    pub(super) fn new(number: i32, params: &Params) -> Self {
        let operation = params.int("operation").and_then(|operation| i32::try_from(operation).ok()).unwrap_or(0);
        JobStats {
            job_type: job_type(number),
            operation: JobOperation(operation),
            error: params.text("errmsg").map(str::to_owned),
            migration: job_sample(params),
        }
    }
}

fn job_sample(params: &Params) -> JobSample {
    let figure = |name| params.unsigned(name);
    JobSample {
        time_elapsed: figure("time_elapsed"),
        data_total: figure("data_total"),
        data_processed: figure("data_processed"),
        data_remaining: figure("data_remaining"),
        memory_total: figure("memory_total"),
        memory_processed: figure("memory_processed"),
        memory_remaining: figure("memory_remaining"),
        memory_bps: figure("memory_bps"),
        memory_constant: figure("memory_constant"),
        memory_normal: figure("memory_normal"),
        memory_normal_bytes: figure("memory_normal_bytes"),
        memory_page_size: figure("memory_page_size"),
        memory_dirty_rate: figure("memory_dirty_rate"),
        memory_iteration: figure("memory_iteration"),
        memory_postcopy_requests: figure("memory_postcopy_requests"),
        disk_total: figure("disk_total"),
        disk_processed: figure("disk_processed"),
        disk_remaining: figure("disk_remaining"),
        disk_bps: figure("disk_bps"),
        downtime: figure("downtime"),
        downtime_net: figure("downtime_net"),
    }
}

/// libvirt's number, as the original prints it.
impl fmt::Display for JobType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", number_of(*self))
    }
}

/// `virDomainDiskErrorCode`; `None` for a disk without an error.
pub(super) fn disk_error(number: i32) -> Option<DiskError> {
    match number {
        0 => None,
        2 => Some(DiskError::NoSpace),
        _ => Some(DiskError::Unspecified),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: impl serde::Serialize) -> String {
        serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
    }

    #[test]
    fn states_have_the_names_virt_handler_knows() {
        let names: Vec<String> = (0..=8).map(|state| text(domain_state(state, 0).status)).collect();
        assert_eq!(
            names,
            ["NoState", "Running", "Blocked", "Paused", "ShuttingDown", "Shutoff", "Crashed", "PMSuspended", "Unknown"]
        );
    }

    #[test]
    fn reasons_depend_on_the_state() {
        let reason = |state, code| text(domain_state(state, code).reason);
        assert_eq!(reason(1, 5), "Unknown");
        assert_eq!(reason(3, 5), "IOError");
        assert_eq!(reason(3, 13), "PostcopyFailed");
        assert_eq!(reason(3, 14), "");
        assert_eq!(reason(4, 1), "User");
        assert_eq!(reason(5, 2), "Destroyed");
        assert_eq!(reason(5, 7), "FromSnapshot");
        assert_eq!(reason(5, 8), "");
        assert_eq!(reason(6, 1), "Panicked");
        assert_eq!(reason(6, -1), "");
    }

    #[test]
    fn pauses_on_purpose_have_these_numbers() {
        let on_purpose: Vec<i32> = (0..20).filter(|reason| domain_state(3, *reason).is_paused_on_purpose()).collect();
        assert_eq!(on_purpose, [1, 2, 3, 4, 7, 8, 9, 11, 12]);
    }

    #[test]
    fn job_types_keep_their_numbers() {
        assert!((-1..9).all(|number| number_of(job_type(number)) == number));
    }

    #[test]
    fn lifecycle_events_have_these_numbers() {
        assert_eq!(lifecycle(0, 0), Lifecycle::Defined { added: true });
        assert_eq!(lifecycle(0, 1), Lifecycle::Defined { added: false });
        assert_eq!([lifecycle(1, 0), lifecycle(1, 1)], [Lifecycle::Undefined; 2]);
        assert_eq!(lifecycle(2, 0), Lifecycle::Started { migrated: false });
        assert_eq!(lifecycle(2, 1), Lifecycle::Started { migrated: true });
        assert_eq!([lifecycle(3, 0), lifecycle(4, 1)], [Lifecycle::Suspended, Lifecycle::Resumed]);
        let stopped: Vec<String> = (0..8)
            .map(|detail| match lifecycle(5, detail) {
                Lifecycle::Stopped(reason) => text(reason),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(stopped, ["Shutdown", "Destroyed", "Crashed", "Migrated", "Saved", "Failed", "FromSnapshot", ""]);
        assert_eq!([lifecycle(6, 0), lifecycle(7, 0)], [Lifecycle::ShuttingDown, Lifecycle::PmSuspended]);
        assert_eq!(lifecycle(8, 0), Lifecycle::Crashed { panicked: true });
        assert_eq!(lifecycle(8, 1), Lifecycle::Crashed { panicked: false });
        assert_eq!(lifecycle(9, 0), Lifecycle::Other);
    }
}
