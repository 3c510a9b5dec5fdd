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
