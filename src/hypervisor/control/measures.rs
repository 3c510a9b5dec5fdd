//! What is measured or read of a running VM on demand.

use super::{Answer, LibvirtControl, unsupported};
use crate::libvirt::{DiskError, Params, Screenshot, StatsRecord};

/// Questions about the VM that not every driver answers.
pub trait MeasureControl: Send + Sync {
    /// Begins to measure how much memory the guest writes, over so many seconds.
    fn start_dirty_rate(&self, _seconds: i32) -> Answer<'_, ()> {
        unsupported("measuring the dirty rate")
    }
    /// What was measured; `None` if the domain does not run.
    fn dirty_rate_stats(&self) -> Answer<'_, Option<StatsRecord>> {
        unsupported("measuring the dirty rate")
    }
    /// A picture of the first screen.
    fn screenshot(&self) -> Answer<'_, Screenshot> {
        unsupported("a screenshot")
    }
    /// Target device and error of each disk that failed.
    fn disk_errors(&self) -> Answer<'_, Vec<(String, DiskError)>> {
        unsupported("asking for disk errors")
    }
    /// What AMD SEV is on this machine (`virNodeGetSEVInfo`).
    fn sev_info(&self) -> Answer<'_, Params> {
        unsupported("AMD SEV")
    }
    /// The launch measurement of a confidential guest.
    fn launch_security_info(&self) -> Answer<'_, Params> {
        unsupported("a launch measurement")
    }
    /// Gives a confidential guest its secret before it runs.
    fn inject_launch_secret<'a>(&'a self, _header: &'a str, _secret: &'a str) -> Answer<'a, ()> {
        unsupported("injecting a launch secret")
    }
}

impl MeasureControl for LibvirtControl {
    fn start_dirty_rate(&self, seconds: i32) -> Answer<'_, ()> {
        self.answer(self.connection.start_dirty_rate(&self.domain, seconds))
    }

    fn dirty_rate_stats(&self) -> Answer<'_, Option<StatsRecord>> {
        self.answer(self.connection.dirty_rate_stats(&self.domain))
    }

    fn screenshot(&self) -> Answer<'_, Screenshot> {
        self.answer(self.connection.screenshot(&self.domain))
    }

    fn disk_errors(&self) -> Answer<'_, Vec<(String, DiskError)>> {
        self.answer(self.connection.disk_errors(&self.domain))
    }

    fn sev_info(&self) -> Answer<'_, Params> {
        self.answer(self.connection.sev_info())
    }

    fn launch_security_info(&self) -> Answer<'_, Params> {
        self.answer(self.connection.launch_security_info(&self.domain))
    }

    fn inject_launch_secret<'a>(&'a self, header: &'a str, secret: &'a str) -> Answer<'a, ()> {
        self.answer(self.connection.inject_launch_secret(&self.domain, header, secret))
    }
}
