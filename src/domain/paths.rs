//! Where things are in the pod.

/// The pod's private directory, which the launcher, libvirt and the hypervisor share (contract/lifecycle.md 1.4).
pub const PRIVATE_DIR: &str = "/var/run/kubevirt-private";
/// Where virt-handler puts claims with a file system and host disks, in a folder for each volume.
pub const VMI_DISKS: &str = "/var/run/kubevirt-private/vmi-disks";
/// Where virt-handler mounts volumes that come while the VM runs.
pub const HOTPLUG_DISKS: &str = "/var/run/kubevirt/hotplug-disks";
/// Where the secrets of cloud-init volumes and access credentials are, in a folder for each.
pub const SECRETS: &str = "/var/run/kubevirt-private/secret";
