//! What one visit to libvirt shows of a domain (contract/cmd-server.md 4.2, contract/notify.md 5.1).

use super::super::error::{Error, VirError, code};
use super::super::{flags, raw};
use super::Connection;
use crate::domain::DomainState;

/// `VIR_DOMAIN_XML_MIGRATABLE`.
const DOMAIN_XML_MIGRATABLE: u32 = 8;

/// A domain as one visit to libvirt shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSnapshot {
    /// What it does, and why.
    pub state: DomainState,
    /// Live XML, or the next best; absent when libvirt gives none for OPERATION_INVALID.
    pub xml: Option<String>,
}

impl Connection {
    /// State and XML.
    pub async fn snapshot(&self, name: &str) -> Result<DomainSnapshot, Error> {
        self.on_domain("virDomainGetXMLDesc", self.deadlines().read, name, |domain| {
            let state = raw::domain_state(domain)?;
            let xml = best_xml(state, |flags| Ok(domain.xml_desc(flags)?))?;
            Ok(DomainSnapshot { state, xml })
        })
        .await
    }
}

/// The live XML as `read` has it for flags, or what comes closest where libvirt refuses to give that. A domain that has
/// vanished since its state was read is none.
fn best_xml(now: DomainState, read: impl Fn(u32) -> Result<String, VirError>) -> Result<Option<String>, VirError> {
    match read(0) {
        Err(error) if matches!(error.code, code::NO_DOMAIN | code::OPERATION_INVALID) => {}
        live => return live.map(Some),
    }
    match read(if now.may_be_started() { flags::DOMAIN_XML_INACTIVE } else { DOMAIN_XML_MIGRATABLE }) {
        Err(error) if error.code == code::OPERATION_INVALID => Ok(None),
        stored => stored.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{LifeCycle, StateReason};

    const PAUSED: DomainState = DomainState::new(LifeCycle::Paused, StateReason::User);
    const SHUTOFF: DomainState = DomainState::new(LifeCycle::Shutoff, StateReason::Shutdown);

    #[test]
    fn without_live_xml_there_is_the_next_best() {
        let error = |code| VirError { code, domain: 10, message: String::new() };
        // What libvirt answers to the first question and to the second, which its flags identify.
        let asked = |now, first: i32, second: Option<i32>| {
            best_xml(now, |flags| match (flags, second) {
                (0, _) => Err(error(first)),
                (_, Some(code)) => Err(error(code)),
                (flags, None) => Ok(flags.to_string()),
            })
        };
        assert_eq!(best_xml(DomainState::RUNNING, |flags| Ok(flags.to_string())), Ok(Some("0".into())));
        for refused in [code::NO_DOMAIN, code::OPERATION_INVALID] {
            assert_eq!(asked(SHUTOFF, refused, None), Ok(Some("2".into())), "the persistent definition");
            assert_eq!(asked(PAUSED, refused, None), Ok(Some("8".into())), "what a migration would take along");
            assert_eq!(asked(PAUSED, refused, Some(code::OPERATION_INVALID)), Ok(None));
            assert_eq!(asked(PAUSED, refused, Some(code::NO_DOMAIN)), Err(error(code::NO_DOMAIN)));
        }
        assert_eq!(asked(DomainState::RUNNING, code::RPC, None), Err(error(code::RPC)));
    }
}
