//! Devices, vCPUs and memory of a running domain.

use super::{Answer, LibvirtControl, unsupported};
use crate::libvirt::BlockSize;

/// Changes the running guest and the definition, unless a method says otherwise. Devices are given as libvirt's XML.
pub trait DeviceControl: Send + Sync {
    /// Plugs a device.
    fn attach_device(&self, _xml: String) -> Answer<'_, ()> {
        unsupported("plugging a device")
    }
    /// Asks the guest to let go of a device; an event tells that it has. A device that has gone already is no error.
    fn detach_device(&self, _xml: String) -> Answer<'_, ()> {
        unsupported("unplugging a device")
    }
    /// Changes a device: the medium of a drive, the link of an interface.
    fn update_device(&self, _xml: String) -> Answer<'_, ()> {
        unsupported("changing a device")
    }
    /// The same for the running guest alone.
    fn update_live_device(&self, _xml: String) -> Answer<'_, ()> {
        unsupported("changing a device")
    }
    /// Tells the guest of the new size of the disk with this source path.
    fn block_resize<'a>(&'a self, _disk: &'a str, _size: BlockSize) -> Answer<'a, ()> {
        unsupported("growing a disk")
    }
    /// Plugs or unplugs vCPUs until there are so many.
    fn set_vcpus(&self, _count: u32) -> Answer<'_, ()> {
        unsupported("changing the number of vCPUs")
    }
    /// Pins a vCPU to the host's CPUs in `map` ([`crate::libvirt::cpu_map`]).
    fn pin_vcpu(&self, _vcpu: u32, _map: Vec<u8>) -> Answer<'_, ()> {
        unsupported("pinning a vCPU")
    }
    /// Pins the hypervisor's other threads likewise.
    fn pin_emulator(&self, _map: Vec<u8>) -> Answer<'_, ()> {
        unsupported("pinning the emulator")
    }
}

impl DeviceControl for LibvirtControl {
    fn attach_device(&self, xml: String) -> Answer<'_, ()> {
        self.answer(self.connection.attach_device(&self.domain, xml))
    }

    fn detach_device(&self, xml: String) -> Answer<'_, ()> {
        self.answer(self.connection.detach_device(&self.domain, xml))
    }

    fn update_device(&self, xml: String) -> Answer<'_, ()> {
        self.answer(self.connection.update_device(&self.domain, xml))
    }

    fn update_live_device(&self, xml: String) -> Answer<'_, ()> {
        self.answer(self.connection.update_live_device(&self.domain, xml))
    }

    fn block_resize<'a>(&'a self, disk: &'a str, size: BlockSize) -> Answer<'a, ()> {
        self.answer(self.connection.block_resize(&self.domain, disk, size))
    }

    fn set_vcpus(&self, count: u32) -> Answer<'_, ()> {
        self.answer(self.connection.set_vcpus(&self.domain, count))
    }

    fn pin_vcpu(&self, vcpu: u32, map: Vec<u8>) -> Answer<'_, ()> {
        self.answer(self.connection.pin_vcpu(&self.domain, vcpu, map))
    }

    fn pin_emulator(&self, map: Vec<u8>) -> Answer<'_, ()> {
        self.answer(self.connection.pin_emulator(&self.domain, map))
    }
}
