//! The VirtualMachineInstance as virt-handler sends it.
