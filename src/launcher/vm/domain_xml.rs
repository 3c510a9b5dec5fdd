//! libvirt's XML of the VM's domain, read.

use crate::domain::DomainSpec;
use crate::launcher::error::Error;

/// The document in libvirt's XML.
pub fn read(xml: &str) -> Result<DomainSpec, Error> {
    DomainSpec::from_xml(xml).map_err(|error| Error::other(format!("libvirt's domain XML cannot be read: {error}")))
}
