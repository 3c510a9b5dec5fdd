//! What one visit to libvirt tells of a domain (contract/cmd-server.md 4.2, contract/notify.md 5.1).

use super::super::error::{Error, VirError, code};
use super::super::{flags, raw, state};
use super::Connection;

/// `VIR_DOMAIN_XML_MIGRATABLE`.
const DOMAIN_XML_MIGRATABLE: u32 = 8;

/// A domain as one visit to libvirt shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSnapshot {
    /// `virDomainState`.
    pub state: i32,
    /// The state's reason number.
    pub reason: i32,
    /// Live XML, or the next best; absent when libvirt gives none for OPERATION_INVALID.
    pub xml: Option<String>,
}

impl Connection {
    /// State, reason and XML.
    pub async fn snapshot(&self, name: &str) -> Result<DomainSnapshot, Error> {
        self.on_domain("virDomainGetXMLDesc", self.deadlines().read, name, |domain| {
            let (state, reason) = raw::domain_state(domain)?;
            let xml = best_xml(state, |flags| Ok(domain.xml_desc(flags)?))?;
            Ok(DomainSnapshot { state, reason, xml })
        })
        .await
    }
}

/// The live XML as `read` has it for flags, or what comes closest where libvirt refuses to give that. A domain that has
/// vanished since its state was told is none.
fn best_xml(now: i32, read: impl Fn(u32) -> Result<String, VirError>) -> Result<Option<String>, VirError> {
    match read(0) {
        Err(error) if matches!(error.code, code::NO_DOMAIN | code::OPERATION_INVALID) => {}
        live => return live.map(Some),
    }
    match read(if state::is_down(now) { flags::DOMAIN_XML_INACTIVE } else { DOMAIN_XML_MIGRATABLE }) {
        Err(error) if error.code == code::OPERATION_INVALID => Ok(None),
        stored => stored.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_live_xml_there_is_the_next_best() {
        let error = |code| VirError { code, domain: 10, message: String::new() };
        // What libvirt answers to the first question and to the second, by whose flags it is told apart.
        let asked = |now, first: i32, second: Option<i32>| {
            best_xml(now, |flags| match (flags, second) {
                (0, _) => Err(error(first)),
                (_, Some(code)) => Err(error(code)),
                (flags, None) => Ok(flags.to_string()),
            })
        };
        assert_eq!(best_xml(state::RUNNING, |flags| Ok(flags.to_string())), Ok(Some("0".into())));
        for refused in [code::NO_DOMAIN, code::OPERATION_INVALID] {
            assert_eq!(asked(state::SHUTOFF, refused, None), Ok(Some("2".into())), "the persistent definition");
            assert_eq!(asked(state::PAUSED, refused, None), Ok(Some("8".into())), "what a migration would take along");
            assert_eq!(asked(state::PAUSED, refused, Some(code::OPERATION_INVALID)), Ok(None));
            assert_eq!(asked(state::PAUSED, refused, Some(code::NO_DOMAIN)), Err(error(code::NO_DOMAIN)));
        }
        assert_eq!(asked(state::RUNNING, code::RPC, None), Err(error(code::RPC)));
    }
}
