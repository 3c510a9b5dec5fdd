//! What the launcher may do with a VM under Cloud Hypervisor.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use tokio::time::Instant;

use super::serial::SerialPaths;
use super::stats::{self, Told};
use super::{CloudHypervisor, StopRequest, vmm};
use crate::domain::{DomainSpec, DomainState, LifeCycle};
use crate::hypervisor::control::{
    Answer, ControlError, DefinitionControl, DeviceControl, JobControl, MeasureControl, MigrationControl, VmControl,
    Way, XmlKind,
};
use crate::libvirt::{self, DomainSnapshot, Lifecycle, StatsRecord};

impl DefinitionControl for CloudHypervisor {
    fn define(&self, xml: String) -> Answer<'_, ()> {
        self.0.libvirt.define(xml)
    }

    fn xml(&self, kind: XmlKind) -> Answer<'_, String> {
        self.0.libvirt.xml(kind)
    }

    fn associate(&self, group: &'static CStr, descriptor: OwnedFd) -> Answer<'_, ()> {
        self.0.libvirt.associate(group, descriptor)
    }
}

// Nothing of this is in libvirt's driver, or not done yet: see the operations in `features.yaml`.
impl DeviceControl for CloudHypervisor {}
impl JobControl for CloudHypervisor {}
impl MeasureControl for CloudHypervisor {}
impl MigrationControl for CloudHypervisor {}

impl VmControl for CloudHypervisor {
    fn attach(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let place = &self.0.place;
            let (pid, was_kept) = (place.find_vmms().first().copied(), place.kept_xml.symlink_metadata().is_ok());
            if pid.is_none() && !was_kept {
                return Ok(());
            }
            let xml = place.take_over_xml();
            {
                let mut known = self.vmm_state();
                let serial = xml.as_deref().and_then(|xml| SerialPaths::of(xml, place.private()));
                (known.serial, known.xml, known.told) = (serial, xml.clone(), LifeCycle::Running);
            }
            let Some(pid) = pid else {
                // It ran under the previous launcher, and nobody has told its end.
                let ended = self.cause(None).await;
                self.vmm_ended(ended).await;
                return Ok(());
            };
            let orphan = !self.0.connection.exists(self.domain()).await.unwrap_or(false);
            self.take_up(pid, xml, orphan)
        })
    }

    fn exists(&self) -> Answer<'_, bool> {
        Box::pin(async move {
            if self.vmm_state().orphan {
                return Ok(true);
            }
            Ok(self.0.connection.exists(self.domain()).await?)
        })
    }

    fn state(&self) -> Answer<'_, DomainState> {
        Box::pin(self.state_now())
    }

    fn snapshot(&self) -> Answer<'_, DomainSnapshot> {
        Box::pin(self.snapshot_now())
    }

    fn stats(&self, _until: Instant) -> Answer<'_, Option<StatsRecord>> {
        Box::pin(async move {
            let (pid, xml) = {
                let known = self.vmm_state();
                (known.pid, known.xml.clone())
            };
            let (Some(pid), Some(xml)) = (pid, xml) else { return Ok(None) };
            let domain = DomainSpec::from_xml(&xml)
                .map_err(|error| ControlError::Hypervisor(format!("the domain's XML cannot be read: {error}")))?;
            // Without the VMM's word, the rest is still true.
            let told = Told {
                info: self.0.rest.get("vm.info").await.unwrap_or_default(),
                counters: self.0.rest.get("vm.counters").await.unwrap_or_default(),
            };
            let regex = self.0.place.vcpu_regex.clone();
            let record = tokio::task::spawn_blocking(move || stats::record(pid, &domain, &told, &regex)).await;
            record.map(Some).map_err(|error| ControlError::Hypervisor(error.to_string()))
        })
    }

    fn vcpu_pins(&self, vcpus: usize, _until: Instant) -> Answer<'_, Vec<Vec<bool>>> {
        let pid = self.vmm_state().pid;
        let regex = &self.0.place.vcpu_regex;
        Box::pin(async move { Ok(pid.map(|pid| stats::pins(pid, vcpus, regex)).unwrap_or_default()) })
    }

    fn start(&self, paused: bool) -> Answer<'_, ()> {
        Box::pin(self.start_now(paused))
    }

    fn suspend(&self) -> Answer<'_, ()> {
        Box::pin(self.suspend_now())
    }

    fn resume(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            self.ask(self.0.connection.resume(self.domain()), "vm.resume").await?;
            self.tell_state(LifeCycle::Running);
            Ok(())
        })
    }

    /// libvirt's name for it is reboot; the guest is not asked.
    fn reset(&self) -> Answer<'_, ()> {
        Box::pin(self.ask(self.0.connection.reboot(self.domain(), 0), "vm.reboot"))
    }

    fn reboot(&self, _way: Way) -> Answer<'_, ()> {
        Box::pin(async {
            let why =
                "Cloud Hypervisor cannot ask the guest to reboot: there is no guest agent and no ACPI request for it";
            Err(ControlError::Hypervisor(why.to_owned()))
        })
    }

    /// libvirt's shutdown stops the vCPUs at once; the power button is what is meant.
    fn shutdown(&self, way: Way) -> Answer<'_, ()> {
        Box::pin(async move {
            if way == Way::Agent {
                return Err(ControlError::Hypervisor("Cloud Hypervisor has no guest agent".to_owned()));
            }
            self.vmm_state().asked = StopRequest::Shutdown;
            let pressed = self.put("vm.power-button").await;
            if pressed.is_err() {
                self.vmm_state().asked = StopRequest::Nothing;
            }
            pressed
        })
    }

    fn destroy(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let pid = {
                let mut known = self.vmm_state();
                known.asked = StopRequest::Destroy;
                known.pid
            };
            let told = match self.0.connection.destroy(self.domain(), 0).await {
                Err(error) if pid.is_none() => Err(error.into()),
                // The process is what counts.
                Ok(()) | Err(_) => Ok(()),
            };
            if let Some(pid) = pid {
                vmm::end(pid, self.0.timings.terminate).await;
                self.gone().await;
            }
            self.end_leaked().await;
            told
        })
    }

    fn undefine(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let undefined = self.0.connection.undefine(self.domain(), 0).await;
            let forgotten = {
                let mut known = self.vmm_state();
                let is_left = known.pid.is_none() && (known.orphan || known.ended.is_some());
                let forgotten = is_left && undefined.as_ref().is_err_and(libvirt::Error::is_no_domain);
                if forgotten || undefined.is_ok() {
                    known.orphan &= known.pid.is_some();
                    known.ended = None;
                }
                forgotten
            };
            if forgotten {
                self.tell(Lifecycle::Undefined);
                return Ok(());
            }
            Ok(undefined?)
        })
    }
}
