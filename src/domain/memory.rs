//! Guest memory: amounts, backing, and the hot-pluggable maximum.

use crate::domain::elements::elements;

elements! {
    /// `memory`: an amount of memory with its unit.
    pub struct Memory {
        value: u64 = "Value" [text];
        unit: String = "Unit" [attr "unit"];
    }

    /// `<maxMemory>`: up to where memory can be plugged, and in how many slots.
    pub struct MaxMemory {
        value: u64 = "Value" [text];
        unit: String = "Unit" [attr "unit"];
        slots: u64 = "Slots" [attr "slots"];
    }

    /// `<memoryBacking>`.
    pub struct MemoryBacking {
        huge_pages: Option<HugePages> = "HugePages" [child "hugepages"];
        source: Option<MemoryBackingSource> = "Source" [child "source"];
        access: Option<MemoryBackingAccess> = "Access" [child "access"];
        allocation: Option<MemoryAllocation> = "Allocation" [child "allocation"];
        no_share_pages: Option<NoSharePages> = "NoSharePages" [child "nosharepages"];
    }

    /// `memoryBacking/hugepages`: huge pages, by size.
    pub struct HugePages {
        huge_page: Vec<HugePage> = "HugePage" [child "page"];
    }

    /// `memoryBacking/hugepages/page`: one page size and the guest NUMA nodes that use it.
    pub struct HugePage {
        size: String = "Size" [attr "size"];
        unit: String = "Unit" [attr "unit"];
        node_set: String = "NodeSet" [attr "nodeset"];
    }

    /// `memoryBacking/source`: `memfd` or file.
    pub struct MemoryBackingSource {
        type_: String = "Type" [attr "type"];
    }

    /// `memoryBacking/access`: `shared` or `private`.
    pub struct MemoryBackingAccess {
        mode: String = "Mode" [attr "mode"];
    }

    /// `memoryBacking/allocation`: `immediate` or on demand.
    pub struct MemoryAllocation {
        mode: String = "Mode" [attr "mode"];
    }

    /// `memoryBacking/nosharepages`: present: no page merging.
    pub struct NoSharePages {}
}
