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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{refused, run, vmi, written};

    fn of(inputs: Value) -> Value {
        json!({"devices": {"inputs": inputs}})
    }

    #[test]
    fn inputs_are_tablets_on_usb_unless_virtio_is_named() {
        let inputs = json!([{"name": "a", "type": "tablet"}, {"name": "b", "type": "tablet", "bus": "virtio"}]);
        assert_eq!(
            written(super::inputs, of(inputs)),
            [
                r#"<input type="tablet" bus="usb"><alias name="ua-a"/></input>"#,
                r#"<input type="tablet" bus="virtio" model="virtio"><alias name="ua-b"/></input>"#,
            ]
            .concat()
        );
        assert_eq!(written(super::inputs, json!({})), "");
    }

    #[test]
    fn inputs_of_other_kinds_are_refused_at_their_field() {
        let tablet = json!({"name": "a", "type": "tablet"});
        let bus = refused(super::inputs, of(json!([tablet, {"name": "b", "type": "tablet", "bus": "ps2"}])));
        assert_eq!(bus, "spec.domain.devices.inputs[1].bus: input contains unsupported bus ps2");
        let kind = refused(super::inputs, of(json!([{"name": "b", "type": "keyboard"}])));
        assert_eq!(kind, "spec.domain.devices.inputs[0].type: input contains unsupported type keyboard");
    }

    #[test]
    fn inputs_for_graphics_are_added_where_the_machine_has_none() {
        let on = |arch: &str, domain: Value| run(super::inputs, vmi(domain), json!({"hostArch": arch})).unwrap();
        let (tablet, keyboard) = (r#"<input type="tablet" bus="usb"/>"#, r#"<input type="keyboard" bus="usb"/>"#);
        assert_eq!(on("arm64", json!({})), [tablet, keyboard].concat());
        let own = on("arm64", of(json!([{"name": "a", "type": "tablet"}])));
        assert_eq!(own, [r#"<input type="tablet" bus="usb"><alias name="ua-a"/></input>"#, keyboard].concat());
        assert_eq!(on("s390x", json!({})), r#"<input type="keyboard" bus="virtio"/>"#);
        assert_eq!(on("arm64", json!({"devices": {"autoattachGraphicsDevice": false}})), "");
    }
}
