//! How a migration ended that neither libvirt's answer nor its state tells of: its daemon, or the link, went away when all
//! memory had been sent. Then this guest stands still, and the target alone knows whether it took over.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{LOST, Outgoing, REACH};
use crate::domain::{DomainState, LifeCycle, StateReason};
use crate::launcher::migration::parameters::destination;
use crate::libvirt;
use crate::vmi::VirtualMachineInstance;

/// How long a libvirt that was lost is waited for before the outcome is told without it.
const LIBVIRT_BACK: Duration = Duration::from_secs(60);
/// How long the target is asked whether it has the guest. virt-controller ends its pod within that time if it does not.
const TARGET_ANSWERS: Duration = Duration::from_secs(300);
/// Between two looks, and between two questions.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

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
        match (state.status, state.reason) {
            (LifeCycle::Shutoff, StateReason::Migrated) => Ok(()),
            (LifeCycle::Paused, StateReason::Migration) => self.ask_target(vmi, failure).await,
            _ => Err(failure),
        }
    }

    /// The guest stands still and must not run at two places: the target says where it runs.
    async fn ask_target(&self, vmi: &VirtualMachineInstance, failure: String) -> Result<(), String> {
        let (vm, uri) = (&self.vm, destination(&self.share_dir, vmi));
        let deadline = Instant::now() + TARGET_ANSWERS;
        tracing::info!("the guest stands still for a migration that was cut off: asking the target whether it has it");
        let mut why = LOST.to_owned();
        while Instant::now() < deadline {
            match libvirt::state_at(uri.clone(), vm.domain.clone(), REACH).await.map(AtTarget::of) {
                Ok(AtTarget::TookOver) => {
                    self.state_file.change(|state| state.left = true);
                    vm.tracker.expect_end();
                    let ended = vm.control.destroy().await;
                    return ended
                        .map_err(|error| format!("the guest runs at the target; here it is left over: {error}"));
                }
                Ok(AtTarget::Never) => {
                    if vm.paused.contains(&vmi.metadata.uid) {
                        tracing::info!("the target does not have the guest: it stays here, paused by a user");
                        return Err(failure);
                    }
                    tracing::info!("the target does not have the guest: it goes on here");
                    if let Err(error) = vm.control.resume().await {
                        return Err(format!("{failure}; the guest stands still: {error}"));
                    }
                    return Err(failure);
                }
                Ok(AtTarget::NotYet) => {}
                Err(error) => why = error.to_string(),
            }
            sleep(LOOK_AGAIN).await;
        }
        Err(format!("{failure}; the guest stands still here, for it may run at the target: {why}"))
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
    fn a_guest_took_over_if_it_runs_or_has_run() {
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
