//! The core's error as replies show it: the texts that virt-handler reads, and passes on to the VMI's events
//! (contract/cmd-server.md 3.2).

use super::Error;
use crate::cmd::Failure;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Libvirt(error) => Failure::Libvirt(error),
            Error::During { context, error } => Failure::Wrapped { context, error },
            Error::DomainNotFound => Failure::DomainNotFound,
            Error::InvalidCheckpoint(text) => Failure::InvalidCheckpoint(text),
            Error::Vmi(text)
            | Error::Storage(text)
            | Error::NotNow(text)
            | Error::Unsupported(text)
            | Error::Other(text) => Failure::Text(text),
        }
    }
}

impl Error {
    /// The text of a reply, which a few steps put into the text of their own failure, as the original does.
    pub fn message(&self) -> String {
        Failure::from(self.clone()).message()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::hypervisor::ControlError;
    use crate::libvirt::{self, VirError};

    fn no_domain() -> VirError {
        VirError { code: 42, domain: 10, message: "Domain not found: no domain with matching name 'a_b'".to_owned() }
    }

    #[test]
    fn libvirts_errors_have_a_form_of_their_own_and_another_one_in_a_context() {
        let inside = "Code=42, Domain=10, Message='Domain not found: no domain with matching name 'a_b''";
        let bare = Error::from(libvirt::Error::Libvirt(no_domain()));
        assert_eq!(bare, Error::Libvirt(no_domain()));
        assert_eq!(bare.message(), format!("LibvirtError({inside})"));
        assert_eq!(bare.to_string(), format!("virError({inside})"));
        let during = Error::during("failed to update vCPUs", libvirt::Error::Libvirt(no_domain()));
        assert_eq!(during.message(), format!("failed to update vCPUs: virError({inside})"));
        assert_eq!(during.to_string(), during.message());
    }

    #[test]
    fn call_that_is_late_keeps_its_words() {
        let late = libvirt::Error::Deadline { call: "virDomainSuspend", after: Duration::from_secs(10) };
        assert_eq!(Error::from(late.clone()).message(), "libvirt did not answer virDomainSuspend within 10.0 s");
        let during = Error::during("stopping", late).message();
        assert_eq!(during, "stopping: libvirt did not answer virDomainSuspend within 10.0 s");
    }

    #[test]
    fn what_a_hypervisor_does_not_do_is_unsupported_in_a_context_too() {
        let unsupported = ControlError::Unsupported { operation: "plugging a device" };
        let text = "plugging a device is not supported by the hypervisor's driver".to_owned();
        assert_eq!(Error::from(unsupported.clone()), Error::Unsupported(text.clone()));
        assert_eq!(Error::during("memory", unsupported), Error::Unsupported(format!("memory: {text}")));
    }

    #[test]
    fn a_context_leaves_who_can_mend_it_and_the_reply_s_text() {
        let text = || "why".to_owned();
        let kept: [fn(String) -> Error; 5] =
            [Error::Vmi, Error::Storage, Error::NotNow, Error::Unsupported, Error::Other];
        for kind in kept {
            assert_eq!(kind(text()).within("setup failed"), kind("setup failed: why".into()));
        }
        let libvirt =
            "LibvirtError(Code=42, Domain=10, Message='Domain not found: no domain with matching name 'a_b'')";
        assert_eq!(
            Error::Libvirt(no_domain()).within("setup failed"),
            Error::Other(format!("setup failed: {libvirt}"))
        );
        let during = Error::during("disks", libvirt::Error::Libvirt(no_domain()));
        assert_eq!(during.clone().within("setup failed").message(), format!("setup failed: {}", during.message()));
        assert_eq!(Error::InvalidCheckpoint(text()).within("setup failed"), Error::other("setup failed: why"));
        assert_eq!(Error::DomainNotFound.within("setup failed"), Error::other("setup failed: Domain not found."));
    }

    #[test]
    fn every_other_text_is_sent_as_it_is() {
        let text = || "what, where, why".to_owned();
        for error in [
            Error::vmi(text()),
            Error::storage(text()),
            Error::not_now(text()),
            Error::Unsupported(text()),
            Error::InvalidCheckpoint(text()),
            Error::other(text()),
        ] {
            assert_eq!((error.message(), error.to_string()), (text(), text()), "{error:?}");
        }
        assert_eq!(Error::DomainNotFound.message(), "Domain not found.");
        assert!(matches!(Failure::from(Error::InvalidCheckpoint(text())), Failure::InvalidCheckpoint(_)));
    }
}
