//! What libvirt refuses, with the field of the VMI that it speaks of.

use crate::convert::field_of;
use crate::hypervisor::ControlError;
use crate::launcher::error::Error;
use crate::libvirt;
use crate::vmi::VirtualMachineInstance;

/// What libvirt or the hypervisor said as the answer to an order: behind the field's path, where the error is about one
/// (`spec.domain.cpu.model: virError(…)`), else as the original gives it.
pub(super) fn refusal(vmi: &VirtualMachineInstance, error: ControlError) -> Error {
    let field = match &error {
        ControlError::Libvirt(libvirt::Error::Libvirt(error)) => field_of(vmi, &error.message),
        ControlError::Libvirt(_) | ControlError::Hypervisor(_) | ControlError::Unsupported { .. } => None,
    };
    match field {
        Some(field) => Error::during(field, error),
        None => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libvirt::VirError;

    #[test]
    fn error_about_a_field_has_its_path_and_others_stay_as_they_are() {
        let vmi = VirtualMachineInstance::default();
        let error = |message: &str| {
            ControlError::from(libvirt::Error::Libvirt(VirError { code: 1, domain: 31, message: message.into() }))
        };
        let named = refusal(&vmi, error("internal error: Unknown CPU model x"));
        let said = "spec.domain.cpu.model: virError(Code=1, Domain=31, Message='internal error: Unknown CPU model x')";
        assert_eq!(named.message(), said);
        let other = error("out of sorts");
        assert_eq!(refusal(&vmi, other.clone()), other.into());
    }
}
