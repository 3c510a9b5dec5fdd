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
            // Unlike a mediated device's, it has to be turned off by name.
            show(device, display.ram_fb.as_ref().and_then(|state| state.enabled) != Some(false));
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

/// Whether a mediated device's display has a frame buffer before the guest's driver runs.
fn ram_frame_buffer(display: &VgpuDisplay) -> bool {
    display.ram_fb.as_ref().is_none_or(|state| state.enabled == Some(true))
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
                show(device, ram_frame_buffer(display));
            }
            None if unsaid && index == 0 => show(device, true),
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Display and frame buffer of the one GPU, as the environment knows it.
    fn shown(variable: &str, address: &str, display: &serde_json::Value) -> (String, String) {
        let gpu = json!({"name": "g", "deviceName": "v/g", "virtualGPUOptions": {"display": display}});
        let vmi = json!({"spec": {"domain": {"devices": {"gpus": [gpu]}}}});
        let vmi = crate::vmi::parse(vmi.to_string().as_bytes()).unwrap();
        let facts = serde_json::from_value(json!({"env": {variable: address}})).unwrap();
        let device = by_plugin(&vmi, &facts).unwrap().pop().unwrap();
        (device.display, device.ramfb)
    }

    #[test]
    fn each_kind_has_its_own_rule_for_the_frame_buffer() {
        let (on, off) = (|| "on".to_owned(), String::new);
        let displays = [
            (json!({"enabled": true}), on(), on()),
            (json!({"enabled": true, "ramFB": {}}), on(), off()),
            (json!({"enabled": true, "ramFB": {"enabled": true}}), on(), on()),
            (json!({"enabled": true, "ramFB": {"enabled": false}}), off(), off()),
        ];
        for (display, pci, mediated) in displays {
            let found = shown("PCI_RESOURCE_V_G", "0000:01:00.0", &display);
            assert_eq!(found, (on(), pci), "PCI {display}");
            let found = shown("MDEV_PCI_RESOURCE_V_G", "aa618089-8b16-4d01-a136-25a0f3c73123", &display);
            assert_eq!(found, (on(), mediated), "mediated {display}");
        }
        assert_eq!(shown("PCI_RESOURCE_V_G", "0000:01:00.0", &json!({})), (off(), off()));
    }
}
