//! A VM as its hypervisor's libvirt driver lets it be handled: the only door from the launcher to its VM. What a driver lacks,
//! the hypervisor's implementation adds, or leaves to the default answer, [`ControlError::Unsupported`].
//!
//! The guest's agent has a door of its own (`guest_agent::Agent`), and so has the connection itself (`libvirt::Connection`).

mod definition;
mod devices;
mod jobs;
mod libvirt_control;
mod measures;
mod migration;

pub use definition::{DefinitionControl, XmlKind};
pub use devices::DeviceControl;
pub use jobs::JobControl;
pub use libvirt_control::LibvirtControl;
pub use measures::MeasureControl;
pub use migration::MigrationControl;

use std::pin::Pin;

use tokio::time::Instant;

use crate::domain::DomainState;
use crate::libvirt::{self, DomainSnapshot, StatsRecord};

/// Why something could not be done to the VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// libvirt said so.
    #[error(transparent)]
    Libvirt(#[from] libvirt::Error),
    /// The hypervisor said so, or what it needs is not there.
    #[error("{0}")]
    Hypervisor(String),
    /// The hypervisor's control does not do this at all.
    #[error("{operation} is not supported by the hypervisor's driver")]
    Unsupported {
        /// What was asked for, such as "plugging a device".
        operation: &'static str,
    },
}

impl ControlError {
    /// libvirt's `virErrorNumber`, if libvirt answered.
    pub fn code(&self) -> Option<i32> {
        self.of_libvirt().and_then(libvirt::Error::code)
    }

    /// Whether there is no such domain.
    pub fn is_no_domain(&self) -> bool {
        self.of_libvirt().is_some_and(libvirt::Error::is_no_domain)
    }

    /// What libvirt's call ended with, if it was one.
    pub fn of_libvirt(&self) -> Option<&libvirt::Error> {
        match self {
            ControlError::Libvirt(error) => Some(error),
            ControlError::Hypervisor(_) | ControlError::Unsupported { .. } => None,
        }
    }
}

/// How a guest is asked to power off or to reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By its agent. An error means that the agent does not have the order; it comes within seconds, so that there is time
    /// for the other way.
    Agent,
    /// By the ACPI power button, which says nothing of what the guest makes of it.
    PowerButton,
}

/// An answer that is waited for; every wait ends at a deadline.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ControlError>> + Send + 'a>>;

/// The default answer to what a hypervisor's driver does not do.
fn unsupported<'a, T: Send + 'a>(operation: &'static str) -> Answer<'a, T> {
    Box::pin(std::future::ready(Err(ControlError::Unsupported { operation })))
}

/// What the launcher does with its one VM. Methods are named after what is meant, not after the call behind it. Here is what
/// every hypervisor does: a VM's life from start to end, and its state; the rest is in the traits above it, by subject.
pub trait VmControl: DefinitionControl + DeviceControl + JobControl + MeasureControl + MigrationControl {
    /// Adopts a VM that a previous launcher, or an earlier daemon, started.
    fn attach(&self) -> Answer<'_, ()>;
    /// Whether the domain is defined or runs.
    fn exists(&self) -> Answer<'_, bool>;
    /// What the domain does, and why.
    fn state(&self) -> Answer<'_, DomainState>;
    /// The same with the live XML.
    fn snapshot(&self) -> Answer<'_, DomainSnapshot>;
    /// What the running domain uses, under libvirt's names; `None` if it does not run. `until` is the latest answer.
    fn stats(&self, until: Instant) -> Answer<'_, Option<StatsRecord>>;
    /// For each of so many vCPUs whether it may run on each of the machine's CPUs.
    fn vcpu_pins(&self, vcpus: usize, until: Instant) -> Answer<'_, Vec<Vec<bool>>>;
    /// Starts the defined domain, not running if `paused`.
    fn start(&self, paused: bool) -> Answer<'_, ()>;
    /// Stops the vCPUs.
    fn suspend(&self) -> Answer<'_, ()>;
    /// Lets them run again.
    fn resume(&self) -> Answer<'_, ()>;
    /// Pulls the reset line.
    fn reset(&self) -> Answer<'_, ()>;
    /// Asks the guest to reboot.
    fn reboot(&self, way: Way) -> Answer<'_, ()>;
    /// Asks the guest to power off.
    fn shutdown(&self, way: Way) -> Answer<'_, ()>;
    /// Ends the hypervisor's process; when this returns it is gone.
    fn destroy(&self) -> Answer<'_, ()>;
    /// Forgets the domain.
    fn undefine(&self) -> Answer<'_, ()>;
}
