//! libvirt's XML of the VM's domain, read.

use crate::cmd::Failure;
use crate::domain::DomainSpec;

/// The document in libvirt's XML.
pub fn read(xml: &str) -> Result<DomainSpec, Failure> {
    DomainSpec::from_xml(xml).map_err(|error| Failure::text(format!("libvirt's domain XML cannot be read: {error}")))
}
