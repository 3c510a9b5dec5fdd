//! Input devices (contract/domain-xml-qemu.md 7.3).

use super::super::arch::Arch;
use super::{Context, ConvertError};
use crate::domain::{Alias, DomainSpec, Input};

pub(super) fn inputs(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let devices = &context.vmi.spec.domain.devices;
    for (index, input) in devices.inputs.iter().enumerate() {
        let path = |field: &str| format!("spec.domain.devices.inputs[{index}].{field}");
        let bus = match input.bus.as_str() {
            "" | "usb" => "usb",
            "virtio" => "virtio",
            other => return Err(ConvertError::at(path("bus"), format!("input contains unsupported bus {other}"))),
        };
        if input.r#type != "tablet" {
            return Err(ConvertError::at(path("type"), format!("input contains unsupported type {}", input.r#type)));
        }
        domain.devices.inputs.push(Input {
            type_: "tablet".into(),
            bus: bus.into(),
            alias: Some(Alias::user(&input.name)),
            model: if bus == "virtio" { "virtio".into() } else { String::new() },
            ..Input::default()
        });
    }
    if devices.has_graphics() {
        let input = |kind: &str, bus: &str| Input { type_: kind.into(), bus: bus.into(), ..Input::default() };
        match context.arch {
            Arch::Amd64 => {}
            Arch::Arm64 => {
                if devices.inputs.is_empty() {
                    domain.devices.inputs.push(input("tablet", "usb"));
                }
                domain.devices.inputs.push(input("keyboard", "usb"));
            }
            Arch::S390x => domain.devices.inputs.push(input("keyboard", "virtio")),
        }
    }
    Ok(())
}
