//! Confidential computing (contract/domain-xml-qemu.md 5.11).

use super::super::arch::Arch;
use super::{Context, ConvertError};
use crate::domain::{DomainSpec, LaunchSecurity, Qgs};

pub(super) fn launch_security(context: &Context<'_>, domain: &mut DomainSpec) -> Result<(), ConvertError> {
    let Some(security) = context.vmi.spec.domain.launch_security.as_ref() else { return Ok(()) };
    if context.arch != Arch::Amd64 {
        return Ok(());
    }
    domain.launch_security = if let Some(sev) = &security.sev {
        let encrypted_state = sev.policy.as_ref().is_some_and(|policy| policy.encrypted_state == Some(true));
        Some(LaunchSecurity {
            type_: "sev".into(),
            dh_cert: sev.dh_cert.clone(),
            session: sev.session.clone(),
            policy: if encrypted_state { "0x5" } else { "0x1" }.into(),
            ..LaunchSecurity::default()
        })
    } else if security.snp.is_some() {
        Some(LaunchSecurity { type_: "sev-snp".into(), policy: "0x30000".into(), ..LaunchSecurity::default() })
    } else {
        security.tdx.as_ref().map(|_| LaunchSecurity {
            type_: "tdx".into(),
            quote_generation_service: Some(Qgs {
                path: context.vmi.annotation("kubevirt.io/qgs-socket-path").unwrap_or_default().to_owned(),
            }),
            ..LaunchSecurity::default()
        })
    };
    Ok(())
}
