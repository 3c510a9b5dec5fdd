//! The order of boot devices, where libvirt's driver has no element for it (catalogue: `requiresBootOrder: false`).

use super::{Context, ConvertError};
use crate::domain::DomainSpec;

pub(super) fn boot_order(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    if context.facts.hypervisor.boot_order {
        return Ok(());
    }
    let devices = &mut domain.devices;
    devices.disks.sort_by_key(|disk| disk.boot_order.as_ref().map_or(u64::MAX, |boot| boot.order));
    devices.disks.iter_mut().for_each(|disk| disk.boot_order = None);
    devices.interfaces.iter_mut().for_each(|interface| interface.boot_order = None);
    devices.host_devices.iter_mut().for_each(|device| device.boot_order = None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::HypervisorFacts;
    use super::*;
    use crate::convert::HostFacts;
    use crate::domain::{Alias, BootOrder, Disk};

    #[test]
    fn disks_stand_in_boot_order_where_there_is_no_element_for_it() {
        let vmi = crate::vmi::parse(br#"{"spec": {"domain": {"devices": {}}}}"#).unwrap();
        let disk = |name: &str, order: Option<u64>| Disk {
            alias: Some(Alias::user(name)),
            boot_order: order.map(|order| BootOrder { order }),
            ..Disk::default()
        };
        let with = |boot_order| {
            let hypervisor = HypervisorFacts { boot_order, ..HypervisorFacts::default() };
            let facts = HostFacts { hypervisor, ..HostFacts::default() };
            let mut domain = DomainSpec::default();
            domain.devices.disks = vec![disk("a", None), disk("b", Some(2)), disk("c", Some(1))];
            super::boot_order(&Context::new(&vmi, &facts).unwrap(), &mut domain).unwrap();
            domain.devices.disks
        };
        assert_eq!(with(true), [disk("a", None), disk("b", Some(2)), disk("c", Some(1))]);
        assert_eq!(with(false), [disk("c", None), disk("b", None), disk("a", None)]);
    }
}
