//! What is tested: one boot's defines.

/// Whether there is a converter.
pub const READY: bool = false;

/// Converts and pushes each define's XML; stops after the first when libvirt is to refuse it.
pub fn boot(
    _vmi: &str,
    _context: &str,
    _readback: Option<&str>,
    _rejected: bool,
    _defines: &mut Vec<String>,
) -> Result<(), String> {
    Err("no converter".to_owned())
}
