//! The control of a hypervisor whose libvirt driver does it all.

use tokio::time::Instant;

use super::{Answer, VmControl, Way};
use crate::domain::DomainState;
use crate::libvirt::{self, Connection, DomainSnapshot, StatsRecord, flags};

/// libvirt's driver does it all.
pub struct LibvirtControl {
    /// The connection.
    pub connection: Connection,
    /// libvirt's name of the domain.
    pub domain: String,
}

impl LibvirtControl {
    pub(super) fn answer<'a, T>(
        &'a self,
        call: impl Future<Output = Result<T, libvirt::Error>> + Send + 'a,
    ) -> Answer<'a, T> {
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
