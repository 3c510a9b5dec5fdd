//! Arguments handed to QEMU as they are (contract/domain-xml-qemu.md 5.8).

use super::super::arch::Arch;
use super::super::context::PRIVATE;
use super::{Context, ConvertError};
use crate::domain::{Arg, Commandline, DomainSpec};

/// From this verbosity on, the firmware's debug port is read.
const FIRMWARE_VERBOSITY: i64 = 5;

pub(super) fn qemu_command(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let mut arguments: Vec<String> = Vec::new();
    let meta = &context.vmi.metadata;
    if context.vmi.annotation("kubevirt.io/ignitiondata").is_some_and(|data| data.contains("ignition")) {
        let file =
            format!("{}/ignition-data/{}/{}/data.ign", context.facts.ephemeral_disk_dir, meta.namespace, meta.name);
        arguments.extend(["-fw_cfg".to_owned(), format!("name=opt/com.coreos/config,file={file}")]);
    }
    let verbosity = context.facts.env.get("VIRT_LAUNCHER_LOG_VERBOSITY").and_then(|text| text.parse::<i64>().ok());
    if context.arch == Arch::Amd64 && verbosity.is_some_and(|verbosity| verbosity > FIRMWARE_VERBOSITY) {
        arguments.extend([
            "-chardev".to_owned(),
            format!("file,id=firmwarelog,path={PRIVATE}/QEMUSeaBiosDebugPipe"),
            "-device".to_owned(),
            "isa-debugcon,iobase=0x402,chardev=firmwarelog".to_owned(),
        ]);
    }
    if !arguments.is_empty() {
        let qemu_arg = arguments.into_iter().map(|value| Arg { value }).collect();
        domain.qemu_cmd = Some(Commandline { qemu_arg, ..Commandline::default() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{run, vmi, written};

    #[test]
    fn qemu_command_hands_ignition_data_to_the_firmware() {
        let with = |data: &str| {
            let mut vmi = vmi(json!({}));
            vmi["metadata"]["annotations"] = json!({"kubevirt.io/ignitiondata": data});
            run(super::qemu_command, vmi, json!({"ephemeralDiskDir": "/e"})).unwrap()
        };
        assert_eq!(
            with(r#"{"ignition": {}}"#),
            [
                "<qemu:commandline>",
                r#"<qemu:arg value="-fw_cfg"/>"#,
                r#"<qemu:arg value="name=opt/com.coreos/config,file=/e/ignition-data/ns/vm/data.ign"/>"#,
                "</qemu:commandline>",
            ]
            .concat()
        );
        assert_eq!(with("{}"), "");
        assert_eq!(written(super::qemu_command, json!({})), "");
    }

    #[test]
    fn qemu_command_reads_the_firmwares_debug_port_at_a_high_verbosity() {
        let at = |facts: Value| run(super::qemu_command, vmi(json!({})), facts).unwrap();
        let verbosity = |verbosity: &str| json!({"VIRT_LAUNCHER_LOG_VERBOSITY": verbosity});
        let debug = at(json!({"env": verbosity("6")}));
        assert_eq!(
            debug,
            [
                "<qemu:commandline>",
                r#"<qemu:arg value="-chardev"/>"#,
                r#"<qemu:arg value="file,id=firmwarelog,path=/var/run/kubevirt-private/QEMUSeaBiosDebugPipe"/>"#,
                r#"<qemu:arg value="-device"/>"#,
                r#"<qemu:arg value="isa-debugcon,iobase=0x402,chardev=firmwarelog"/>"#,
                "</qemu:commandline>",
            ]
            .concat()
        );
        assert_eq!(at(json!({"env": verbosity("5")})), "");
        assert_eq!(at(json!({"env": verbosity("high")})), "");
        assert_eq!(at(json!({"env": verbosity("6"), "hostArch": "arm64"})), "", "the port exists on amd64 only");
    }
}
