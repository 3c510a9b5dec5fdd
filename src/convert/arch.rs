//! The guest's architecture.

use super::facts::HostFacts;
use crate::vmi::VirtualMachineInstance;

/// Guest architecture. Unknown names act as amd64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    Amd64,
    Arm64,
    S390x,
}

impl Arch {
    /// The architecture whose rules apply to a VMI: the launcher's own, unless another one may be emulated.
    pub(super) fn of(vmi: &VirtualMachineInstance, facts: &HostFacts) -> Self {
        Arch::named(if is_cross_arch(vmi, facts) { &vmi.spec.architecture } else { &facts.host_arch })
    }

    /// The architecture with this Kubernetes name.
    pub fn named(name: &str) -> Self {
        match name {
            "arm64" => Arch::Arm64,
            "s390x" => Arch::S390x,
            _ => Arch::Amd64,
        }
    }
}

/// Whether the guest's architecture is emulated on another one.
pub(super) fn is_cross_arch(vmi: &VirtualMachineInstance, facts: &HostFacts) -> bool {
    let wanted = &vmi.spec.architecture;
    facts.allow_cross_arch_emulation && !wanted.is_empty() && *wanted != facts.host_arch
}
