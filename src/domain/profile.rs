//! Kinds of domain documents.

use serde::{Deserialize, Serialize};

/// What kind of document the pod's libvirt driver takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// libvirt's QEMU driver.
    #[default]
    Qemu,
    /// libvirt's Cloud Hypervisor driver.
    CloudHypervisor,
}
