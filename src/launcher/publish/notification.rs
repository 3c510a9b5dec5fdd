//! Which notification a libvirt event turns into (contract/notify.md 5.2), as pure functions.

use crate::domain::StateReason;
use crate::libvirt::Lifecycle;

/// What the causes gathered since the last notification ask of the next one. Causes add up: an unsent ADDED stays an
/// ADDED, a possible deletion stays possible.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The event's type is ADDED instead of MODIFIED.
    pub added: bool,
    /// If libvirt does not know the domain any more, it was deleted.
    pub deletion_if_gone: bool,
}

impl Wanted {
    /// What one lifecycle event asks for.
    pub fn from_lifecycle(lifecycle: Lifecycle) -> Self {
        Wanted {
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
        Wanted { added: self.added || later.added, deletion_if_gone: self.deletion_if_gone || later.deletion_if_gone }
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
            assert_eq!(Wanted::from_lifecycle(lifecycle), Wanted { added, deletion_if_gone }, "{lifecycle:?}");
        }
    }

    #[test]
    fn causes_add_up() {
        let added = Wanted { added: true, deletion_if_gone: false };
        let gone = Wanted { added: false, deletion_if_gone: true };
        assert_eq!(added.and(gone), Wanted { added: true, deletion_if_gone: true });
        assert_eq!(Wanted::default().and(Wanted::default()), Wanted::default());
    }
}
