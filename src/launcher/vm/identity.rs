//! The name of the VM.

/// Who the VM is, as the pod was told.
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
