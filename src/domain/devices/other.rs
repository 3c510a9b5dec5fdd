//! The small devices: balloon, watchdog, random numbers, TPM, vsock, panic, memory modules.

use crate::domain::elements::elements;
use crate::domain::{Address, Alias, Memory, XmlName};

elements! {
    /// `<memballoon>`.
    pub struct MemBalloon {
        model: String = "Model" [attr "model"];
        stats: Option<Stats> = "Stats" [child "stats"];
        address: Option<Address> = "Address" [child "address"];
        driver: Option<MemBalloonDriver> = "Driver" [child "driver"];
        free_page_reporting: String = "FreePageReporting" [attr? "freePageReporting"];
    }

    /// `memballoon/stats`: period of the balloon statistics in seconds.
    pub struct Stats {
        period: u64 = "Period" [attr "period"];
    }

    /// `memballoon/driver`: its driver.
    pub struct MemBalloonDriver {
        iommu: String = "IOMMU" [attr? "iommu"];
    }

    /// `<watchdog>`.
    pub struct Watchdog {
        model: String = "Model" [attr "model"];
        action: String = "Action" [attr "action"];
        alias: Option<Alias> = "Alias" [child "alias"];
        address: Option<Address> = "Address" [child "address"];
    }

    /// `<rng>`.
    pub struct Rng {
        model: String = "Model" [attr "model"];
        backend: Option<RngBackend> = "Backend" [child "backend"];
        address: Option<Address> = "Address" [child "address"];
        driver: Option<RngDriver> = "Driver" [child "driver"];
    }

    /// `rng/backend`: source of randomness.
    pub struct RngBackend {
        model: String = "Model" [attr "model"];
        source: String = "Source" [text];
    }

    /// `rng/driver`: its driver.
    pub struct RngDriver {
        iommu: String = "IOMMU" [attr? "iommu"];
    }

    /// `<tpm>`.
    pub struct Tpm {
        model: String = "Model" [attr "model"];
        backend: TpmBackend = "Backend" [child "backend"];
    }

    /// `tpm/backend`: the emulator.
    pub struct TpmBackend {
        type_: String = "Type" [attr "type"];
        version: String = "Version" [attr "version"];
        persistent_state: String = "PersistentState" [attr? "persistent_state"];
    }

    /// `<vsock>`.
    pub struct Vsock {
        model: String = "Model" [attr? "model"];
        cid: Cid = "CID" [child "cid"];
    }

    /// `vsock/cid`: context id.
    pub struct Cid {
        auto: String = "Auto" [attr "auto"];
        address: u32 = "Address" [attr? "address"];
    }

    /// `<panic>`.
    pub struct PanicDevice {
        model: Option<String> = "Model" [attr "model"];
    }

    /// `<memory>` below devices: virtio-mem.
    pub struct MemoryDevice {
        xml_name: XmlName = "XMLName" [tag];
        model: String = "Model" [attr "model"];
        target: Option<MemoryTarget> = "Target" [child "target"];
        alias: Option<Alias> = "Alias" [child "alias"];
        address: Option<Address> = "Address" [child "address"];
    }

    /// `memory/target`: its size, what is asked for, what the guest has.
    pub struct MemoryTarget {
        size: Memory = "Size" [child "size"];
        requested: Memory = "Requested" [child "requested"];
        current: Memory = "Current" [child "current"];
        node: String = "Node" [child "node"];
        block: Memory = "Block" [child "block"];
        address: Option<MemoryAddress> = "Address" [child "address"];
    }

    /// `memory/target/address`: its guest address.
    pub struct MemoryAddress {
        base: String = "Base" [attr "base"];
    }
}
