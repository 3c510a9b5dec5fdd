//! Failures of single devices. The original stops at the first (contract/cmd-server.md 11, W27), so that one device which
//! cannot be plugged keeps all others from coming and going for as long as the VM runs.

use super::super::refusal::refusal;
use crate::hypervisor::ControlError;
use crate::launcher::error::Error;
use crate::libvirt;
use crate::vmi::VirtualMachineInstance;

/// The first failure of a sync, which is the answer to it; later ones are logged.
#[derive(Debug)]
pub(super) struct Failures<'a> {
    vmi: &'a VirtualMachineInstance,
    first: Option<Error>,
}

impl<'a> Failures<'a> {
    /// None yet of a sync of this VMI.
    pub(super) fn new(vmi: &'a VirtualMachineInstance) -> Self {
        Failures { vmi, first: None }
    }

    /// Takes note of what libvirt made of one device, by `name`. An error here is one that the next device would meet as
    /// well: there is no libvirt that answers.
    pub(super) fn note(&mut self, name: &str, outcome: Result<(), ControlError>) -> Result<(), Error> {
        match outcome {
            Ok(()) => {}
            Err(error @ ControlError::Libvirt(libvirt::Error::Libvirt(_))) => {
                self.refuse(name, self.worded(name, error))
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes note of a device that cannot be what the VMI wants it to be.
    pub(super) fn refuse(&mut self, name: &str, failure: Error) {
        tracing::warn!("device {name} could not be changed: {failure}");
        self.first.get_or_insert(failure);
    }

    /// The answer to the sync.
    pub(super) fn outcome(self) -> Result<(), Error> {
        self.first.map_or(Ok(()), Err)
    }

    /// The error with the field that it is about, or else with the device's.
    fn worded(&self, name: &str, error: ControlError) -> Error {
        match refusal(self.vmi, error) {
            Error::Libvirt(error) => match field_of_device(self.vmi, name) {
                Some(field) => Error::During { context: field, error },
                None => Error::Libvirt(error),
            },
            other => other,
        }
    }
}

/// The path of the disk or interface of this name.
pub(super) fn field_of_device(vmi: &VirtualMachineInstance, name: &str) -> Option<String> {
    let devices = &vmi.spec.domain.devices;
    let disk = devices.disks.iter().position(|disk| disk.name == name);
    let of_interface = name.strip_prefix("sriov-").unwrap_or(name);
    let interface = || devices.interfaces.iter().position(|interface| interface.name == of_interface);
    let disk = disk.map(|index| format!("spec.domain.devices.disks[{index}]"));
    disk.or_else(|| Some(format!("spec.domain.devices.interfaces[{}]", interface()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::VirError;

    #[test]
    fn failures_of_devices_are_kept_and_others_end_the_sync() {
        let libvirt = |message: &str| {
            ControlError::from(libvirt::Error::Libvirt(VirError { code: 1, domain: 10, message: message.into() }))
        };
        let silent =
            ControlError::from(libvirt::Error::Disconnected { call: "c", uri: "u".into(), reason: "r".into() });
        let vmi = r#"{"spec":{"domain":{"devices":{"disks":[{"name":"a"},{"name":"b"}]}}}}"#;
        let vmi = crate::vmi::parse(vmi.as_bytes()).unwrap();
        let mut failures = Failures::new(&vmi);
        assert_eq!(failures.note("a", Ok(())), Ok(()));
        assert_eq!(failures.note("b", Err(libvirt("first"))), Ok(()));
        failures.refuse("c", Error::other("second"));
        assert_eq!(failures.note("d", Err(silent.clone())), Err(silent.into()));
        let first = "spec.domain.devices.disks[1]: virError(Code=1, Domain=10, Message='first')";
        assert_eq!(failures.outcome().unwrap_err().message(), first);
        assert_eq!(Failures::new(&vmi).outcome(), Ok(()));
        let mut gone = Failures::new(&vmi);
        gone.note("not in the VMI any more", Err(libvirt("first"))).unwrap();
        assert_eq!(gone.outcome(), Err(libvirt("first").into()));
    }
}
