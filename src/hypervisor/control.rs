//! A VM as its hypervisor's libvirt driver lets it be handled. The launcher knows this trait only; what a driver lacks,
//! the hypervisor's implementation adds.

use std::pin::Pin;

use tokio::time::Instant;

use crate::domain::DomainState;
use crate::libvirt::{self, Connection, DomainSnapshot, StatsRecord, flags};

/// Why something could not be done to the VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// libvirt said so.
    #[error(transparent)]
    Libvirt(#[from] libvirt::Error),
    /// The hypervisor said so, or what it needs is not there.
    #[error("{0}")]
    Hypervisor(String),
}

impl ControlError {
    /// libvirt's `virErrorNumber`, if libvirt answered.
    pub fn code(&self) -> Option<i32> {
        match self {
            ControlError::Libvirt(error) => error.code(),
            ControlError::Hypervisor(_) => None,
        }
    }

    /// Whether there is no such domain.
    pub fn is_no_domain(&self) -> bool {
        match self {
            ControlError::Libvirt(error) => error.is_no_domain(),
            ControlError::Hypervisor(_) => false,
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

/// What the launcher does with its one VM. Methods are named after what is meant, not after the call behind it.
pub trait VmControl: Send + Sync {
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

/// libvirt's driver does it all.
pub struct LibvirtControl {
    /// The connection.
    pub connection: Connection,
    /// libvirt's name of the domain.
    pub domain: String,
}

impl LibvirtControl {
    fn answer<'a, T>(&'a self, call: impl Future<Output = Result<T, libvirt::Error>> + Send + 'a) -> Answer<'a, T> {
        Box::pin(async move { Ok(call.await?) })
    }
}

impl VmControl for LibvirtControl {
    fn attach(&self) -> Answer<'_, ()> {
        self.answer(async { Ok(()) })
    }

    fn exists(&self) -> Answer<'_, bool> {
        self.answer(self.connection.exists(&self.domain))
    }

    fn state(&self) -> Answer<'_, DomainState> {
        self.answer(self.connection.state(&self.domain))
    }

    fn snapshot(&self) -> Answer<'_, DomainSnapshot> {
        self.answer(self.connection.snapshot(&self.domain))
    }

    fn stats(&self, until: Instant) -> Answer<'_, Option<StatsRecord>> {
        self.answer(self.connection.domain_stats(&self.domain, until))
    }

    fn vcpu_pins(&self, vcpus: usize, until: Instant) -> Answer<'_, Vec<Vec<bool>>> {
        self.answer(self.connection.vcpu_pins(&self.domain, vcpus, until))
    }

    fn start(&self, paused: bool) -> Answer<'_, ()> {
        let flags = if paused { flags::DOMAIN_START_PAUSED } else { 0 };
        self.answer(self.connection.create(&self.domain, flags))
    }

    fn suspend(&self) -> Answer<'_, ()> {
        self.answer(self.connection.suspend(&self.domain))
    }

    fn resume(&self) -> Answer<'_, ()> {
        self.answer(self.connection.resume(&self.domain))
    }

    fn reset(&self) -> Answer<'_, ()> {
        self.answer(self.connection.reset(&self.domain))
    }

    fn reboot(&self, way: Way) -> Answer<'_, ()> {
        match way {
            Way::Agent => self.answer(self.connection.reboot_by_agent(&self.domain)),
            Way::PowerButton => self.answer(self.connection.reboot(&self.domain, flags::DOMAIN_REBOOT_ACPI)),
        }
    }

    fn shutdown(&self, way: Way) -> Answer<'_, ()> {
        match way {
            Way::Agent => self.answer(self.connection.shutdown_by_agent(&self.domain)),
            Way::PowerButton => self.answer(self.connection.shutdown(&self.domain, flags::DOMAIN_SHUTDOWN_ACPI)),
        }
    }

    fn destroy(&self) -> Answer<'_, ()> {
        self.answer(self.connection.destroy(&self.domain, flags::DOMAIN_DESTROY_GRACEFUL))
    }

    fn undefine(&self) -> Answer<'_, ()> {
        self.answer(self.connection.undefine(&self.domain, flags::DOMAIN_UNDEFINE))
    }
}
