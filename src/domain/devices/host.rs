//! Devices of the host that the guest gets: PCI, mediated, USB.

use crate::domain::elements::elements;
use crate::domain::{Address, Alias, BootOrder, XmlName};

elements! {
    /// `<hostdev>`.
    pub struct HostDevice {
        xml_name: XmlName = "XMLName" [tag];
        source: HostDeviceSource = "Source" [child "source"];
        type_: String = "Type" [attr "type"];
        boot_order: Option<BootOrder> = "BootOrder" [child "boot"];
        managed: String = "Managed" [attr? "managed"];
        mode: String = "Mode" [attr? "mode"];
        model: String = "Model" [attr? "model"];
        address: Option<Address> = "Address" [child "address"];
        alias: Option<Alias> = "Alias" [child "alias"];
        display: String = "Display" [attr? "display"];
        ramfb: String = "RamFB" [attr? "ramfb"];
        driver: Option<HostDevDriver> = "Driver" [child "driver"];
        acpi: Option<AcpiHostDev> = "ACPI" [child "acpi"];
    }

    /// `hostdev/source`: address on the host.
    pub struct HostDeviceSource {
        address: Option<Address> = "Address" [child "address"];
    }

    /// `hostdev/driver`: VFIO back end.
    pub struct HostDevDriver {
        iommufd: String = "Iommufd" [attr? "iommufd"];
    }

    /// `hostdev/acpi`: generic initiator nodes.
    pub struct AcpiHostDev {
        node_set: String = "NodeSet" [attr? "nodeset"];
    }
}

impl HostDevice {
    /// The alias's name, without the prefix of user-defined ones; empty where there is none.
    pub fn alias_name(&self) -> &str {
        Alias::name_of(self.alias.as_ref())
    }
}
