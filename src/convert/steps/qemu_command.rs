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
