//! The memory balloon (contract/domain-xml-qemu.md 7.1).

use super::{Context, ConvertError, on_off};
use crate::domain::{DomainSpec, MemBalloon, MemBalloonDriver, Stats};

pub(super) fn balloon(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    if context.vmi.spec.domain.devices.autoattach_mem_balloon == Some(false) {
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
