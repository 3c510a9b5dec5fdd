//! What virt-handler and readers are told of the VM.

pub mod domain_log;
pub mod faults;
pub mod notification;
pub mod publisher;
