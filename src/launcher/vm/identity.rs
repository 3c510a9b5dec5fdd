//! The name of the VM.

/// Name, namespace and UID of the VM, from the pod's flags.
#[derive(Debug, Clone)]
pub struct Identity {
    /// libvirt's name, `<namespace>_<name>`.
    pub domain: String,
    /// VMI namespace.
    pub namespace: String,
    /// VMI name.
    pub name: String,
    /// VMI UID (`--uid`).
    pub uid: String,
}
