//! Disks (contract/domain-xml-qemu.md 8.1 to 8.5, 8.9).

use super::super::arch::Arch;
use super::super::io_threads::{self, Assignment};
use super::super::pci_address::parse_address;
use super::disk_names::{self, Claim};
use super::volumes::{self, Discard};
use super::{Context, ConvertError};
use crate::domain::{
    Alias, BlockIo, BootOrder, Disk as Device, DiskDriver, DiskTarget, DomainSpec, ReadOnly, Reservations, Shareable,
    SourceReservations, disk_partners,
};
use crate::vmi::{BlockSize, ClaimInfo, Disk, FeatureState, VolumeStatus};

/// Largest block that an s390x guest can boot from.
const S390X_BLOCK: u64 = 4096;

pub(super) fn disks(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let disks = context.disks();
    let status = |disk: &Disk| context.vmi.status.volume_status.iter().rfind(|status| status.name == disk.name);
    let mut threads = Assignment::new(io_threads::count(context)?);
    let mut devices = Vec::with_capacity(disks.len());
    for (index, disk) in disks.iter().enumerate() {
        let path = format!("spec.domain.devices.disks[{index}]");
        devices.push(Builder { context, disk, status: status(disk), path: &path }.build(&mut threads)?);
    }
    let partners = disk_partners(&devices, context.live);
    let partners: Vec<Option<&Device>> =
        partners.into_iter().map(|place| place.and_then(|place| context.live.get(place))).collect();
    name(context, &mut devices, &partners, &|disk| status(disk).map(|status| status.target.as_str()));
    for ((disk, mut device), live) in disks.iter().zip(devices).zip(partners) {
        let status = status(disk);
        match live {
            // Nothing is known of the volume: the running domain has the last word on it, and keeps it.
            Some(live) if status.is_none() && context.volume(&disk.name).is_some() => device = live.clone(),
            _ if !is_printed(context, disk, status) => continue,
            _ => {}
        }
        domain.devices.disks.push(device);
    }
    Ok(())
}

/// Names the disks. What the running domain has already stays in its place there, and on the image that its path names:
/// a container disk's path carries the place that the volume had in the VMI when the domain was started (8.4).
fn name<'a>(
    context: &'a Context<'_>,
    devices: &mut [Device],
    partners: &[Option<&'a Device>],
    status: &dyn Fn(&Disk) -> Option<&'a str>,
) {
    let disks = context.disks().iter().zip(partners);
    let claims: Vec<Claim<'_>> = disks
        .map(|(disk, live)| Claim {
            bus: bus(disk),
            is_cdrom: disk.cdrom.is_some(),
            status: status(disk).unwrap_or_default(),
            live: *live,
        })
        .collect();
    let names = disk_names::assign(&claims, context.live);
    let mut is_new = Vec::with_capacity(devices.len());
    for ((device, name), live) in devices.iter_mut().zip(names).zip(partners) {
        if device.device.is_empty() {
            is_new.push(false);
            continue;
        }
        device.target.device = name;
        let live = live.filter(|live| live.target.bus == device.target.bus);
        is_new.push(live.is_none());
        let Some(live) = live else { continue };
        device.address.clone_from(&live.address);
        if device.backing_store.is_some() && live.backing_store.is_some() {
            device.backing_store.clone_from(&live.backing_store);
        }
    }
    disk_names::place_on_scsi(devices, &is_new, context.live);
}

/// Hot-plugged volumes appear once they are mounted (8.3).
fn is_printed(context: &Context<'_>, disk: &Disk, status: Option<&VolumeStatus>) -> bool {
    let name = &disk.name;
    let mounted = status.is_some_and(|status| matches!(status.phase.as_str(), "MountedToPod" | "Ready"));
    context.is_permanent(name)
        || (context.is_hotplug(name) && mounted)
        || (disk.cdrom.is_some() && context.volume(name).is_none())
}

struct Builder<'a> {
    context: &'a Context<'a>,
    disk: &'a Disk,
    status: Option<&'a VolumeStatus>,
    path: &'a str,
}

/// A disk's bus.
pub(in super::super) fn bus(disk: &Disk) -> &str {
    let lun = disk.lun.as_ref().map(|lun| &lun.bus);
    let cdrom = disk.cdrom.as_ref().map(|cdrom| &cdrom.bus);
    disk.disk.as_ref().map(|disk| &disk.bus).or(lun).or(cdrom).map(String::as_str).unwrap_or_default()
}

impl Builder<'_> {
    fn build(&self, threads: &mut Assignment) -> Result<Device, ConvertError> {
        let Builder { context, disk, .. } = *self;
        let bus = bus(disk);
        let mut device = Device {
            alias: Some(Alias::user(&disk.name)),
            boot_order: disk.boot_order.map(|order| BootOrder { order }),
            ..Device::default()
        };
        let mut driver = DiskDriver {
            name: context.facts.hypervisor.disk_driver.clone(),
            cache: disk.cache.clone(),
            io: disk.io.clone(),
            ..DiskDriver::default()
        };
        self.target(bus, &mut device)?;
        if disk.disk.is_some() && disk.shareable == Some(true) {
            match driver.cache.as_str() {
                "" => driver.cache = "none".into(),
                "none" => {}
                other => {
                    return Err(ConvertError::at(
                        format!("{}.cache", self.path),
                        format!("a sharable disk requires cache = none got: {other}"),
                    ));
                }
            }
            device.shareable = Some(Shareable::default());
        }
        let keeps_blocks = context.facts.options().preallocated_volumes.contains(&disk.name);
        if (disk.disk.is_some() || disk.lun.is_some()) && !keeps_blocks {
            driver.discard = "unmap".into();
        }
        if bus == "virtio" {
            let multi_queue = context.vmi.spec.domain.devices.block_multi_queue == Some(true);
            driver.queues = multi_queue.then(|| context.vcpus());
            driver.iommu = context.iommu();
            (driver.io_thread, driver.io_threads) = threads.next(disk.dedicated_io_thread == Some(true));
        }
        driver.error_policy = match disk.error_policy.as_deref() {
            None => "stop".into(),
            Some(policy @ ("stop" | "ignore" | "report" | "enospace")) => policy.into(),
            Some(other) => {
                return Err(ConvertError::at(
                    format!("{}.errorPolicy", self.path),
                    format!("error policy {other} not recognized"),
                ));
            }
        };
        device.driver = Some(driver);
        self.source(keeps_blocks, &mut device)?;
        device.block_io = match &disk.block_size {
            Some(size) => self.block_io(size, &device)?,
            None => None,
        };
        Ok(device)
    }

    fn target(&self, bus: &str, device: &mut Device) -> Result<(), ConvertError> {
        let Builder { disk, status, path, .. } = *self;
        let has_target = disk.disk.is_some() || disk.lun.is_some() || disk.cdrom.is_some();
        if !has_target {
            return Ok(());
        }
        device.target = DiskTarget { bus: bus.to_owned(), ..DiskTarget::default() };
        if let Some(target) = &disk.disk {
            device.device = "disk".into();
            device.read_only = target.readonly.then(ReadOnly::default);
            device.serial.clone_from(&disk.serial);
            if bus == "virtio" {
                device.model = self.context.virtio_model().into();
            }
            if !target.pci_address.is_empty() {
                if bus != "virtio" {
                    return Err(ConvertError::at(
                        format!("{}.disk.pciAddress", self.path),
                        format!(
                            "setting a pci address is not allowed for non-virtio bus types, for disk {}",
                            disk.name
                        ),
                    ));
                }
                device.address = Some(parse_address(&format!("{path}.disk.pciAddress"), &target.pci_address)?);
            }
        } else if let Some(target) = &disk.lun {
            device.device = "lun".into();
            device.read_only = target.readonly.then(ReadOnly::default);
        } else if let Some(target) = &disk.cdrom {
            device.device = "cdrom".into();
            device.target.tray.clone_from(&target.tray);
            device.read_only = target.readonly.unwrap_or(true).then(ReadOnly::default);
        }
        if (disk.disk.is_some() || disk.lun.is_some())
            && let Some(claim) = status.and_then(|status| status.persistent_volume_claim_info.as_ref())
        {
            device.filesystem_overhead.clone_from(&claim.filesystem_overhead);
            device.capacity = capacity(claim);
        }
        Ok(())
    }

    fn source(&self, keeps_blocks: bool, device: &mut Device) -> Result<(), ConvertError> {
        let Builder { context, disk, .. } = *self;
        let backend = match context.volume(&disk.name) {
            Some((index, volume)) => volumes::backend(context, &disk.name, index, volume)?,
            None if disk.cdrom.is_some() => volumes::empty(),
            None => {
                return Err(ConvertError::at(
                    format!("{}.name", self.path),
                    format!("no matching volume with name {} found", disk.name),
                ));
            }
        };
        device.type_ = backend.kind.into();
        device.source = backend.source;
        device.backing_store = backend.backing_store;
        if disk.lun.as_ref().is_some_and(|lun| lun.reservation) {
            device.source.reservations = Some(Reservations {
                managed: "no".into(),
                migration: "yes".into(),
                source_reservations: Some(SourceReservations {
                    type_: "unix".into(),
                    path: "/var/run/kubevirt/daemons/pr/pr-helper.sock".into(),
                    mode: "client".into(),
                }),
            });
        }
        if backend.metrics {
            device.read_only = Some(ReadOnly::default());
            device.model = context.virtio_model().into();
            // Nothing of the driver stays but what the original adds after it has replaced it.
            let DiskDriver { error_policy, io_thread, io_threads, .. } = device.driver.take().unwrap_or_default();
            device.driver = Some(DiskDriver {
                name: "qemu".into(),
                type_: "raw".into(),
                error_policy,
                io_thread,
                io_threads,
                ..DiskDriver::default()
            });
            return Ok(());
        }
        if let Some(driver) = &mut device.driver {
            driver.type_ = backend.format.into();
            match backend.discard {
                Discard::Always => driver.discard = "unmap".into(),
                Discard::UnlessPreallocated if !keeps_blocks => driver.discard = "unmap".into(),
                Discard::UnlessPreallocated | Discard::No => {}
            }
        }
        Ok(())
    }

    fn block_io(&self, size: &BlockSize, device: &Device) -> Result<Option<BlockIo>, ConvertError> {
        if let Some(custom) = &size.custom {
            if self.context.arch == Arch::S390x && custom.logical.max(custom.physical) > S390X_BLOCK {
                return Err(ConvertError::field(
                    format!("{}.blockSize.custom", self.path),
                    format!("blocks of more than {S390X_BLOCK} bytes are not supported on s390x"),
                ));
            }
            return Ok(Some(BlockIo {
                logical_block_size: custom.logical,
                physical_block_size: custom.physical,
                discard_granularity: custom.discard_granularity,
            }));
        }
        if !size.match_volume.as_ref().is_some_and(FeatureState::is_on) {
            return Ok(None);
        }
        let failed = |why: String| {
            ConvertError::at(
                format!("{}.blockSize.matchVolume", self.path),
                format!("failed to configure disk with block size detection enabled: {why}"),
            )
        };
        let facts = self.context.facts;
        let source = &device.source;
        let source = source.data_store.as_ref().and_then(|store| store.source.as_deref()).unwrap_or(source);
        if !source.dev.is_empty() {
            let Some(sizes) = facts.block_sizes.get(&source.dev) else {
                return Err(failed(format!("unable to open {}", source.dev)));
            };
            let (logical, physical) = match (sizes.logical, sizes.physical) {
                (0, 0) => return Err(failed(format!("block sizes of {} are unknown", source.dev))),
                (0, physical) => (physical, physical),
                (logical, 0) => (logical, logical),
                both => both,
            };
            let granularity = sizes.discard_granularity;
            let granularity = if granularity % logical == 0 { granularity } else { sizes.physical };
            return Ok(Some(BlockIo {
                logical_block_size: logical,
                physical_block_size: physical,
                discard_granularity: Some(granularity),
            }));
        }
        let Some(size) = facts.file_block_sizes.get(&source.file).filter(|_| !source.file.is_empty()) else {
            return Err(failed(format!("unable to stat {:?}", source.file)));
        };
        Ok(Some(BlockIo { logical_block_size: *size, physical_block_size: *size, discard_granularity: Some(*size) }))
    }
}

/// Bytes that a claim's file may have (8.5).
fn capacity(claim: &ClaimInfo) -> Option<i64> {
    let requested = claim.requests.get("storage")?.exact()?;
    let there = claim.capacity.get("storage")?.exact()?;
    Some(requested.min(there))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::convert::HostFacts;

    fn drivers(domain: serde_json::Value) -> Vec<DiskDriver> {
        let names = domain["devices"]["disks"].as_array().unwrap().iter().map(|disk| disk["name"].clone());
        let volumes: Vec<_> = names.map(|name| json!({"name": name, "downwardMetrics": {}})).collect();
        let vmi = json!({"spec": {"domain": domain, "volumes": volumes}});
        let vmi = crate::vmi::parse(vmi.to_string().as_bytes()).unwrap();
        let facts = HostFacts::default();
        let mut domain = DomainSpec::default();
        disks(&Context::new(&vmi, &facts).unwrap(), &mut domain).unwrap();
        domain.devices.disks.into_iter().map(|disk| disk.driver.unwrap()).collect()
    }

    #[test]
    fn metrics_disk_has_its_io_thread_and_error_policy_and_nothing_else_of_a_driver() {
        let disk = json!({"name": "m", "disk": {"bus": "virtio"}, "cache": "none", "io": "threads"});
        let own = json!({"name": "own", "disk": {"bus": "virtio"}, "dedicatedIOThread": true, "errorPolicy": "report"});
        let sata = json!({"name": "sata", "disk": {"bus": "sata"}});
        let plain = DiskDriver {
            name: "qemu".into(),
            type_: "raw".into(),
            error_policy: "stop".into(),
            ..DiskDriver::default()
        };
        let devices = json!({"blockMultiQueue": true, "disks": [disk, own, sata]});
        let auto = json!({"ioThreadsPolicy": "auto", "resources": {"requests": {"cpu": "2"}}, "devices": devices});
        let expected = [
            DiskDriver { io_thread: Some(1), ..plain.clone() },
            DiskDriver { io_thread: Some(3), error_policy: "report".into(), ..plain.clone() },
            plain.clone(),
        ];
        assert_eq!(drivers(auto), expected);
        let pool = json!({
            "ioThreadsPolicy": "supplementalPool",
            "ioThreads": {"supplementalPoolThreadCount": 2},
            "devices": {"disks": [disk]},
        });
        let threads = [1, 2].map(|id| crate::domain::DiskIoThread { id }).to_vec();
        let io_threads = Some(crate::domain::DiskIoThreads { io_thread: threads });
        assert_eq!(drivers(pool), [DiskDriver { io_threads, ..plain.clone() }]);
        assert_eq!(drivers(json!({"devices": {"disks": [disk]}})), [plain]);
    }
}
