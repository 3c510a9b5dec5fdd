//! Serial port and console (contract/domain-xml-qemu.md 7.1).

use super::super::context::PRIVATE;
use super::{Context, ConvertError};
use crate::domain::{Console, ConsoleTarget, DomainSpec, Serial, SerialLog, SerialSource, SerialTarget};

pub(super) fn console(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    if !context.vmi.spec.domain.devices.has_serial_console() {
        return Ok(());
    }
    let path = format!("{PRIVATE}/{}/virt-serial0", context.vmi.metadata.uid);
    let log = context.serial_log.then(|| SerialLog { file: format!("{path}-log"), append: "on".into() });
    domain.devices.consoles.push(Console {
        type_: "pty".into(),
        target: Some(ConsoleTarget { type_: Some("serial".into()), port: Some(0) }),
        ..Console::default()
    });
    domain.devices.serials.push(Serial {
        type_: "unix".into(),
        target: Some(SerialTarget { port: Some(0) }),
        source: Some(SerialSource { mode: "bind".into(), path }),
        log,
        ..Serial::default()
    });
    Ok(())
}
