//! How a migration ended that neither libvirt's answer nor its state tells of: its daemon, or the link, went away when all
//! memory had been sent. Then this guest stands still, or a daemon that began anew has ended it, and the target alone knows
//! whether it took over.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Outgoing, REACH};
use crate::domain::{DomainState, LifeCycle, StateReason};
use crate::launcher::migration::parameters::destination;
use crate::libvirt;
use crate::vmi::VirtualMachineInstance;

/// How long a libvirt that was lost is waited for before the outcome is told without it.
const LIBVIRT_BACK: Duration = Duration::from_secs(60);
/// Between two looks, and between two questions.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The guest at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    /// It has sent all its memory, and could go on.
    StandsStill,
    /// Its hypervisor has ended.
    Gone,
}

impl Guest {
    /// How long the target is asked. virt-controller ends the pod of a target that does not come up within the longer time;
    /// of a guest that is gone the end must be told soon.
    fn patience(self) -> Duration {
        match self {
            Guest::StandsStill => Duration::from_secs(300),
            Guest::Gone => Duration::from_secs(30),
        }
    }
}

/// What the target's libvirt says of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtTarget {
    /// It runs there, or has run.
    TookOver,
    /// It never began there, and will not.
    Never,
    /// That is not settled.
    NotYet,
}

impl AtTarget {
    fn of(state: Option<DomainState>) -> AtTarget {
        use StateReason::{Failed, Migration, StartingUp};
        match state {
            // A domain that came is persistent before its guest runs; one that does not come is gone with its hypervisor.
            None => AtTarget::Never,
            Some(DomainState { status: LifeCycle::Paused, reason: Migration | StartingUp }) => AtTarget::NotYet,
            Some(DomainState { status: LifeCycle::Shutoff | LifeCycle::Crashed, reason: Failed }) => AtTarget::Never,
            Some(DomainState { status: LifeCycle::NoState, .. }) => AtTarget::NotYet,
            Some(_) => AtTarget::TookOver,
        }
    }
}

impl Outgoing {
    /// How the migration ended, by libvirt's state and, where that leaves it open, by the target's. The guest runs, or is known to
    /// have gone, when this returns; `failure` is the reason if it has not gone.
    pub(super) async fn settle(&self, vmi: &VirtualMachineInstance, failure: String) -> Result<(), String> {
        let state = match self.wait_for_libvirt().await {
            Some(DomainState { status: LifeCycle::Shutoff, reason }) => {
                // Its daemon may be another one than that which saw the end.
                let told = self.domain_log.reason_of_end().await;
                DomainState::new(LifeCycle::Shutoff, told.unwrap_or(reason))
            }
            Some(state) => state,
            None => return Err(failure),
        };
        let guest = match (state.status, state.reason) {
            (LifeCycle::Shutoff, StateReason::Migrated) => return Ok(()),
            (LifeCycle::Paused, StateReason::Migration) => Guest::StandsStill,
            (LifeCycle::Shutoff, StateReason::Crashed | StateReason::Unknown | StateReason::Failed) => Guest::Gone,
            _ => return Err(failure),
        };
        match self.ask_target(vmi, guest).await {
            Ok(AtTarget::TookOver) => {
                self.state_file.change(|state| state.left = true);
                self.vm.tracker.expect_end();
                if guest == Guest::StandsStill
                    && let Err(error) = self.vm.control.destroy().await
                {
                    // It does not run, and virt-handler's DeleteVirtualMachine ends it.
                    tracing::warn!("the guest runs at the target, and what is left here does not end: {error}");
                }
                Ok(())
            }
            Ok(AtTarget::Never | AtTarget::NotYet) if guest == Guest::Gone => Err(failure),
            Ok(AtTarget::Never) => Err(self.go_on_here(vmi, failure).await),
            Ok(AtTarget::NotYet) => {
                Err(format!("{failure}; the guest stands still: the target does not say whether it has it"))
            }
            Err(_) if guest == Guest::Gone => Err(failure),
            Err(why) => Err(format!("{failure}; the guest stands still here, for it may run at the target: {why}")),
        }
    }

    /// The target does not have the guest. Returns the reason of the migration's failure.
    async fn go_on_here(&self, vmi: &VirtualMachineInstance, failure: String) -> String {
        if self.vm.paused.contains(&vmi.metadata.uid) {
            tracing::info!("the target does not have the guest: it stays here, paused by a user");
            return failure;
        }
        tracing::info!("the target does not have the guest: it goes on here");
        match self.vm.control.resume().await {
            Ok(()) => failure,
            Err(error) => format!("{failure}; the guest stands still: {error}"),
        }
    }

    /// The guest must not run at two places: the target says whether it has it, or is asked in vain until the deadline.
    async fn ask_target(&self, vmi: &VirtualMachineInstance, guest: Guest) -> Result<AtTarget, String> {
        let uri = destination(&self.share_dir, vmi);
        let deadline = Instant::now() + guest.patience();
        tracing::info!("the migration was cut off: asking the target whether it has the guest");
        loop {
            let answer = libvirt::state_at(uri.clone(), self.vm.domain.clone(), REACH).await.map(AtTarget::of);
            match answer {
                Ok(settled @ (AtTarget::TookOver | AtTarget::Never)) => return Ok(settled),
                open if Instant::now() >= deadline => return open.map_err(|error| error.to_string()),
                Ok(AtTarget::NotYet) | Err(_) => sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// The domain's state, from a libvirt that may be on its way back; none if there is no domain, or no answer in time.
    pub(super) async fn wait_for_libvirt(&self) -> Option<DomainState> {
        let deadline = Instant::now() + LIBVIRT_BACK;
        loop {
            match self.vm.control.state().await {
                Ok(state) => return Some(state),
                Err(error) if error.is_no_domain() || Instant::now() >= deadline => return None,
                Err(_) => sleep(LOOK_AGAIN).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_took_over_if_it_runs_or_has_run() {
        let of = |status, reason| AtTarget::of(Some(DomainState::new(status, reason)));
        assert_eq!(AtTarget::of(None), AtTarget::Never);
        assert_eq!(of(LifeCycle::Running, StateReason::Unknown), AtTarget::TookOver);
        assert_eq!(of(LifeCycle::Paused, StateReason::IoError), AtTarget::TookOver);
        assert_eq!(of(LifeCycle::Shutoff, StateReason::Shutdown), AtTarget::TookOver);
        assert_eq!(of(LifeCycle::Paused, StateReason::Migration), AtTarget::NotYet);
        assert_eq!(of(LifeCycle::Paused, StateReason::StartingUp), AtTarget::NotYet);
        assert_eq!(of(LifeCycle::Shutoff, StateReason::Failed), AtTarget::Never);
    }
}
