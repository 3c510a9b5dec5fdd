//! `<devices>`: the list of lists, and the parts that many devices share.

mod character;
mod controller;
mod disk;
mod display;
mod filesystem;
mod host;
mod interface;
mod other;

pub use character::*;
pub use controller::*;
pub use disk::*;
pub use display::*;
pub use filesystem::*;
pub use host::*;
pub use interface::*;
pub use other::*;

use crate::domain::elements::elements;

elements! {
    /// `<devices>`.
    pub struct Devices {
        emulator: String = "Emulator" [child? "emulator"];
        interfaces: Vec<Interface> = "Interfaces" [child "interface"];
        channels: Vec<Channel> = "Channels" [child "channel"];
        host_devices: Vec<HostDevice> = "HostDevices" [child "hostdev"];
        panic_devices: Vec<PanicDevice> = "PanicDevices" [child "panic"];
        controllers: Vec<Controller> = "Controllers" [child "controller"];
        video: Vec<Video> = "Video" [child "video"];
        graphics: Vec<Graphics> = "Graphics" [child "graphics"];
        ballooning: Option<MemBalloon> = "Ballooning" [child "memballoon"];
        disks: Vec<Disk> = "Disks" [child "disk"];
        inputs: Vec<Input> = "Inputs" [child "input"];
        serials: Vec<Serial> = "Serials" [child "serial"];
        consoles: Vec<Console> = "Consoles" [child "console"];
        watchdogs: Vec<Watchdog> = "Watchdogs" [child "watchdog"];
        rng: Option<Rng> = "Rng" [child "rng"];
        filesystems: Vec<FilesystemDevice> = "Filesystems" [child "filesystem"];
        redirs: Vec<RedirectedDevice> = "Redirs" [child "redirdev"];
        sound_cards: Vec<SoundCard> = "SoundCards" [child "sound"];
        tpms: Vec<Tpm> = "TPMs" [child "tpm"];
        vsock: Option<Vsock> = "VSOCK" [child "vsock"];
        memory: Option<MemoryDevice> = "Memory" [child "memory"];
        iommu: Vec<IommuDevice> = "IOMMU" [child "iommu"];
    }

    /// `interface/address`: where a device sits: PCI, CCW, drive, USB, mediated.
    pub struct Address {
        type_: String = "Type" [attr? "type"];
        domain: String = "Domain" [attr? "domain"];
        bus: String = "Bus" [attr? "bus"];
        slot: String = "Slot" [attr? "slot"];
        function: String = "Function" [attr? "function"];
        controller: String = "Controller" [attr? "controller"];
        target: String = "Target" [attr? "target"];
        unit: String = "Unit" [attr? "unit"];
        uuid: String = "UUID" [attr? "uuid"];
        device: String = "Device" [attr? "device"];
        cssid: String = "CSSID" [attr? "cssid"];
        ssid: String = "SSID" [attr? "ssid"];
        dev_no: String = "DevNo" [attr? "devno"];
    }

    /// `interface/boot`: the device's place in the boot order.
    pub struct BootOrder {
        order: u64 = "Order" [attr "order"];
    }

    /// `interface/rom`: the device's option ROM.
    pub struct Rom {
        enabled: String = "Enabled" [attr "enabled"];
    }
}
