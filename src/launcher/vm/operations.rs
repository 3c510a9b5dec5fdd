//! What each order does to the VM (contract/cmd-server.md 4.1), one function each. The driver decides when.

use super::Vm;
use super::power_off::{self, was_given};
use crate::domain::{DomainState, LifeCycle, Time};
use crate::hypervisor::ControlError;
use crate::launcher::error::Error;
use crate::libvirt::code;
use crate::vmi::VirtualMachineInstance;

/// PauseVirtualMachine.
pub async fn pause(vm: &Vm, vmi: &VirtualMachineInstance) -> Result<(), Error> {
    if known_status(vm).await? == LifeCycle::Running {
        refuse_while_migrating(vm, "pause")?;
        // Before: if this launcher dies in between, the next one sees what was meant.
        vm.paused.insert(&vmi.metadata.uid);
        vm.clock.stop();
        if let Err(error) = vm.control.suspend().await {
            vm.paused.remove(&vmi.metadata.uid);
            return Err(error.into());
        }
    }
    Ok(())
}

/// UnpauseVirtualMachine.
pub async fn unpause(vm: &Vm, vmi: &VirtualMachineInstance) -> Result<(), Error> {
    if known_status(vm).await? == LifeCycle::Paused {
        refuse_while_migrating(vm, "unpause")?;
        let uid = &vmi.metadata.uid;
        let paused = vm.paused.contains(uid);
        // Before, for the same reason: then the next sync resumes it.
        vm.paused.remove(uid);
        if let Err(error) = vm.control.resume().await {
            if paused {
                vm.paused.insert(uid);
            }
            return Err(error.into());
        }
        vm.clock.synchronise(vm.connection.clone(), vm.domain.clone());
    }
    Ok(())
}

/// What the guest does at the target was decided when the migration began; another wish would be lost, or would undo a pause
/// that lets the migration end (contract/migration.md 16, M23).
fn refuse_while_migrating(vm: &Vm, what: &str) -> Result<(), Error> {
    match vm.metadata.snapshot().migration_under_way() {
        Some(migration) => {
            Err(Error::not_now(format!("cannot {what} the VM: migration {} is under way", migration.uid)))
        }
        None => Ok(()),
    }
}

async fn known_status(vm: &Vm) -> Result<LifeCycle, Error> {
    match vm.control.state().await {
        Ok(now) => Ok(now.status),
        Err(error) if error.is_no_domain() => Err(Error::DomainNotFound),
        Err(error) => Err(error.into()),
    }
}

/// ResetVirtualMachine.
pub async fn reset(vm: &Vm) -> Result<(), Error> {
    Ok(vm.control.reset().await?)
}

/// SoftRebootVirtualMachine.
pub async fn soft_reboot(vm: &Vm, vmi: &VirtualMachineInstance) -> Result<(), Error> {
    power_off::reboot(vm, vmi).await
}

/// ShutdownVirtualMachine: asks the guest, and records when it was asked first.
pub async fn shutdown(vm: &Vm) -> Result<(), Error> {
    let Some(now) = absent_is_fine(vm.control.state().await)? else { return Ok(()) };
    if matches!(now.status, LifeCycle::Running | LifeCycle::Paused) {
        vm.tracker.expect_end();
        match absent_is_fine(power_off::power_off(vm, now.status).await) {
            Ok(Some(())) => {}
            Ok(None) => return Ok(()),
            Err(error) if was_given(&error) => {
                tracing::info!("the guest was asked to shut down and has not obeyed yet: {error}");
            }
            // A guest may be off before libvirt has heard from its agent that it obeys.
            Err(error) if error.code() == Some(code::OPERATION_INVALID) && is_down(vm).await => {}
            Err(error) => return Err(error.into()),
        }
        vm.metadata.edit(|metadata| {
            metadata.grace_period.get_or_insert_default().deletion_timestamp.get_or_insert_with(Time::now);
        });
    }
    Ok(())
}

async fn is_down(vm: &Vm) -> bool {
    absent_is_fine(vm.control.state().await).is_ok_and(|known| known.is_none_or(DomainState::may_be_started))
}

/// KillVirtualMachine.
pub async fn kill(vm: &Vm) -> Result<(), Error> {
    let Some(now) = absent_is_fine(vm.control.state().await)? else { return Ok(()) };
    if matches!(now.status, LifeCycle::Running | LifeCycle::Paused | LifeCycle::Shutdown) {
        vm.tracker.expect_end();
        absent_is_fine(vm.control.destroy().await)?;
    }
    Ok(())
}

/// DeleteVirtualMachine.
pub async fn delete(vm: &Vm) -> Result<(), Error> {
    absent_is_fine(vm.control.undefine().await)?;
    Ok(())
}

fn absent_is_fine<T>(result: Result<T, ControlError>) -> Result<Option<T>, ControlError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_no_domain() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::launcher::vm::migration_record as record;
    use crate::launcher::vm::vm_double::running as vm;
    use crate::libvirt::{Error, VirError};

    #[tokio::test]
    async fn guest_that_takes_its_time_to_obey_was_asked() {
        let (after, call) = (Duration::from_secs(12), "virDomainShutdownFlags");
        let asked_at = |vm: &Vm| vm.metadata.snapshot().grace_period.and_then(|grace| grace.deletion_timestamp);
        let hangs = vm(Error::Deadline { call, after });
        shutdown(&hangs).await.unwrap();
        let asked = asked_at(&hangs);
        assert!(asked.is_some(), "the grace period of virt-handler begins then");
        shutdown(&hangs).await.unwrap();
        assert_eq!(asked_at(&hangs), asked, "and not again");
        let with_agent = r#"{"spec":{"domain":{"devices":{}}},
            "status":{"conditions":[{"type":"AgentConnected","status":"True"}]}}"#;
        let vmi = crate::vmi::parse(with_agent.as_bytes()).unwrap();
        soft_reboot(&hangs, &vmi).await.unwrap();

        let refuses = vm(Error::Libvirt(VirError { code: 9, domain: 10, message: "no".into() }));
        shutdown(&refuses).await.unwrap_err();
        soft_reboot(&refuses, &vmi).await.unwrap_err();
        assert_eq!(asked_at(&refuses), None);
        let lost = vm(Error::Disconnected { call, uri: "u".into(), reason: "r".into() });
        shutdown(&lost).await.unwrap_err();
        assert_eq!(asked_at(&lost), None);
    }

    #[tokio::test]
    async fn guest_that_is_being_migrated_is_neither_paused_nor_resumed() {
        let migrating = vm(Error::Libvirt(VirError { code: 9, domain: 10, message: "no".into() }));
        record::begin(&migrating.metadata, "m1").unwrap();
        let vmi = VirtualMachineInstance::default();
        let refused = pause(&migrating, &vmi).await.unwrap_err();
        assert_eq!(refused.message(), "cannot pause the VM: migration m1 is under way");
        assert!(!migrating.paused.contains(""), "nothing is remembered of it");
        unpause(&migrating, &vmi).await.unwrap();
        record::end(&migrating.metadata, "m1", None);
        let tried = pause(&migrating, &vmi).await.unwrap_err();
        assert!(tried.message().contains("Message='no'"), "libvirt is asked again: {}", tried.message());
    }
}
