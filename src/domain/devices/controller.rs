//! Controllers (PCI, USB, SCSI, virtio-serial) and the IOMMU.

use crate::domain::elements::elements;
use crate::domain::{Address, Alias, XmlName};

elements! {
    /// `<controller>`.
    pub struct Controller {
        type_: String = "Type" [attr "type"];
        index: String = "Index" [attr "index"];
        model: String = "Model" [attr? "model"];
        driver: Option<ControllerDriver> = "Driver" [child "driver"];
        alias: Option<Alias> = "Alias" [child "alias"];
        address: Option<Address> = "Address" [child "address"];
        pci_hole64: Option<PciHole64> = "PCIHole64" [child "pcihole64"];
        target: Option<ControllerTarget> = "Target" [child "target"];
    }

    /// `controller/driver`: I/O thread and queues.
    pub struct ControllerDriver {
        io_thread: Option<u64> = "IOThread" [attr "iothread"];
        queues: Option<u64> = "Queues" [attr "queues"];
        iommu: String = "IOMMU" [attr? "iommu"];
    }

    /// `controller/pcihole64`: size of the 64-bit PCI hole.
    pub struct PciHole64 {
        value: u64 = "Value" [text];
        unit: String = "Unit" [attr? "unit"];
    }

    /// `controller/target`: bus number, NUMA node, hot-plug of a PCI port.
    pub struct ControllerTarget {
        hotplug: String = "Hotplug" [attr? "hotplug"];
        bus_nr: Option<u32> = "BusNr" [attr "busNr"];
        numa_node: Option<u32> = "NUMANode" [child "node"];
    }

    /// `<iommu>`.
    pub struct IommuDevice {
        xml_name: XmlName = "XMLName" [tag];
        model: String = "Model" [attr "model"];
        driver: Option<IommuDriver> = "Driver" [child "driver"];
    }

    /// `iommu/driver`: properties of the IOMMU.
    pub struct IommuDriver {
        pci_bus: String = "PCIBus" [attr? "pciBus"];
        accel: String = "Accel" [attr? "accel"];
        ats: String = "ATS" [attr? "ats"];
        ril: String = "RIL" [attr? "ril"];
        ssid_size: String = "SSIDSize" [attr? "ssidSize"];
        oas: String = "OAS" [attr? "oas"];
    }
}
