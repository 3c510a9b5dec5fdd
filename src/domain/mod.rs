//! The libvirt domain document: its types, XML out and in, and the JSON form virt-handler reads.
//!
//! [`DomainSpec`] is the document; its fields are the snake_case of the original's Go names and each struct is declared
//! once, with its XML and JSON names beside it (see `table`). [`Domain`] wraps it for GetDomain and notify.

mod alias;
mod at_rest;
mod boolean;
mod cpu;
pub mod cpu_list;
mod devices;
mod document;
mod elements;
mod features;
mod job;
mod json;
mod memory;
mod metadata;
mod os;
mod parts;
mod paths;
mod profile;
#[cfg(test)]
mod property_tests;
mod spec;
mod state;
pub mod stats;
mod table;
mod time;
mod xml_reader;
pub mod xml_text;
mod xml_writer;

pub use alias::{Alias, XmlName};
pub use boolean::parse_bool;
pub use cpu::*;
pub use devices::*;
pub use document::*;
pub use features::*;
pub use job::JobSample;
pub use memory::*;
pub use metadata::*;
pub use os::*;
pub use parts::Part;
pub use paths::{HOTPLUG_DISKS, PRIVATE_DIR, SECRETS, VMI_DISKS};
pub use profile::Profile;
pub use spec::*;
pub use state::{DomainState, LifeCycle, StateReason};
pub use table::KUBEVIRT_NAMESPACE;
pub use time::{Time, TimeError};
pub use xml_reader::XmlError;
pub use xml_writer::QEMU_NAMESPACE;
