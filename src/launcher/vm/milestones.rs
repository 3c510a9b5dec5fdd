//! What has come to pass with the VM, for those who wait for it.

use tokio::sync::watch;

/// What the driver publishes for the main line.
#[derive(Debug, Clone)]
pub struct Milestones {
    /// libvirt knows a domain.
    pub defined: watch::Sender<bool>,
    /// SignalTargetPodCleanup was received.
    pub leave_early: watch::Sender<bool>,
    /// virt-handler has ordered the end of the VM.
    pub end_ordered: watch::Sender<bool>,
    /// Why this pod, a migration target, can never receive its VM.
    pub never_receives: watch::Sender<Option<String>>,
    /// The hypervisor's version, once libvirt has reported it.
    pub version: watch::Sender<Option<String>>,
}

impl Default for Milestones {
    fn default() -> Self {
        Milestones {
            defined: watch::Sender::new(false),
            leave_early: watch::Sender::new(false),
            end_ordered: watch::Sender::new(false),
            never_receives: watch::Sender::new(None),
            version: watch::Sender::new(None),
        }
    }
}
