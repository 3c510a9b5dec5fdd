//! Double of a VM's control for unit tests, which have no hypervisor: it shows what the test says and refuses every order.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::domain::DomainState;
use crate::hypervisor::{
    Answer, ControlError, DefinitionControl, DeviceControl, JobControl, MeasureControl, MigrationControl, VmControl,
    Way, XmlKind,
};
use crate::libvirt::{DiskError, DomainSnapshot, StatsRecord};

/// What libvirt shows of the VM, and how orders end.
pub(crate) struct ControlDouble {
    shown: Mutex<Result<DomainSnapshot, ControlError>>,
    refusal: ControlError,
    disk_errors: Mutex<Result<Vec<(String, DiskError)>, ControlError>>,
}

impl ControlDouble {
    pub(crate) fn new(shown: DomainSnapshot, refusal: ControlError) -> Self {
        let disk_errors = Mutex::new(Err(refusal.clone()));
        ControlDouble { shown: Mutex::new(Ok(shown)), refusal, disk_errors }
    }

    pub(crate) fn set(&self, state: DomainState, xml: Option<&str>) {
        self.replace(Ok(DomainSnapshot { state, xml: xml.map(str::to_owned) }));
    }

    /// From now on libvirt answers so when it is asked which disks have failed.
    pub(crate) fn set_disk_errors(&self, answer: Result<Vec<(String, DiskError)>, ControlError>) {
        *self.disk_errors.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// From now on libvirt answers with this error.
    pub(crate) fn fail(&self, error: ControlError) {
        self.replace(Err(error));
    }

    fn replace(&self, shown: Result<DomainSnapshot, ControlError>) {
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    fn shown(&self) -> Result<DomainSnapshot, ControlError> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn refused<T: Send + 'static>(&self) -> Answer<'_, T> {
        let refusal = self.refusal.clone();
        Box::pin(async { Err(refusal) })
    }
}

impl DefinitionControl for ControlDouble {
    fn define(&self, _: String) -> Answer<'_, ()> {
        self.refused()
    }
    fn xml(&self, _: XmlKind) -> Answer<'_, String> {
        self.refused()
    }
}

impl DeviceControl for ControlDouble {}
impl JobControl for ControlDouble {}
impl MeasureControl for ControlDouble {
    fn disk_errors(&self) -> Answer<'_, Vec<(String, DiskError)>> {
        let answer = self.disk_errors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(async { answer })
    }
}

impl MigrationControl for ControlDouble {}

impl VmControl for ControlDouble {
    fn snapshot(&self) -> Answer<'_, DomainSnapshot> {
        let shown = self.shown();
        Box::pin(async { shown })
    }
    fn state(&self) -> Answer<'_, DomainState> {
        let shown = self.shown().map(|shown| shown.state);
        Box::pin(async { shown })
    }
    fn attach(&self) -> Answer<'_, ()> {
        self.refused()
    }
    fn exists(&self) -> Answer<'_, bool> {
        self.refused()
    }
    fn stats(&self, _: Instant) -> Answer<'_, Option<StatsRecord>> {
        self.refused()
    }
    fn vcpu_pins(&self, _: usize, _: Instant) -> Answer<'_, Vec<Vec<bool>>> {
        self.refused()
    }
    fn start(&self, _: bool) -> Answer<'_, ()> {
        self.refused()
    }
    fn suspend(&self) -> Answer<'_, ()> {
        self.refused()
    }
    fn resume(&self) -> Answer<'_, ()> {
        self.refused()
    }
    fn reset(&self) -> Answer<'_, ()> {
        self.refused()
    }
    fn reboot(&self, _: Way) -> Answer<'_, ()> {
        self.refused()
    }
    fn shutdown(&self, _: Way) -> Answer<'_, ()> {
        self.refused()
    }
    fn destroy(&self) -> Answer<'_, ()> {
        self.refused()
    }
    fn undefine(&self) -> Answer<'_, ()> {
        self.refused()
    }
}
