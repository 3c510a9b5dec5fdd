//! Memory and its backing (contract/domain-xml-qemu.md 5.3, 5.4).

use super::super::limits;
use super::{Context, ConvertError};
use crate::domain::{
    DomainSpec, HugePages, MaxMemory, Memory, MemoryBacking, MemoryBackingAccess, MemoryBackingSource,
};
use crate::vmi::{self, Quantity};

pub(super) fn memory(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let spec = &context.vmi.spec.domain;
    let memory = spec.memory.as_ref();
    let max_guest = memory.and_then(|memory| memory.max_guest.as_ref());
    let guest = memory.and_then(|memory| memory.guest.as_ref());
    let hotplug =
        max_guest.filter(|max| guest.is_none_or(|guest| guest.partial_cmp(max) != Some(std::cmp::Ordering::Equal)));
    if let Some(max_guest) = hotplug {
        let Some(guest) = guest else {
            return Err(ConvertError::field("spec.domain.memory.guest", "must be given beside maxGuest"));
        };
        domain.memory = bytes("spec.domain.memory.guest", guest)?;
        let Memory { value, unit } = bytes("spec.domain.memory.maxGuest", max_guest)?;
        domain.max_memory = Some(MaxMemory { value, unit, slots: 0 });
        return Ok(());
    }
    domain.memory = guest_memory(&context.vmi.spec.domain)?;
    Ok(())
}

/// The guest's memory in bytes; none where the VMI gives none.
pub(super) fn guest_memory(spec: &vmi::DomainSpec) -> Result<Memory, ConvertError> {
    let none = Quantity::default();
    let (path, quantity) = spec.virtual_memory().unwrap_or(("spec.domain.memory.guest", &none));
    bytes(path, quantity)
}

/// The quantity of the field `path` in bytes.
pub(super) fn bytes(path: &str, quantity: &Quantity) -> Result<Memory, ConvertError> {
    let value = u64::try_from(limits::memory(path, quantity)?)
        .map_err(|_| ConvertError::at(path, format!("Memory size '{quantity}' must be greater than or equal to 0")))?;
    Ok(Memory { value, unit: "b".into() })
}

pub(super) fn memory_backing(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let hugepages = context.vmi.spec.domain.memory.as_ref().is_some_and(|memory| memory.hugepages.is_some());
    let shared = context.shared_memory();
    if hugepages || shared {
        domain.memory_backing = Some(MemoryBacking {
            huge_pages: hugepages.then(HugePages::default),
            source: context.memfd().then(|| MemoryBackingSource { type_: "memfd".into() }),
            access: shared.then(|| MemoryBackingAccess { mode: "shared".into() }),
            ..MemoryBacking::default()
        });
    }
    Ok(())
}
