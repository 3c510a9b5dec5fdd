//! The memory balloon (contract/domain-xml-qemu.md 7.1).

use super::{Context, ConvertError, on_off};
use crate::domain::{DomainSpec, MemBalloon, MemBalloonDriver, Stats};

pub(super) fn balloon(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let is_unwanted = context.vmi.spec.domain.devices.autoattach_mem_balloon == Some(false);
    if is_unwanted || !context.facts.hypervisor.memory_balloon {
        domain.devices.ballooning = Some(MemBalloon { model: "none".into(), ..MemBalloon::default() });
        return Ok(());
    }
    let period = context.facts.options().mem_balloon_stats_period;
    domain.devices.ballooning = Some(MemBalloon {
        model: context.virtio_model().into(),
        stats: (period != 0).then_some(Stats { period }),
        driver: context.launch_iommu.then(|| MemBalloonDriver { iommu: "on".into() }),
        free_page_reporting: on_off(context.free_page_reporting),
        ..MemBalloon::default()
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::facts::HypervisorFacts;
    use super::*;
    use crate::convert::HostFacts;

    #[test]
    fn balloon_is_left_out_where_the_hypervisor_has_none() {
        let vmi = crate::vmi::parse(br#"{"spec": {"domain": {"devices": {}}}}"#).unwrap();
        let model = |memory_balloon| {
            let hypervisor = HypervisorFacts { memory_balloon, ..HypervisorFacts::default() };
            let facts = HostFacts { hypervisor, ..HostFacts::default() };
            let mut domain = DomainSpec::default();
            balloon(&Context::new(&vmi, &facts).unwrap(), &mut domain).unwrap();
            domain.devices.ballooning.unwrap().model
        };
        assert_eq!([model(true), model(false)], ["virtio-non-transitional", "none"]);
    }
}
