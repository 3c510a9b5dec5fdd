//! The watchdog (contract/domain-xml-qemu.md 7.1).

use super::super::arch::Arch;
use super::{Context, ConvertError};
use crate::domain::{Alias, DomainSpec, Watchdog};

pub(super) fn watchdog(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let Some(watchdog) = &context.vmi.spec.domain.devices.watchdog else { return Ok(()) };
    let (model, action) = match context.arch {
        Arch::Amd64 => ("i6300esb", &watchdog.i6300esb),
        Arch::S390x => ("diag288", &watchdog.diag288),
        Arch::Arm64 => {
            return Err(ConvertError::at(
                "spec.domain.devices.watchdog",
                "watchdog is not supported on architecture ARM64",
            ));
        }
    };
    let Some(action) = action else {
        let name = &watchdog.name;
        return Err(ConvertError::at(
            "spec.domain.devices.watchdog",
            format!("watchdog {name} can't be mapped, no watchdog type specified"),
        ));
    };
    domain.devices.watchdogs.push(Watchdog {
        model: model.into(),
        action: action.action.clone(),
        alias: Some(Alias::user(&watchdog.name)),
        ..Watchdog::default()
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{run, vmi, written};

    fn on(arch: &str, watchdog: Value) -> Result<String, String> {
        run(super::watchdog, vmi(json!({"devices": {"watchdog": watchdog}})), json!({"hostArch": arch}))
    }

    #[test]
    fn watchdog_is_the_architectures() {
        let both = json!({"name": "w", "i6300esb": {"action": "reset"}, "diag288": {"action": "poweroff"}});
        assert_eq!(
            on("amd64", both.clone()).unwrap(),
            r#"<watchdog model="i6300esb" action="reset"><alias name="ua-w"/></watchdog>"#
        );
        assert_eq!(
            on("s390x", both).unwrap(),
            r#"<watchdog model="diag288" action="poweroff"><alias name="ua-w"/></watchdog>"#
        );
        assert_eq!(written(super::watchdog, json!({})), "");
    }

    #[test]
    fn watchdog_that_the_architecture_has_not_is_refused_at_its_field() {
        let path = "spec.domain.devices.watchdog";
        let i6300esb = json!({"name": "w", "i6300esb": {"action": "reset"}});
        let error = on("arm64", i6300esb.clone()).unwrap_err();
        assert_eq!(error, format!("{path}: watchdog is not supported on architecture ARM64"));
        let error = on("s390x", i6300esb).unwrap_err();
        assert_eq!(error, format!("{path}: watchdog w can't be mapped, no watchdog type specified"));
    }
}
