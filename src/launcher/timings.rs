//! The waits of the launcher's start-up, main line and shutdown in one value, so that tests can shorten them.

use std::time::Duration;

use crate::libvirt::Deadlines;

/// How long the launcher waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// Calls into libvirt.
    pub libvirt: Deadlines,
    /// From the start of the daemon to an open connection (contract/lifecycle.md 3.1 step 10).
    pub connect: Duration,
    /// Between two attempts to reconnect to a daemon that runs; libvirt cannot tell when it is ready again.
    pub reconnect_pause: Duration,
    /// How long the final notification may take before the VM is killed (contract/lifecycle.md 8.3).
    pub final_notification: Duration,
    /// The same for a target that was told to leave while its hypervisor lives: libvirt may need 15 s to end that, and
    /// virt-controller wants the pod gone within 30 s.
    pub final_notification_of_target: Duration,
    /// How long it may take after that.
    pub final_notification_after_kill: Duration,
    /// How long an absent virt-handler is waited for beyond `--grace-period-seconds`, once the pod was told to stop. The
    /// kubelet kills the pod 15 s beyond it (contract/lifecycle.md 8.5); the rest is for taking everything down.
    pub leave_after_grace: Duration,
    /// How long no call may have come once virt-handler has acknowledged the end, until the launcher leaves: virt-handler
    /// asks for the guest's information and deletes the domain once more after its own clean-up.
    pub last_calls_idle: Duration,
    /// How long the launcher stays for such calls at most.
    pub last_calls_limit: Duration,
    /// Between two attempts to end the VM once the grace period is over (contract/lifecycle.md 7.1).
    pub kill_retry: Duration,
    /// From the termination signal until virt-handler must have acknowledged it; after that the launcher itself asks the
    /// guest to shut down.
    pub mark_acknowledged: Duration,
    /// From the termination signal until virt-handler must have ordered the shutdown.
    pub shutdown_ordered: Duration,
    /// Between two requests to the guest: one that boots does not hear the first.
    pub shutdown_repeat: Duration,
    /// How long the daemons and the server may take to stop.
    pub stop: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Timings {
            libvirt: Deadlines::default(),
            connect: Duration::from_secs(15),
            reconnect_pause: Duration::from_millis(200),
            final_notification: Duration::from_secs(15),
            final_notification_of_target: Duration::from_secs(5),
            final_notification_after_kill: Duration::from_secs(30),
            leave_after_grace: Duration::from_secs(10),
            last_calls_idle: Duration::from_secs(2),
            last_calls_limit: Duration::from_secs(10),
            kill_retry: Duration::from_secs(1),
            mark_acknowledged: Duration::from_secs(5),
            shutdown_ordered: Duration::from_secs(10),
            shutdown_repeat: Duration::from_secs(5),
            stop: Duration::from_secs(1),
        }
    }
}
