//! Failures of single devices. The original stops at the first (contract/cmd-server.md 11, W27), so that one device which
//! cannot be plugged keeps all others from coming and going for as long as the VM runs.

use crate::cmd::Failure;
use crate::libvirt::Error;

/// The first failure of a sync, which is the answer to it; later ones are logged.
#[derive(Debug, Default)]
pub(super) struct Failures(Option<Failure>);

impl Failures {
    /// Takes note of what libvirt made of one device, by `name`. An error here is one that the next device would meet as
    /// well: there is no libvirt that answers.
    pub(super) fn note(&mut self, name: &str, outcome: Result<(), Error>) -> Result<(), Failure> {
        match outcome {
            Ok(()) => {}
            Err(error @ Error::Libvirt(_)) => self.refuse(name, error.into()),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes note of a device that cannot be what the VMI wants it to be.
    pub(super) fn refuse(&mut self, name: &str, failure: Failure) {
        tracing::warn!("device {name} could not be changed: {failure}");
        self.0.get_or_insert(failure);
    }

    /// The answer to the sync.
    pub(super) fn outcome(self) -> Result<(), Failure> {
        self.0.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::VirError;

    #[test]
    fn failures_of_devices_are_kept_and_others_end_the_sync() {
        let libvirt = |message: &str| Error::Libvirt(VirError { code: 1, domain: 10, message: message.into() });
        let silent = Error::Disconnected { call: "c", uri: "u".into(), reason: "r".into() };
        let mut failures = Failures::default();
        assert_eq!(failures.note("a", Ok(())), Ok(()));
        assert_eq!(failures.note("b", Err(libvirt("first"))), Ok(()));
        failures.refuse("c", Failure::text("second"));
        assert_eq!(failures.note("d", Err(silent.clone())), Err(silent.into()));
        assert_eq!(failures.outcome(), Err(libvirt("first").into()));
        assert_eq!(Failures::default().outcome(), Ok(()));
    }
}
