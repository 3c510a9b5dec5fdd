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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{run, vmi, written};

    const CONSOLE: &str = r#"<console type="pty"><target type="serial" port="0"/></console>"#;
    const SOCKET: &str = "/var/run/kubevirt-private/1-2/virt-serial0";

    #[test]
    fn console_is_a_socket_below_the_uid_with_a_log() {
        let serial = |log: &str| {
            format!(
                r#"<serial type="unix"><target port="0"/><source mode="bind" path="{SOCKET}"/>{log}</serial>{CONSOLE}"#
            )
        };
        let logged = serial(&format!(r#"<log file="{SOCKET}-log" append="on"/>"#));
        assert_eq!(written(super::console, json!({})), logged);
        assert_eq!(written(super::console, json!({"devices": {"logSerialConsole": false}})), serial(""));
        // The cluster's switch is the default of the VMI's.
        let disabled = json!({"optionsPresent": true, "clusterConfig": {"serialConsoleLogDisabled": true}});
        assert_eq!(run(super::console, vmi(json!({})), disabled.clone()).unwrap(), serial(""));
        let wanted = vmi(json!({"devices": {"logSerialConsole": true}}));
        assert_eq!(run(super::console, wanted, disabled).unwrap(), logged);
    }

    #[test]
    fn console_is_left_out_where_the_vmi_wants_none() {
        assert_eq!(written(super::console, json!({"devices": {"autoattachSerialConsole": false}})), "");
    }
}
