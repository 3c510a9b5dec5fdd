//! Network interfaces.

use crate::domain::elements::elements;
use crate::domain::{Address, Alias, BootOrder, Rom, XmlName};

elements! {
    /// `<interface>`.
    pub struct Interface {
        xml_name: XmlName = "XMLName" [tag];
        address: Option<Address> = "Address" [child "address"];
        type_: String = "Type" [attr "type"];
        trust_guest_rx_filters: String = "TrustGuestRxFilters" [attr? "trustGuestRxFilters"];
        source: InterfaceSource = "Source" [child "source"];
        target: Option<InterfaceTarget> = "Target" [child "target"];
        model: Option<Model> = "Model" [child "model"];
        mac: Option<Mac> = "MAC" [child "mac"];
        mtu: Option<Mtu> = "MTU" [child "mtu"];
        bandwidth: Option<Bandwidth> = "BandWidth" [child "bandwidth"];
        boot_order: Option<BootOrder> = "BootOrder" [child "boot"];
        link_state: Option<LinkState> = "LinkState" [child "link"];
        filter_ref: Option<FilterRef> = "FilterRef" [child "filterref"];
        alias: Option<Alias> = "Alias" [child "alias"];
        driver: Option<InterfaceDriver> = "Driver" [child "driver"];
        rom: Option<Rom> = "Rom" [child "rom"];
        acpi: Option<Acpi> = "ACPI" [child "acpi"];
        backend: Option<InterfaceBackend> = "Backend" [child "backend"];
        port_forward: Vec<InterfacePortForward> = "PortForward" [child "portForward"];
    }

    /// `interface/source`: what the interface is attached to in the pod.
    pub struct InterfaceSource {
        network: String = "Network" [attr? "network"];
        device: String = "Device" [attr? "dev"];
        bridge: String = "Bridge" [attr? "bridge"];
        mode: String = "Mode" [attr? "mode"];
        address: Option<Address> = "Address" [child "address"];
    }

    /// `interface/target`: name of the tap device.
    pub struct InterfaceTarget {
        device: String = "Device" [attr "dev"];
        managed: String = "Managed" [attr? "managed"];
    }

    /// `interface/model`: kind of network card.
    pub struct Model {
        type_: String = "Type" [attr "type"];
    }

    /// `interface/mac`: MAC address.
    pub struct Mac {
        mac: String = "MAC" [attr "address"];
    }

    /// `interface/mtu`: MTU in bytes.
    pub struct Mtu {
        size: String = "Size" [attr "size"];
    }

    /// `interface/bandwidth`: traffic shaping; only its presence is kept.
    pub struct Bandwidth {}

    /// `interface/link`: `up` or `down`.
    pub struct LinkState {
        state: String = "State" [attr "state"];
    }

    /// `interface/filterref`: A network filter.
    pub struct FilterRef {
        filter: String = "Filter" [attr "filter"];
    }

    /// `interface/driver`: back end and its queues.
    pub struct InterfaceDriver {
        name: String = "Name" [attr "name"];
        queues: Option<u64> = "Queues" [attr "queues"];
        iommu: String = "IOMMU" [attr? "iommu"];
    }

    /// `interface/acpi`: index in the guest's device name.
    pub struct Acpi {
        index: u64 = "Index" [attr "index"];
    }

    /// `interface/backend`: passt.
    pub struct InterfaceBackend {
        type_: String = "Type" [attr? "type"];
        log_file: String = "LogFile" [attr? "logFile"];
    }

    /// `interface/portForward`: ports that passt forwards.
    pub struct InterfacePortForward {
        proto: String = "Proto" [attr "proto"];
        address: String = "Address" [attr? "address"];
        dev: String = "Dev" [attr? "dev"];
        ranges: Vec<InterfacePortForwardRange> = "Ranges" [child "range"];
    }

    /// `interface/portForward/range`: one range of ports.
    pub struct InterfacePortForwardRange {
        start: u64 = "Start" [attr "start"];
        end: u64 = "End" [attr? "end"];
        to: u64 = "To" [attr? "to"];
        exclude: String = "Exclude" [attr? "exclude"];
    }
}

impl Interface {
    /// The alias's name, without the prefix of user-defined ones; empty where there is none.
    pub fn alias_name(&self) -> &str {
        Alias::name_of(self.alias.as_ref())
    }
}
