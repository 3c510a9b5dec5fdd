//! The document for libvirt's Cloud Hypervisor driver (contract/cloud-hypervisor.md 1): only what the driver accepts, and
//! nothing that it would drop in silence. What a VMI asks for beyond that has been refused before
//! (`hypervisor/features.yaml`); what is left of it here is an error.

use super::super::arch::Arch;
use super::super::context::PRIVATE;
use super::super::facts::HypervisorFacts;
use super::{Context, ConvertError, Step, beneath, cpu, disks, interfaces, memory, pinning};
use crate::domain::{
    Cpu, Disk as Device, DiskDriver, DiskTarget, DomainSpec, Os, OsType, ReadOnly, Serial, SerialLog, SerialSource,
    SerialTarget,
};
use crate::vmi::{Disk, Volume};

/// All steps in order.
pub(super) const STEPS: &[Step] = &[
    Step { name: "name", run: name },
    Step { name: "interfaces", run: interfaces_on_taps },
    Step { name: "host devices", run: host_devices },
    Step { name: "serial port", run: serial },
    Step { name: "os", run: os },
    Step { name: "disks", run: virtio_disks },
    Step { name: "cpu", run: processors },
    Step { name: "memory", run: fixed_memory },
    Step { name: "hypervisor", run: hypervisor },
    Step { name: "CPU pinning", run: placement },
];

/// Where virt-handler puts a kernel boot image's files.
const KERNEL_BOOT: &str = "/var/run/kubevirt/container-disks/kernel-boot";

type Result = std::result::Result<(), ConvertError>;

/// The name may be one that libvirt can make socket paths of; the launcher shows the VMI's.
fn name(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    let HypervisorFacts { domain_name, .. } = &context.facts.hypervisor;
    domain.name = if domain_name.is_empty() { context.vmi.domain_name() } else { domain_name.clone() };
    if let Some(firmware) = &context.vmi.spec.domain.firmware {
        domain.uuid.clone_from(&firmware.uuid);
    }
    Ok(())
}

/// Taps by name; CH makes a virtio card of each.
fn interfaces_on_taps(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    interfaces::interfaces(context, domain)?;
    let all = &context.vmi.spec.domain.devices.interfaces;
    for device in &mut domain.devices.interfaces {
        if device.type_ != "ethernet" {
            let alias = device.alias.as_ref().map(|alias| alias.name.as_str());
            let index = all.iter().position(|interface| Some(interface.name.as_str()) == alias).unwrap_or_default();
            return Err(ConvertError::field(
                format!("spec.domain.devices.interfaces[{index}]"),
                "Cloud Hypervisor needs a tap, and this interface's binding gives none",
            ));
        }
        (device.address, device.acpi, device.boot_order, device.rom, device.link_state) =
            (None, None, None, None, None);
    }
    Ok(())
}

fn host_devices(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    for device in &context.host_devices {
        if device.type_ != "pci" {
            return Err(ConvertError::field(
                "spec.domain.devices",
                format!("Cloud Hypervisor gets whole PCI devices of the host, not {} devices", device.type_),
            ));
        }
        let mut device = device.clone();
        (device.address, device.boot_order, device.acpi) = (None, None, None);
        domain.devices.host_devices.push(device);
    }
    Ok(())
}

/// The VMM's own socket. It takes one client, which must read everything: the launcher, which serves `virt-serial0`.
fn serial(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    if context.vmi.spec.domain.devices.has_serial_console() {
        let private = format!("{PRIVATE}/{}", context.vmi.metadata.uid);
        domain.devices.serials.push(Serial {
            type_: "unix".into(),
            target: Some(SerialTarget { port: Some(0) }),
            source: Some(SerialSource { mode: "bind".into(), path: format!("{private}/vmm-serial0") }),
            // The driver does not look at it; the launcher, which writes the log, does.
            log: context
                .serial_log
                .then(|| SerialLog { file: format!("{private}/virt-serial0-log"), append: "on".into() }),
            ..Serial::default()
        });
    }
    Ok(())
}

/// A kernel; or the firmware image in its place, which then boots from the first disk.
fn os(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    let arch = match context.arch {
        Arch::Amd64 => "x86_64",
        Arch::Arm64 => "aarch64",
        Arch::S390x => {
            return Err(ConvertError::field("spec.architecture", "Cloud Hypervisor exists for amd64 and arm64"));
        }
    };
    domain.os.type_ = OsType { os: "hvm".into(), arch: arch.into(), ..OsType::default() };
    let firmware = context.vmi.spec.domain.firmware.as_ref();
    let boot = firmware.and_then(|firmware| firmware.kernel_boot.as_ref());
    if let Some(boot) = boot {
        domain.os.kernel_args.clone_from(&boot.kernel_args);
        if let Some(container) = &boot.container {
            let path = |path: &str| if path.is_empty() { String::new() } else { beneath(KERNEL_BOOT, path) };
            domain.os.kernel = path(&container.kernel_path);
            domain.os.initrd = path(&container.initrd_path);
        }
    }
    if domain.os.kernel.is_empty() {
        let image = &context.facts.hypervisor.firmware_image;
        if image.is_empty() {
            return Err(ConvertError::field(
                "spec.domain.firmware",
                "the image has no firmware for Cloud Hypervisor, so only firmware.kernelBoot.container can boot",
            ));
        }
        // A command line without a kernel is refused by libvirt, and the firmware would not look at it.
        domain.os = Os { type_: domain.os.type_.clone(), kernel: image.clone(), ..Os::default() };
    }
    Ok(())
}

/// Disks in the order in which the firmware shall try them, each an image by itself.
fn virtio_disks(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    for (index, disk) in context.disks().iter().enumerate() {
        let path = format!("spec.domain.devices.disks[{index}]");
        if !matches!(disks::bus(disk), "" | "virtio") || disk.lun.is_some() {
            return Err(ConvertError::field(path, "Cloud Hypervisor has virtio disks only"));
        }
        if context.volume(&disk.name).is_none() {
            return Err(ConvertError::field(path, "there is no volume of this name, and no drive that can be empty"));
        }
    }
    disks::disks(context, domain)?;
    let order = |device: &Device| device.boot_order.as_ref().map_or(u64::MAX, |boot| boot.order);
    domain.devices.disks.sort_by_key(order);
    for (device, letter) in domain.devices.disks.iter_mut().zip(target_names()) {
        let name = device.alias.as_ref().map(|alias| alias.name.clone()).unwrap_or_default();
        let volume = context.volume(&name).map(|(_, volume)| volume);
        *device = plain_disk(context, device, letter, volume, context.disks().iter().find(|disk| disk.name == name));
    }
    Ok(())
}

fn plain_disk(
    context: &Context<'_>,
    device: &Device,
    target: String,
    volume: Option<&Volume>,
    disk: Option<&Disk>,
) -> Device {
    let mut source = device.source.clone();
    if source.file.is_empty() {
        // A device's path is as good as a file's, and the driver takes files only.
        source.file = std::mem::take(&mut source.dev);
    }
    source.name = String::new();
    if volume.is_some_and(is_cloud_init)
        && let Some(path) = source.file.strip_suffix(".iso")
    {
        source.file = format!("{path}.img");
    }
    let read_only =
        device.read_only.is_some() || volume.is_some_and(is_made_here) || disk.is_some_and(|disk| disk.cdrom.is_some());
    Device {
        device: "disk".into(),
        type_: "file".into(),
        source,
        target: DiskTarget { bus: "virtio".into(), device: target, ..DiskTarget::default() },
        driver: Some(DiskDriver {
            name: context.facts.hypervisor.disk_driver.clone(),
            type_: device.driver.as_ref().map(|driver| driver.type_.clone()).unwrap_or_default(),
            ..DiskDriver::default()
        }),
        read_only: read_only.then(ReadOnly::default),
        alias: device.alias.clone(),
        ..Device::default()
    }
}

fn is_cloud_init(volume: &Volume) -> bool {
    volume.cloud_init_no_cloud.is_some() || volume.cloud_init_config_drive.is_some()
}

/// Disks with data for the guest: nothing is lost when they are read-only.
fn is_made_here(volume: &Volume) -> bool {
    is_cloud_init(volume)
        || volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.service_account.is_some()
        || volume.downward_metrics.is_some()
}

/// `vda`, `vdb`, …, `vdz`, `vdaa`, …
fn target_names() -> impl Iterator<Item = String> {
    (0_u32..).map(|index| {
        let (mut index, mut letters) = (index, Vec::new());
        loop {
            letters.push(char::from(b'a' + u8::try_from(index % 26).unwrap_or_default()));
            match (index / 26).checked_sub(1) {
                Some(next) => index = next,
                None => break,
            }
        }
        "vd".chars().chain(letters.into_iter().rev()).collect()
    })
}

/// The number of vCPUs; the topology is there for those who read the document.
fn processors(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    cpu::cpu(context, domain)?;
    domain.cpu = Cpu { topology: domain.cpu.topology.take(), ..Cpu::default() };
    Ok(())
}

fn fixed_memory(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    memory::memory(context, domain)?;
    // Room to grow is not sent to the VMM.
    domain.max_memory = None;
    Ok(())
}

fn hypervisor(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    if !context.facts.hypervisor.device_present {
        return Err(ConvertError::known(
            "Cloud Hypervisor cannot emulate, and there is neither /dev/kvm nor /dev/mshv",
        ));
    }
    domain.type_ = if context.facts.hypervisor.name == "hyperv-direct" { "hyperv" } else { "kvm" }.into();
    Ok(())
}

fn placement(context: &Context<'_>, domain: &mut DomainSpec) -> Result {
    pinning::pinning(context, domain)?;
    if let Some(tune) = &mut domain.cpu_tune {
        // There are no IO threads to be pinned.
        tune.io_thread_pin.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests;
