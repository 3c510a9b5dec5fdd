//! SR-IOV interfaces of a running domain (contract/cmd-server.md 4.7).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::boot::Boot;
use super::super::operations::Vm;
use crate::cmd::{Failure, SyncRequest};
use crate::convert;
use crate::domain::HostDevice;
use crate::vmi::VirtualMachineInstance;

/// What the alias of an SR-IOV interface begins with.
const SRIOV: &str = "sriov-";

/// Whether a plug of host devices is under way.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<AtomicBool>);

/// Opens the gate again.
struct Pass(Gate);

impl Gate {
    /// Whether somebody is inside.
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn enter(&self) -> Pass {
        self.0.store(true, Ordering::Release);
        Pass(self.clone())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.0.store(false, Ordering::Release);
    }
}

/// The answer to a second call while the first is under way.
pub fn in_progress() -> Failure {
    Failure::text("hot-plug host-devices is in progress")
}

/// SR-IOV devices that the domain lacks. Those of dynamic resource allocation are never hot-plugged.
pub fn missing(vmi: &VirtualMachineInstance, live: &[HostDevice], wanted: &[HostDevice]) -> Vec<HostDevice> {
    let claimed =
        |name: &str| vmi.spec.networks.iter().any(|network| network.name == name && network.resource_claim.is_some());
    let alias = |device: &HostDevice| device.alias.as_ref().map(|alias| alias.name.clone()).unwrap_or_default();
    wanted
        .iter()
        .filter(|device| alias(device).strip_prefix(SRIOV).is_some_and(|name| !claimed(name)))
        .filter(|device| !live.iter().any(|there| alias(there) == alias(device)))
        .cloned()
        .collect()
}

/// HotplugHostDevices. Unlike the original, which answers before it does anything, this one tells how it went
/// (contract/cmd-server.md 11, W7).
pub async fn plug(vm: &Vm, boot: &Boot, request: SyncRequest) -> Result<(), Failure> {
    let _pass = vm.hotplug.host_devices.enter();
    let SyncRequest { vmi, options, .. } = request;
    let live = super::read_live(&vm.connection.xml(&vm.domain, 0).await?)?;
    let facts = boot.facts(vm, &vmi, options).await?;
    let wanted = convert::convert_for_running(&vmi, &facts).map_err(|error| Failure::text(error.to_string()))?;
    for device in missing(&vmi, &live.devices.host_devices, &wanted.devices.host_devices) {
        vm.connection.attach_device(&vm.domain, device.to_xml()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Alias;
    use crate::vmi;

    fn device(alias: &str) -> HostDevice {
        HostDevice { alias: Some(Alias::user(alias)), ..HostDevice::default() }
    }

    #[test]
    fn only_sriov_devices_that_are_not_there_are_plugged() {
        let vmi = vmi::parse(
            br#"{"spec":{"networks":[{"name":"blue"},{"name":"red","resourceClaim":{"claimName":"c","requestName":"r"}}]}}"#,
        )
        .unwrap();
        let wanted = [device("sriov-blue"), device("sriov-red"), device("gpu-1"), device("sriov-there")];
        let live = [device("sriov-there")];
        assert_eq!(missing(&vmi, &live, &wanted), [device("sriov-blue")]);
    }

    #[test]
    fn the_gate_opens_again_however_the_plug_ends() {
        let gate = Gate::default();
        {
            let _pass = gate.enter();
            assert!(gate.is_closed());
        }
        assert!(!gate.is_closed());
    }
}
