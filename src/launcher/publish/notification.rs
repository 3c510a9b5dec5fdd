//! Which notification a libvirt event turns into (contract/notify.md 5.2), as pure functions.

use crate::domain::StateReason;
use crate::libvirt::Lifecycle;

/// What the causes gathered since the last notification ask of the next one. Causes add up: an unsent ADDED stays an
/// ADDED, a possible deletion stays possible.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NotificationKind {
    /// The event's type is ADDED instead of MODIFIED.
    pub added: bool,
    /// If libvirt does not know the domain any more, it was deleted.
    pub deletion_if_gone: bool,
}

impl NotificationKind {
    /// What one lifecycle event asks for.
    pub fn from_lifecycle(lifecycle: Lifecycle) -> Self {
        NotificationKind {
            added: matches!(lifecycle, Lifecycle::Defined { added: true } | Lifecycle::Started { migrated: true }),
            deletion_if_gone: match lifecycle {
                Lifecycle::Undefined => true,
                Lifecycle::Stopped(reason) => reason != StateReason::Migrated,
                _ => false,
            },
        }
    }

    /// Both causes in one notification.
    pub fn and(self, later: Self) -> Self {
        NotificationKind {
            added: self.added || later.added,
            deletion_if_gone: self.deletion_if_gone || later.deletion_if_gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_ask_for_what_the_contract_says() {
        for (lifecycle, added, deletion_if_gone) in [
            (Lifecycle::Defined { added: true }, true, false),
            (Lifecycle::Defined { added: false }, false, false),
            (Lifecycle::Started { migrated: false }, false, false),
            (Lifecycle::Started { migrated: true }, true, false),
            (Lifecycle::Stopped(StateReason::Shutdown), false, true),
            (Lifecycle::Stopped(StateReason::Migrated), false, false),
            (Lifecycle::Undefined, false, true),
            (Lifecycle::Suspended, false, false),
        ] {
            assert_eq!(
                NotificationKind::from_lifecycle(lifecycle),
                NotificationKind { added, deletion_if_gone },
                "{lifecycle:?}"
            );
        }
    }

    #[test]
    fn causes_add_up() {
        let added = NotificationKind { added: true, deletion_if_gone: false };
        let gone = NotificationKind { added: false, deletion_if_gone: true };
        assert_eq!(added.and(gone), NotificationKind { added: true, deletion_if_gone: true });
        assert_eq!(NotificationKind::default().and(NotificationKind::default()), NotificationKind::default());
    }
}
