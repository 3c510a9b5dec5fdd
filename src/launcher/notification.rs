//! Which notification a libvirt event turns into (contract/notify.md 5.2), as pure functions.

use crate::libvirt::{Lifecycle, event};

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
        let Lifecycle { event, detail } = lifecycle;
        Wanted {
            added: (event == event::DEFINED && detail == event::DEFINED_ADDED)
                || (event == event::STARTED && detail == event::STARTED_MIGRATED),
            deletion_if_gone: event == event::UNDEFINED
                || (event == event::STOPPED && detail != event::STOPPED_MIGRATED),
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
        let wanted = |event, detail| {
            let wanted = Wanted::from_lifecycle(Lifecycle { event, detail });
            (wanted.added, wanted.deletion_if_gone)
        };
        assert_eq!(wanted(0, 0), (true, false), "defined, added");
        assert_eq!(wanted(0, 1), (false, false), "defined, updated");
        assert_eq!(wanted(2, 0), (false, false), "started, booted");
        assert_eq!(wanted(2, 1), (true, false), "started, migrated");
        assert_eq!(wanted(5, 0), (false, true), "stopped, shut down");
        assert_eq!(wanted(5, 3), (false, false), "stopped, migrated");
        assert_eq!(wanted(1, 0), (false, true), "undefined");
        assert_eq!(wanted(1, 1), (false, true), "undefined, renamed");
        assert_eq!(wanted(3, 0), (false, false), "suspended");
    }

    #[test]
    fn causes_add_up() {
        let added = Wanted { added: true, deletion_if_gone: false };
        let gone = Wanted { added: false, deletion_if_gone: true };
        assert_eq!(added.and(gone), Wanted { added: true, deletion_if_gone: true });
        assert_eq!(Wanted::default().and(Wanted::default()), Wanted::default());
    }
}
