//! What is tested: one boot's defines.

use virt_launcher::convert::{Defines, HostFacts};

/// Converts and pushes each define's XML; stops after the first when libvirt is to refuse it.
pub fn boot(
    vmi: &str,
    context: &str,
    readback: Option<&str>,
    rejected: bool,
    defines: &mut Vec<String>,
) -> Result<(), String> {
    let vmi = virt_launcher::vmi::parse(vmi.as_bytes()).map_err(|error| error.to_string())?;
    let facts: HostFacts = serde_json::from_str(context).map_err(|error| format!("context: {error}"))?;
    let mut boot = Defines::new(&vmi, &facts).map_err(|error| error.to_string())?;
    loop {
        defines.push(boot.xml());
        if boot.is_last() || rejected {
            return Ok(());
        }
        boot.next(readback).map_err(|error| error.to_string())?;
    }
}
