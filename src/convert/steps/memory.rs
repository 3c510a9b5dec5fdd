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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{refused, written};

    fn memory(memory: Value) -> Value {
        json!({"memory": memory})
    }

    #[test]
    fn memory_is_the_guests_else_the_request() {
        let mut domain = memory(json!({"guest": "1Mi"}));
        domain["resources"] = json!({"requests": {"memory": "2Mi"}});
        assert_eq!(written(super::memory, domain.clone()), r#"<memory unit="b">1048576</memory>"#);
        domain["memory"] = Value::Null;
        assert_eq!(written(super::memory, domain), r#"<memory unit="b">2097152</memory>"#);
    }

    #[test]
    fn memory_has_a_maximum_where_it_may_grow() {
        let both = r#"<memory unit="b">1048576</memory><maxMemory unit="b" slots="0">2097152</maxMemory>"#;
        assert_eq!(written(super::memory, memory(json!({"guest": "1Mi", "maxGuest": "2Mi"}))), both);
        let one = r#"<memory unit="b">1048576</memory>"#;
        assert_eq!(written(super::memory, memory(json!({"guest": "1Mi", "maxGuest": "1Mi"}))), one);
        let alone = refused(super::memory, memory(json!({"maxGuest": "2Mi"})));
        assert_eq!(alone, "spec.domain.memory.guest: must be given beside maxGuest");
    }

    #[test]
    fn memory_below_zero_is_refused_at_the_field_that_gives_it() {
        assert_eq!(
            refused(super::memory, json!({"resources": {"limits": {"memory": "-1Mi"}}})),
            "spec.domain.resources.limits.memory: Memory size '-1Mi' must be greater than or equal to 0"
        );
        assert!(refused(super::memory, memory(json!({"guest": "8Pi"}))).starts_with("spec.domain.memory.guest: "));
    }

    #[test]
    fn memory_backing_is_for_huge_pages_and_for_memory_that_is_shared() {
        let backing = |domain: Value| written(super::memory_backing, domain);
        assert_eq!(backing(json!({})), "");
        let huge = memory(json!({"hugepages": {"pageSize": "2Mi"}}));
        assert_eq!(backing(huge.clone()), r#"<memoryBacking><hugepages/><source type="memfd"/></memoryBacking>"#);
        let shared = json!({"devices": {"filesystems": [{"name": "f", "virtiofs": {}}]}});
        assert_eq!(backing(shared), r#"<memoryBacking><source type="memfd"/><access mode="shared"/></memoryBacking>"#);
        let mut vmi = super::super::testing::vmi(huge);
        vmi["metadata"]["annotations"] = json!({"kubevirt.io/memfd": "false"});
        let no_memfd = super::super::testing::run(super::memory_backing, vmi, json!({})).unwrap();
        assert_eq!(no_memfd, "<memoryBacking><hugepages/></memoryBacking>");
    }
}
