//! What a policy asks for.

use std::time::Duration;

/// One call to make, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The call.
    pub order: Order,
    /// Why, with figures; for the log, and with [`Order::Cancel`] for the record.
    pub reason: String,
    pub(super) purpose: Purpose,
}

/// A call to libvirt, or the abort that has its own rules (contract/migration.md 7.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `virDomainMigrateSetMaxDowntime`, whole milliseconds.
    SetMaxDowntime(Duration),
    /// `virDomainMigrateStartPostCopy`.
    StartPostCopy,
    /// `virDomainSuspend`.
    Suspend,
    /// Cancel the migration.
    Cancel,
}

/// What an order is for; its outcome means different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The stall strategy's first downtime.
    Initial,
    /// Downtime tuning (7.3): from, to, in milliseconds.
    Tune(u64, u64),
    /// The legacy strategy's help (7.2 row 2).
    Help,
    /// The stall strategy's decision at a stalled iteration.
    SwitchOver,
    /// The stall strategy's last attempt when the time is over.
    LastAttempt,
    /// Give up.
    GiveUp,
}

/// A line for the log, in the VMI's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Told at the default verbosity.
    Info(String),
    /// What a person may want to act upon.
    Warning(String),
}

impl Step {
    pub(super) fn downtime(milliseconds: u64, purpose: Purpose, reason: String) -> Self {
        Step { order: Order::SetMaxDowntime(Duration::from_millis(milliseconds)), reason, purpose }
    }

    pub(super) fn cancel(reason: String) -> Self {
        Step { order: Order::Cancel, reason, purpose: Purpose::GiveUp }
    }

    /// What to log before the call; none for a call that is logged when it has succeeded.
    pub fn announcement(&self) -> Option<Notice> {
        let reason = &self.reason;
        match (self.order, self.purpose) {
            (_, Purpose::Initial | Purpose::Tune(..)) => None,
            (Order::SetMaxDowntime(downtime), _) => {
                let milliseconds = downtime.as_millis();
                Some(Notice::Info(format!("setting max downtime to {milliseconds}ms to switch over: {reason}")))
            }
            (Order::StartPostCopy, _) => Some(Notice::Info(format!("starting post-copy: {reason}"))),
            (Order::Suspend, _) => {
                Some(Notice::Info(format!("pausing the guest so that the migration ends: {reason}")))
            }
            (Order::Cancel, _) => Some(Notice::Warning(format!("cancelling the migration: {reason}"))),
        }
    }

    /// What to log when the call failed, together with libvirt's reason.
    pub(super) fn failure(&self) -> Option<Notice> {
        match (self.order, self.purpose) {
            (_, Purpose::Tune(_, to)) => {
                Some(Notice::Warning(format!("downtime tuning: failed to set max_downtime to {to}ms")))
            }
            (Order::SetMaxDowntime(_), _) => Some(Notice::Warning("setting max downtime failed".into())),
            (Order::StartPostCopy, _) => Some(Notice::Warning("starting post-copy failed".into())),
            (Order::Suspend, _) => Some(Notice::Warning("pausing the guest failed".into())),
            // The abort logs its outcome itself.
            (Order::Cancel, _) => None,
        }
    }
}
