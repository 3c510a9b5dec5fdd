//! The process of a VM under Cloud Hypervisor: where its files are, how it is found and ended, and what its end meant
//! (contract/cloud-hypervisor.md 11.1 to 11.4).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::serial::SerialPaths;
use super::{CloudHypervisor, StopRequest};
use crate::domain::{DomainState, LifeCycle, StateReason};
use crate::files::{self, Folder};
use crate::libvirt::Lifecycle;
use crate::process::{Outcome, PidFd, find_by_command_prefix};

/// No domain's XML is that large, in bytes; a larger file is not ours.
const XML_LIMIT: u64 = 1024 * 1024;

/// Where the files of one VM are, and who it is.
#[derive(Debug, Clone)]
pub struct VmPaths {
    /// libvirt's name of the domain.
    pub domain: String,
    /// The driver's state directory.
    pub run_dir: PathBuf,
    /// Where the VMM's output goes; the driver does not make its directory.
    pub log: Option<PathBuf>,
    /// Where the domain's XML is kept for the next launcher.
    pub kept_xml: PathBuf,
    /// User and group of daemon and VMM.
    pub owner: (u32, u32),
    /// Names that the VMM's executable begins with.
    pub command_prefixes: Vec<String>,
    /// What the name of a vCPU thread looks like.
    pub vcpu_regex: regex::Regex,
    /// Devices of which one must be usable.
    pub devices: Vec<PathBuf>,
}

impl VmPaths {
    pub(super) fn api_socket(&self) -> PathBuf {
        self.run_dir.join(format!("{}-socket", self.domain))
    }

    pub(super) fn fifo_name(&self) -> String {
        format!("{}-event-monitor-fifo", self.domain)
    }

    /// The VM's private directory, which belongs to the VMM's user.
    pub(super) fn private(&self) -> &Path {
        self.kept_xml.parent().unwrap_or(Path::new("/"))
    }

    fn open_private(&self) -> io::Result<(Folder, &str)> {
        let (folder, name) = files::split(&self.kept_xml)?;
        Ok((Folder::open(folder)?, name))
    }

    /// Keeps the domain's XML for the next launcher.
    pub(super) fn keep_xml(&self, xml: &str) {
        let kept = self.open_private().and_then(|(folder, name)| folder.replace(name, xml.as_bytes()));
        if let Err(error) = kept {
            tracing::warn!(reason = %error, "cannot keep the domain's XML for the next launcher");
        }
    }

    /// The XML that the previous launcher kept; other writers are refused.
    pub(super) fn take_over_xml(&self) -> Option<String> {
        let read = self.open_private().and_then(|(folder, name)| folder.read(name, XML_LIMIT));
        let text = read.and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
        let told = |error: &io::Error| {
            let path = self.kept_xml.display();
            tracing::warn!(reason = %error, "the VM goes on without its console and its statistics: {path} cannot be used");
        };
        text.inspect_err(told).ok()
    }

    /// There is nothing to follow any more.
    pub(super) fn forget_xml(&self) {
        // What is left of it finds no VMM.
        let _ = self.open_private().and_then(|(folder, name)| folder.remove(name));
    }

    /// VMMs of this domain: only the FIFO's name on their command line shows their domain.
    pub(super) fn find_vmms(&self) -> Vec<i32> {
        let mark = format!("/{}", self.fifo_name());
        let ours = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word.ends_with(mark.as_bytes()))
        };
        let found = find_by_command_prefix(&self.command_prefixes, None);
        found.into_iter().map(|found| found.pid).filter(ours).collect()
    }
}

/// SIGTERM, and SIGKILL when that does not help.
pub(super) async fn end(pid: i32, patience: Duration) {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        // A process that cannot be opened or signalled has ended.
        let Ok(pidfd) = PidFd::open(pid) else { return };
        if pidfd.signal(signal).is_err() {
            return;
        }
        if tokio::time::timeout(patience, pidfd.exited()).await.is_ok() {
            return;
        }
        tracing::warn!("the VMM with pid {pid} does not end by {signal}");
    }
}

impl CloudHypervisor {
    /// Watches the VMM until its end.
    pub(super) async fn watch(self, pidfd: PidFd) {
        let pid = pidfd.pid();
        let exited = pidfd.exited();
        tokio::pin!(exited);
        let mut off = 0;
        let (places, mut vcpus) = (self.places(), BTreeMap::new());
        let outcome = loop {
            self.pin_anew(pid, &places, &mut vcpus);
            tokio::select! {
                biased;
                ended = &mut exited => break ended.unwrap_or_else(|error| {
                    tracing::error!(reason = %error, "cannot watch the VMM with pid {pid}");
                    None
                }),
                () = tokio::time::sleep(self.0.timings.look) => {}
            }
            match self.0.connection.state(self.domain()).await {
                Ok(DomainState { status: LifeCycle::Shutoff, .. }) => {
                    // libvirt has let go of it; one that does not end by itself is ours to end.
                    off += 1;
                    if off == 3 {
                        tracing::info!("ending the VMM with pid {pid} that libvirt left behind");
                        tokio::spawn(end(pid, self.0.timings.terminate));
                    }
                }
                Ok(now) => self.tell_state(now.status),
                Err(error) if error.is_no_domain() => {
                    self.forgotten();
                    if let Ok(now) = self.own_state(error).await {
                        self.tell_state(now.status);
                    }
                }
                // The reconnect reports it.
                Err(_) => {}
            }
        };
        let ended = self.cause(outcome).await;
        self.vmm_ended(ended).await;
    }

    /// Why the VMM that is gone has ended.
    pub(super) async fn cause(&self, outcome: Option<Outcome>) -> StateReason {
        let asked = self.vmm_state().asked;
        if asked == StopRequest::Destroy {
            return StateReason::Destroyed;
        }
        let deadline = Instant::now() + self.0.timings.settle;
        let libvirt_knows = loop {
            match self.0.connection.state(self.domain()).await {
                Ok(DomainState { status: LifeCycle::Shutoff, reason }) => return reason,
                Ok(_) if Instant::now() < deadline => tokio::time::sleep(self.0.timings.settle / 12).await,
                Ok(_) => break true,
                Err(error) => {
                    // The watch, which would have noticed, is over. A daemon that is away comes back without the VM.
                    if error.is_no_domain() || !self.0.connection.is_open() {
                        self.vmm_state().orphan = true;
                    }
                    break false;
                }
            }
        };
        // A VMM that ends in order removes the socket of its serial port; not every kernel reports how the process ended.
        let left_in_order =
            || outcome == Some(Outcome::Exited(0)) || self.serial().is_some_and(|serial| !serial.is_there());
        let orderly = asked == StopRequest::Shutdown || !libvirt_knows && left_in_order();
        if orderly { StateReason::Shutdown } else { StateReason::Crashed }
    }

    /// Tells that there is no VMM any more, and why, and clears up after it.
    pub(super) async fn vmm_ended(&self, ended: StateReason) {
        {
            let mut known = self.vmm_state();
            (known.pid, known.ended, known.told) = (None, Some(ended), LifeCycle::Shutoff);
        }
        // libvirt's event knows no unknown reason.
        let told = match ended {
            StateReason::Destroyed | StateReason::Crashed => ended,
            _ => StateReason::Shutdown,
        };
        self.tell(Lifecycle::Stopped(told));
        self.0.alive.send_replace(false);
        self.0.console.send_replace(false);
        // libvirt does not notice a crash: without this, the domain could not be undefined.
        let known = self.0.connection.state(self.domain()).await;
        if known.is_ok_and(|known| matches!(known.status, LifeCycle::Running | LifeCycle::Paused))
            && let Err(error) = self.0.connection.destroy(self.domain(), 0).await
        {
            tracing::warn!("libvirt does not let go of the VM that ended: {error}");
        }
        self.serial().iter().for_each(SerialPaths::clear);
        self.0.place.forget_xml();
    }
}
