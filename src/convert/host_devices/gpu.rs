//! GPUs, and which of them shows the guest's display (contract/domain-xml-qemu.md 10.2).

use super::super::error::ConvertError;
use super::super::facts::HostFacts;
use super::claims::{self, Claimed};
use super::{Entry, List, mediated_device, pci_device};
use crate::domain::HostDevice;
use crate::vmi::{Gpu, VgpuDisplay, VirtualMachineInstance};

const GPUS: List = List { path: "spec.domain.devices.gpus", alias: "gpu-", usb: false, what: "GPU", kind: "GPU" };

/// GPUs of device plugins.
pub(super) fn by_plugin(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<Vec<HostDevice>, ConvertError> {
    let gpus = &vmi.spec.domain.devices.gpus;
    let entries: Vec<Entry<'_>> = gpus.iter().map(entry).collect();
    let mut devices = super::by_plugin(&entries, facts, &GPUS)?;
    let of = |device: &HostDevice| {
        let name = device.alias.as_ref()?.name.strip_prefix(GPUS.alias)?;
        gpus.iter().find(|gpu| gpu.name == name)
    };
    for device in devices.iter_mut().filter(|device| device.type_ == "pci") {
        if let Some(display) = of(device).and_then(display)
            && display.enabled == Some(true)
        {
            show(device, ram_frame_buffer(display).unwrap_or(true));
        }
    }
    let mediated = devices.iter_mut().filter(|device| device.type_ == "mdev");
    show_mediated(gpus, mediated.map(|device| (of(device), device)));
    Ok(devices)
}

/// GPUs of dynamic resource allocation.
pub(super) fn by_claim(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Result<Vec<HostDevice>, ConvertError> {
    let gpus = &vmi.spec.domain.devices.gpus;
    let mut devices = Vec::new();
    let mut owners = Vec::new();
    for gpu in gpus.iter().filter(|gpu| entry(gpu).is_claimed()) {
        let alias = format!("dra-gpu-{}", gpu.name);
        devices.push(match claims::device(vmi, facts, &entry(gpu), GPUS.path)? {
            Claimed::Pci(address) => pci_device(&alias, &gpu.name, &address)?,
            Claimed::Mediated(uuid) => mediated_device(&alias, &uuid),
        });
        owners.push(Some(gpu));
    }
    let mediated = owners.into_iter().zip(&mut devices).filter(|(_, device)| device.type_ == "mdev");
    show_mediated(gpus, mediated);
    Ok(devices)
}

fn entry(gpu: &Gpu) -> Entry<'_> {
    Entry {
        name: &gpu.name,
        resource: &gpu.device_name,
        claim: gpu.claim_name.as_deref(),
        request: gpu.request_name.as_deref(),
    }
}

fn display(gpu: &Gpu) -> Option<&VgpuDisplay> {
    gpu.virtual_gpu_options.as_ref()?.display.as_ref()
}

/// Whether the display has a frame buffer before the guest's driver runs, if the VMI says so.
fn ram_frame_buffer(display: &VgpuDisplay) -> Option<bool> {
    display.ram_fb.as_ref().map(|state| state.enabled == Some(true))
}

fn show(device: &mut HostDevice, ram_frame_buffer: bool) {
    "on".clone_into(&mut device.display);
    if ram_frame_buffer {
        "on".clone_into(&mut device.ramfb);
    }
}

/// What the VMI says; if it says nothing of any GPU, the first one shows the display.
fn show_mediated<'a>(gpus: &'a [Gpu], devices: impl Iterator<Item = (Option<&'a Gpu>, &'a mut HostDevice)>) {
    let unsaid = gpus.iter().all(|gpu| display(gpu).is_none());
    for (index, (gpu, device)) in devices.enumerate() {
        match gpu.and_then(display) {
            Some(display) if display.enabled != Some(false) => {
                show(device, ram_frame_buffer(display).unwrap_or(true));
            }
            None if unsaid && index == 0 => show(device, true),
            Some(_) | None => {}
        }
    }
}
