//! How the guest is asked to power off or to reboot: by its agent, and by the ACPI power button where the agent does not
//! take the order or the guest does not obey it.
//!
//! libvirt's own choice (`virDomainShutdownFlags` without flags) comes to the power button as well, but only after 30 s when
//! the agent hangs in a question: as long as the default grace period is, after which virt-handler destroys the VM. So the
//! launcher chooses itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Vm;
use crate::domain::LifeCycle;
use crate::hypervisor::{ControlError, Way};
use crate::launcher::error::Error;
use crate::libvirt;
use crate::vmi::VirtualMachineInstance;

/// How long a guest that took the order by its agent is left alone with it. virt-handler repeats the order every 5 s, and at
/// once when it hears of the first one.
const OBEYING: Duration = Duration::from_secs(5);
/// After so long without success everything is tried anew, as libvirt does.
const ANEW: Duration = Duration::from_secs(60);
/// How long an agent that did not take the order is not asked again.
const SILENT: Duration = Duration::from_secs(30);
/// How long a frozen guest may take to thaw before it is asked to power off, which it could not do frozen.
const THAW: Duration = Duration::from_secs(2);

/// What became of the last order that went to the agent. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct AskedAgent(Arc<Mutex<Option<Asked>>>);

#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Instant,
    took: bool,
}

/// What an order to power off does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// The guest has just begun to obey.
    Wait,
    /// The agent first, the power button if that fails.
    Agent,
    /// The power button at once.
    PowerButton,
}

impl AskedAgent {
    fn note(&self, took: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Asked { at: Instant::now(), took });
    }

    fn next(&self) -> Next {
        let asked = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match asked.map(|Asked { at, took }| (at.elapsed(), took)) {
            None => Next::Agent,
            Some((ago, true)) if ago < OBEYING => Next::Wait,
            Some((ago, true)) if ago < ANEW => Next::PowerButton,
            Some((ago, false)) if ago < SILENT => Next::PowerButton,
            Some(_) => Next::Agent,
        }
    }
}

/// Asks the guest, whose state is `now`, to power off. Returns within seconds whatever the agent does; each order after
/// one that did not help presses the power button at once, since a guest that boots can miss it.
pub async fn power_off(vm: &Vm, now: LifeCycle) -> Result<(), ControlError> {
    // A paused guest's agent cannot be asked either.
    let has_agent = now != LifeCycle::Paused && vm.guest.has_agent();
    match if has_agent { vm.asked_agent.next() } else { Next::PowerButton } {
        Next::Wait => return Ok(()),
        Next::Agent => {
            let asked = match vm.guest.thaw_if_frozen(THAW).await {
                Ok(()) => vm.control.shutdown(Way::Agent).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            vm.asked_agent.note(asked.is_ok());
            match asked {
                Ok(()) => return Ok(()),
                Err(why) => tracing::info!("pressing the power button: the guest agent does not shut down: {why}"),
            }
        }
        Next::PowerButton => {}
    }
    vm.control.shutdown(Way::PowerButton).await
}

/// Asks the guest to reboot: by its agent if virt-handler saw one, by the power button if not or if that agent does not take
/// the order. The original leaves it at the agent and calls one that does not answer a success (contract/cmd-server.md 4.1).
pub async fn reboot(vm: &Vm, vmi: &VirtualMachineInstance) -> Result<(), Error> {
    let acpi = vmi.acpi_enabled();
    if vmi.has_condition("AgentConnected") {
        match vm.control.reboot(Way::Agent).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_no_domain() || !acpi => return Err(error.into()),
            Err(error) => tracing::info!("pressing the power button: the guest agent does not reboot: {error}"),
        }
    } else if !acpi {
        return Err(Error::vmi("VMI neither have the agent connected nor the ACPI feature enabled"));
    }
    match vm.control.reboot(Way::PowerButton).await {
        // If libvirt answers, it has the order. If it hangs and is replaced, the order would be lost.
        Err(error) if was_given(&error) => vm.control.state().await.map(drop).map_err(|_| error.into()),
        result => Ok(result?),
    }
}

/// Whether libvirt has the order and has not carried it out yet. A guest that hangs would otherwise never be seen to have
/// been asked.
pub(super) fn was_given(error: &ControlError) -> bool {
    matches!(error, ControlError::Libvirt(libvirt::Error::Deadline { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn agent_that_took_the_order_has_time_to_obey_it() {
        let asked = AskedAgent::default();
        assert_eq!(asked.next(), Next::Agent);
        asked.note(true);
        for (after, next) in [(4, Next::Wait), (1, Next::PowerButton), (54, Next::PowerButton), (1, Next::Agent)] {
            tokio::time::advance(Duration::from_secs(after)).await;
            assert_eq!(asked.next(), next);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn agent_that_did_not_take_the_order_delays_no_other() {
        let asked = AskedAgent::default();
        asked.note(false);
        for (after, next) in [(0, Next::PowerButton), (29, Next::PowerButton), (1, Next::Agent)] {
            tokio::time::advance(Duration::from_secs(after)).await;
            assert_eq!(asked.next(), next);
        }
    }
}
