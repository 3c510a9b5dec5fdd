//! Where things are in the pod.

/// The pod's private directory, which the launcher, libvirt and the hypervisor share (contract/lifecycle.md 1.4).
pub const PRIVATE_DIR: &str = "/var/run/kubevirt-private";
