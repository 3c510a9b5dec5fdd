//! Guest NUMA cells that stand on the host's (contract/domain-xml-qemu.md 6.4.4).

use std::collections::BTreeMap;

use super::super::options::Cell;
use super::memory::{bytes, guest_memory};
use super::{Context, ConvertError};
use crate::domain::{
    DomainSpec, HugePage, MemNode, MemoryAllocation, NoSharePages, Numa, NumaCell, NumaCellDistances, NumaCellSibling,
    NumaTune, NumaTuneMemory,
};
use crate::vmi::Quantity;

const FIELD: &str = "spec.domain.cpu.numa.guestMappingPassthrough";
const PAGE_SIZE: &str = "spec.domain.memory.hugepages.pageSize";

pub(super) fn numa_passthrough(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let Some(topology) = context.facts.options().topology.as_ref().filter(|topology| !topology.numa_cells.is_empty())
    else {
        return Ok(());
    };
    if context.dedicated_cpu().is_none() || !context.numa_passthrough() {
        return Ok(());
    }
    let guest_cpus = guest_cpus(&topology.numa_cells, domain)?;
    let page = page_size(context)?;
    let count = guest_cpus.len() as u64;
    let memory = guest_memory(&context.vmi.spec.domain)?;
    let shares = shares(memory.value, page, count)?;
    // A host cell that is listed twice has its guest cell where it comes first.
    let mut involved: Vec<&Cell> = Vec::new();
    for cell in topology.numa_cells.iter().filter(|cell| guest_cpus.contains_key(&cell.id)) {
        if involved.iter().all(|known| known.id != cell.id) {
            involved.push(cell);
        }
    }
    let guest_id: BTreeMap<u32, u32> = (0..).zip(&involved).map(|(guest, cell)| (cell.id, guest)).collect();
    let mut numa = Numa::default();
    let mut tune = NumaTune {
        memory: NumaTuneMemory {
            mode: "strict".into(),
            node_set: involved.iter().map(|cell| cell.id.to_string()).collect::<Vec<_>>().join(","),
        },
        ..NumaTune::default()
    };
    let mut pages = Vec::new();
    for (cell, share) in involved.iter().zip(shares) {
        let guest = guest_id.get(&cell.id).copied().unwrap_or_default();
        let siblings: Vec<NumaCellSibling> = cell
            .distances
            .iter()
            .filter_map(|distance| {
                let id = guest_id.get(&distance.id)?.to_string();
                Some(NumaCellSibling { id, value: distance.value })
            })
            .collect();
        numa.cells.push(NumaCell {
            id: guest.to_string(),
            cpus: guest_cpus.get(&cell.id).map(|cpus| cpus.join(",")).unwrap_or_default(),
            memory: Some(share),
            unit: "b".into(),
            distances: (!siblings.is_empty()).then_some(NumaCellDistances { siblings }),
            ..NumaCell::default()
        });
        tune.mem_nodes.push(MemNode { cell_id: guest, mode: "strict".into(), node_set: cell.id.to_string() });
        pages.push(HugePage { size: page.to_string(), unit: "b".into(), node_set: guest.to_string() });
    }
    domain.cpu.numa = Some(numa);
    domain.numa_tune = Some(tune);
    let realtime = context.dedicated_cpu().is_some_and(|cpu| cpu.realtime.is_some());
    if let Some(backing) = &mut domain.memory_backing {
        backing.huge_pages.get_or_insert_default().huge_page = pages;
        backing.allocation = Some(MemoryAllocation { mode: "immediate".into() });
        backing.no_share_pages = realtime.then(NoSharePages::default);
    }
    Ok(())
}

/// Guest CPUs in pin order by host cell; a CPU that two cells list belongs to the later one.
fn guest_cpus(cells: &[Cell], domain: &DomainSpec) -> Result<BTreeMap<u32, Vec<String>>, ConvertError> {
    let cell_of: BTreeMap<u32, u32> =
        cells.iter().flat_map(|cell| cell.cpus.iter().map(|cpu| (cpu.id, cell.id))).collect();
    let mut guest_cpus: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for pin in domain.cpu_tune.iter().flat_map(|tune| &tune.vcpu_pin) {
        let host_cpu = pin.cpu_set.parse().ok().and_then(|cpu: u32| cell_of.get(&cpu));
        let Some(cell) = host_cpu else {
            let (vcpu, cpu) = (pin.vcpu, &pin.cpu_set);
            return Err(ConvertError::at(
                FIELD,
                format!(
                    "failed to generate numa pinning information: vcpu {vcpu} is mapped to a not existing host cpu set {cpu}"
                ),
            ));
        };
        guest_cpus.entry(*cell).or_default().push(pin.vcpu.to_string());
    }
    Ok(guest_cpus)
}

/// Bytes of a huge page.
fn page_size(context: &Context<'_>) -> Result<u64, ConvertError> {
    let memory = context.vmi.spec.domain.memory.as_ref();
    let Some(hugepages) = memory.and_then(|memory| memory.hugepages.as_ref()) else {
        return Err(ConvertError::at(
            FIELD,
            "passing through a numa topology is restricted to VMIs with hugepages enabled",
        ));
    };
    let size = &hugepages.page_size;
    let failed =
        |why: String| ConvertError::at(PAGE_SIZE, format!("failed to determine if hugepages are enabled: {why}"));
    let quantity =
        Quantity::parse(size).map_err(|error| failed(format!("could not parse hugepage value {size}: {error}")))?;
    let page = bytes(PAGE_SIZE, &quantity)
        .map_err(|error| failed(format!("could not convert page size to MiB {size}: {error}")))?
        .value;
    if page == 0 { Err(ConvertError::field(PAGE_SIZE, "a page of 0 bytes")) } else { Ok(page) }
}

/// Whole pages for each of `count` cells; the first ones have one more where it does not come out even.
fn shares(memory: u64, page: u64, count: u64) -> Result<impl Iterator<Item = u64>, ConvertError> {
    let least = page.checked_mul(count).filter(|least| memory >= *least);
    if least.is_none() || count == 0 {
        // The original counts the page's bytes as MiB here. Pages have at most 2^52 bytes, and there are 4096 vCPUs.
        let shown = u128::from(page) * (1024 * 1024) * u128::from(count);
        return Err(ConvertError::at(
            FIELD,
            format!(
                "not enough memory requested to allocate at least one hugepage per numa node: {{{memory} b}} < {shown}"
            ),
        ));
    }
    if !memory.is_multiple_of(page) {
        return Err(ConvertError::at(
            FIELD,
            format!("requested memory can't be divided through the numa page size: {{{memory} b}} mod {page} != 0"),
        ));
    }
    let pages = memory / page;
    let (each, longer) = (pages / count, pages % count);
    Ok((0..count).map(move |cell| (each + u64::from(cell < longer)) * page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shared_out_in_whole_pages() {
        let shares = |memory, page, count| shares(memory, page, count).map(Iterator::collect::<Vec<u64>>);
        assert_eq!(shares(10, 2, 2), Ok(vec![6, 4]));
        assert_eq!(shares(12, 2, 2), Ok(vec![6, 6]));
        assert!(shares(3, 2, 2).unwrap_err().to_string().contains("{3 b} < 4194304"));
        assert!(shares(5, 2, 2).unwrap_err().to_string().contains("{5 b} mod 2 != 0"));
        assert!(shares(u64::MAX, u64::MAX, 2).is_err() && shares(4, 2, 0).is_err());
    }
}
