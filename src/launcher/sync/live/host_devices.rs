//! SR-IOV interfaces of a running domain (contract/cmd-server.md 4.7).

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::failures::Failures;
use crate::cmd::SyncRequest;
use crate::convert;
use crate::domain::{Address, HostDevice};
use crate::hypervisor::XmlKind;
use crate::launcher::error::Error;
use crate::launcher::sync::means::Boot;
use crate::launcher::vm::{Vm, domain_xml};
use crate::vmi::VirtualMachineInstance;

/// What the alias of an SR-IOV interface begins with.
const SRIOV: &str = "sriov-";

/// The answer to a second call while the first is under way.
pub fn in_progress() -> Error {
    Error::not_now("hot-plug host-devices is in progress")
}

/// SR-IOV devices that the domain lacks, by alias. Those of dynamic resource allocation are never hot-plugged. The error
/// names a device that the domain has under another alias: libvirt would say that it is in use, and not by whom.
pub fn missing(
    vmi: &VirtualMachineInstance,
    live: &[HostDevice],
    wanted: &[HostDevice],
) -> Vec<Result<HostDevice, String>> {
    let claimed =
        |name: &str| vmi.spec.networks.iter().any(|network| network.name == name && network.resource_claim.is_some());
    wanted
        .iter()
        .filter(|device| device.alias_name().strip_prefix(SRIOV).is_some_and(|name| !claimed(name)))
        .filter(|device| !live.iter().any(|there| there.alias == device.alias))
        .map(|device| match live.iter().find(|there| on_host(there).is_some() && on_host(there) == on_host(device)) {
            Some(there) => Err(format!(
                "host device {} of {} is in the running VM already, as {}",
                on_host(device).unwrap_or_default(),
                device.alias_name(),
                there.alias_name()
            )),
            None => Ok(device.clone()),
        })
        .collect()
}

/// The PCI address on the host, however its numbers are written.
fn on_host(device: &HostDevice) -> Option<String> {
    let number = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let Address { domain, bus, slot, function, .. } =
        device.source.address.as_ref().filter(|_| device.type_ == "pci")?;
    let (domain, bus, slot, function) = (number(domain)?, number(bus)?, number(slot)?, number(function)?);
    Some(format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"))
}

/// HotplugHostDevices. Unlike the original, which answers before it does anything, this one tells how it went
/// (contract/cmd-server.md 11, W7).
pub async fn plug(vm: &Vm, boot: &Boot, request: SyncRequest) -> Result<(), Error> {
    let _pass = vm.hotplug.host_devices.enter();
    let SyncRequest { vmi, options, .. } = request;
    let live = domain_xml::read(&vm.control.xml(XmlKind::Current).await?)?;
    let facts = boot.facts(vm, &vmi, options).await?;
    if let Some(refusal) = convert::told(&convert::problems_of_running(&vmi, &facts)) {
        return Err(Error::vmi(refusal));
    }
    let wanted = convert::convert_for_running(&vmi, &facts, &live).map_err(super::worded)?;
    let mut failures = Failures::new(&vmi);
    for device in missing(&vmi, &live.devices.host_devices, &wanted.devices.host_devices) {
        match device {
            Ok(device) => {
                let outcome = vm.control.attach_device(device.to_xml()).await;
                failures.note(device.alias_name(), outcome)?;
            }
            Err(why) => failures.refuse("SR-IOV", Error::other(why)),
        }
    }
    failures.outcome()
}

/// How long the guest may take to let go of one more device.
const LETTING_GO: Duration = Duration::from_secs(30);

/// Takes SR-IOV devices from the guest, since no migration can take them along (contract/migration.md 5.2), and waits until
/// the guest has let go of all. What was asked for is in `taken`, also if not all of it succeeds.
pub async fn unplug(vm: &Vm, devices: Vec<HostDevice>, taken: &mut Vec<HostDevice>) -> Result<(), Error> {
    for device in &devices {
        vm.control.detach_device(device.to_xml()).await?;
        taken.push(device.clone());
    }
    let mut left = devices.len();
    let mut deadline = Instant::now() + LETTING_GO;
    loop {
        // Before the look, so that no word is lost between the two.
        let removal = vm.hotplug.removals.notified();
        let now = sriov(vm).await?.len();
        if now == 0 {
            return Ok(());
        }
        if now < left {
            (left, deadline) = (now, Instant::now() + LETTING_GO);
        }
        if timeout_at(deadline, removal).await.is_err() {
            let gone = devices.len() - left.min(devices.len());
            return Err(Error::other(format!(
                "failed to wait for host-devices detach, timeout reached: {gone}/{}",
                devices.len()
            )));
        }
    }
}

/// Gives the guest back what was taken from it for a migration that failed. What it has not let go of it keeps.
pub async fn plug_again(vm: &Vm, taken: &[HostDevice]) {
    if taken.is_empty() {
        return;
    }
    let there = sriov(vm).await.unwrap_or_default();
    for device in taken.iter().filter(|device| there.iter().all(|there| there.alias != device.alias)) {
        if let Err(error) = vm.control.attach_device(device.to_xml()).await {
            tracing::warn!("host device {} is not given back to the guest yet: {error}", device.alias_name());
        }
    }
}

/// The SR-IOV devices of the running domain.
pub async fn sriov(vm: &Vm) -> Result<Vec<HostDevice>, Error> {
    let live = domain_xml::read(&vm.control.xml(XmlKind::Current).await?)?;
    Ok(live.devices.host_devices.into_iter().filter(|device| device.alias_name().starts_with(SRIOV)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Alias, HostDeviceSource};
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
        assert_eq!(missing(&vmi, &live, &wanted), [Ok(device("sriov-blue"))]);
    }

    #[test]
    fn function_that_the_domain_has_under_another_alias_is_refused_by_name() {
        let at = |alias: &str, bus: &str| HostDevice {
            type_: "pci".into(),
            source: HostDeviceSource {
                address: Some(Address {
                    domain: "0x0000".into(),
                    bus: bus.into(),
                    slot: "0x10".into(),
                    function: "0x1".into(),
                    ..Address::default()
                }),
            },
            ..device(alias)
        };
        let vmi = vmi::parse(b"{}").unwrap();
        let live = [at("sriov-blue", "0x81"), at("gpu", "0x82")];
        // In another order, and with another number for what is there.
        let wanted = [at("sriov-red", "0x83"), at("sriov-blue", "0x84"), at("sriov-green", "81")];
        let found = missing(&vmi, &live, &wanted);
        let refused = "host device 0000:81:10.1 of sriov-green is in the running VM already, as sriov-blue".to_owned();
        assert_eq!(found, [Ok(at("sriov-red", "0x83")), Err(refused)]);
    }
}
