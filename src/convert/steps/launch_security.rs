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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{run, vmi, written};

    fn security(security: Value) -> String {
        written(super::launch_security, json!({"launchSecurity": security}))
    }

    #[test]
    fn launch_security_of_sev_has_the_policy_and_the_session() {
        assert_eq!(security(json!({"sev": {}})), r#"<launchSecurity type="sev"><policy>0x1</policy></launchSecurity>"#);
        let es = json!({"sev": {"policy": {"encryptedState": true}, "session": "c2Vzc2lvbg==", "dhCert": "Y2VydA=="}});
        assert_eq!(
            security(es),
            r#"<launchSecurity type="sev"><dhCert>Y2VydA==</dhCert><session>c2Vzc2lvbg==</session><policy>0x5</policy></launchSecurity>"#
        );
    }

    #[test]
    fn launch_security_of_snp_and_tdx() {
        let snp = r#"<launchSecurity type="sev-snp"><policy>0x30000</policy></launchSecurity>"#;
        assert_eq!(security(json!({"snp": {}})), snp);
        let mut tdx = vmi(json!({"launchSecurity": {"tdx": {}}}));
        tdx["metadata"]["annotations"] = json!({"kubevirt.io/qgs-socket-path": "/run/qgs"});
        assert_eq!(
            run(super::launch_security, tdx, json!({})).unwrap(),
            r#"<launchSecurity type="tdx"><quoteGenerationService path="/run/qgs"/></launchSecurity>"#
        );
    }

    #[test]
    fn launch_security_is_amd64s_alone() {
        let vmi = vmi(json!({"launchSecurity": {"sev": {}}}));
        assert_eq!(run(super::launch_security, vmi, json!({"hostArch": "s390x"})).unwrap(), "");
        assert_eq!(written(super::launch_security, json!({})), "");
    }
}
