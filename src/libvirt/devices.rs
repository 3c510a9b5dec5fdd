//! Calls that change a domain's devices, vCPUs and memory. All of them change the running guest and the definition,
//! unless a call says otherwise.

use super::connection::Connection;
use super::error::{Error, code};
use super::forgotten::forgotten_alias;

/// `VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG`, also under the names `DEVICE_MODIFY_…` and `VCPU_…`.
const LIVE_AND_CONFIG: u32 = 1 | 2;
/// `VIR_DOMAIN_DEVICE_MODIFY_LIVE`.
const LIVE: u32 = 1;

/// How `block_resize` finds the new size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockSize {
    /// Bytes (`VIR_DOMAIN_BLOCK_RESIZE_BYTES`).
    Bytes(u64),
    /// What the device below has by now (`BYTES | CAPACITY`).
    Device,
}

impl Connection {
    /// `virDomainAttachDeviceFlags`. Where the definition still has the device, or another one of its name, because a daemon
    /// died between its two halves of an unplug, it is given to the guest alone.
    pub async fn attach_device(&self, name: &str, xml: String) -> Result<(), Error> {
        let both = self.attach(name, xml.clone(), LIVE_AND_CONFIG).await;
        match both {
            Err(error) if matches!(error.code(), Some(code::CONFIG_UNSUPPORTED | code::OPERATION_INVALID)) => {
                self.attach(name, xml, LIVE).await.map_err(|_| error)
            }
            both => both,
        }
    }

    /// Once more where a device of an attach stood in the way that the daemon has not survived.
    async fn attach(&self, name: &str, xml: String, flags: u32) -> Result<(), Error> {
        let attached = self.attach_once(name, xml.clone(), flags).await;
        let forgotten = attached.as_ref().err().and_then(|error| forgotten_alias(error, &xml));
        let Some(alias) = forgotten else { return attached };
        self.unplug_forgotten(name, alias).await?;
        self.attach_once(name, xml, flags).await
    }

    async fn attach_once(&self, name: &str, xml: String, flags: u32) -> Result<(), Error> {
        self.on_domain("virDomainAttachDeviceFlags", self.deadlines().control, name, move |domain| {
            Ok(domain.attach_device_flags(&xml, flags)?)
        })
        .await
    }

    /// `virDomainDetachDeviceFlags`: asks the guest to let go of the device. libvirt waits some seconds for it; success
    /// after that only means that the guest was asked, and an event reports the rest. To ask again, or for a device that has
    /// gone meanwhile, is not an error.
    pub async fn detach_device(&self, name: &str, xml: String) -> Result<(), Error> {
        let missing =
            |result: &Result<(), Error>| result.as_ref().is_err_and(|error| error.code() == Some(code::DEVICE_MISSING));
        let mut result = self.detach(name, xml.clone(), LIVE_AND_CONFIG).await;
        if missing(&result) {
            // An earlier request has taken it out of the definition; the guest may still have it.
            result = self.detach(name, xml, LIVE).await;
        }
        match result {
            Err(error) if error.is_unplugging() => Ok(()),
            result if missing(&result) => Ok(()),
            result => result,
        }
    }

    async fn detach(&self, name: &str, xml: String, flags: u32) -> Result<(), Error> {
        self.on_domain("virDomainDetachDeviceFlags", self.deadlines().control, name, move |domain| {
            Ok(domain.detach_device_flags(&xml, flags)?)
        })
        .await
    }

    /// `virDomainUpdateDeviceFlags`.
    pub async fn update_device(&self, name: &str, xml: String) -> Result<(), Error> {
        self.on_domain("virDomainUpdateDeviceFlags", self.deadlines().control, name, move |domain| {
            Ok(domain.update_device_flags(&xml, LIVE_AND_CONFIG)?)
        })
        .await
    }

    /// `virDomainUpdateDeviceFlags` on the running guest alone.
    pub async fn update_live_device(&self, name: &str, xml: String) -> Result<(), Error> {
        self.on_domain("virDomainUpdateDeviceFlags", self.deadlines().control, name, move |domain| {
            Ok(domain.update_device_flags(&xml, LIVE)?)
        })
        .await
    }

    /// `virDomainBlockResize` of the disk with this source path or target name.
    pub async fn block_resize(&self, name: &str, disk: &str, size: BlockSize) -> Result<(), Error> {
        let disk = disk.to_owned();
        let (bytes, flags) = match size {
            BlockSize::Bytes(bytes) => (bytes, 1),
            BlockSize::Device => (0, 1 | 2),
        };
        self.on_domain("virDomainBlockResize", self.deadlines().control, name, move |domain| {
            Ok(domain.block_resize(&disk, bytes, flags)?)
        })
        .await
    }

    /// `virDomainSetVcpusFlags`.
    pub async fn set_vcpus(&self, name: &str, count: u32) -> Result<(), Error> {
        self.on_domain("virDomainSetVcpusFlags", self.deadlines().control, name, move |domain| {
            Ok(domain.set_vcpus_flags(count, LIVE_AND_CONFIG)?)
        })
        .await
    }

    /// `virDomainPinVcpuFlags` to the host CPUs of `map` ([`cpu_map`]).
    pub async fn pin_vcpu(&self, name: &str, vcpu: u32, map: Vec<u8>) -> Result<(), Error> {
        self.on_domain("virDomainPinVcpuFlags", self.deadlines().control, name, move |domain| {
            Ok(domain.pin_vcpu_flags(vcpu, &map, LIVE_AND_CONFIG)?)
        })
        .await
    }

    /// `virDomainPinEmulator` to the host CPUs of `map` ([`cpu_map`]).
    pub async fn pin_emulator(&self, name: &str, map: Vec<u8>) -> Result<(), Error> {
        self.on_domain("virDomainPinEmulator", self.deadlines().control, name, move |domain| {
            Ok(domain.pin_emulator(&map, LIVE_AND_CONFIG)?)
        })
        .await
    }
}

/// Host CPUs as libvirt's bit map: bit n of the map is CPU n, the lowest bit of a byte first.
pub fn cpu_map(cpus: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let mut map = Vec::new();
    for cpu in cpus {
        let byte = (cpu / 8) as usize;
        if map.len() <= byte {
            map.resize(byte + 1, 0);
        }
        if let Some(bits) = map.get_mut(byte) {
            *bits |= 1 << (cpu % 8);
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_map_has_one_bit_for_each_cpu() {
        assert_eq!(cpu_map([]), Vec::<u8>::new());
        assert_eq!(cpu_map([0]), [1]);
        assert_eq!(cpu_map([9, 0, 7]), [0x81, 0x02]);
    }
}
