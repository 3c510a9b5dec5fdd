//! The domain's definition and its XML.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use super::{Answer, LibvirtControl, unsupported};
use crate::libvirt::flags;

/// Which XML of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XmlKind {
    /// As the domain runs; its definition while it does not.
    Current,
    /// The definition, also while the domain runs.
    Inactive,
    /// As it runs, in the form that libvirt's migration takes.
    Migratable,
    /// The same with its secrets, which a definition needs.
    SecureMigratable,
}

impl XmlKind {
    fn flags(self) -> u32 {
        match self {
            XmlKind::Current => 0,
            XmlKind::Inactive => flags::DOMAIN_XML_INACTIVE,
            XmlKind::Migratable => flags::DOMAIN_XML_MIGRATABLE,
            XmlKind::SecureMigratable => flags::DOMAIN_XML_SECURE_MIGRATABLE,
        }
    }
}

/// Makes the domain, and shows what libvirt made of it.
pub trait DefinitionControl: Send + Sync {
    /// Defines the domain, or defines it anew.
    fn define(&self, xml: String) -> Answer<'_, ()>;
    /// libvirt's XML of the domain.
    fn xml(&self, kind: XmlKind) -> Answer<'_, String>;
    /// Gives the hypervisor a copy of `descriptor`, under this name, for the domain's next start.
    fn associate(&self, _group: &'static CStr, _descriptor: OwnedFd) -> Answer<'_, ()> {
        unsupported("handing over a file descriptor")
    }
}

impl DefinitionControl for LibvirtControl {
    fn define(&self, xml: String) -> Answer<'_, ()> {
        self.answer(self.connection.define(xml))
    }

    fn xml(&self, kind: XmlKind) -> Answer<'_, String> {
        self.answer(self.connection.xml(&self.domain, kind.flags()))
    }

    fn associate(&self, group: &'static CStr, descriptor: OwnedFd) -> Answer<'_, ()> {
        self.answer(self.connection.associate(&self.domain, group, descriptor))
    }
}
