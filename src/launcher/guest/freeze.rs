//! FreezeVirtualMachine and UnfreezeVirtualMachine (contract/cmd-server.md 7.1), and the safety thaw.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::Guest;
use crate::cmd::FreezeRequest;
use crate::domain::KubeVirtMetadata;
use crate::files::with_deadline;
use crate::guest_agent::{self, AgentError, FROZEN};
use crate::launcher::error::Error;
use crate::launcher::vm::state_file::{Restored, StateFile};
use crate::libvirt;
use crate::vmi::VirtualMachineInstance;

/// Between two attempts of a safety thaw; libvirt does not report when a stuck agent answers again.
const THAW_PAUSE: Duration = Duration::from_secs(5);
/// How often a safety thaw is tried before somebody else has to do it: an hour.
const THAW_ATTEMPTS: u32 = 720;
/// How long the state of TPMs may take to reach its disk.
const TPM_SYNC: Duration = Duration::from_secs(10);

/// The one pending safety thaw, which the next launcher adopts.
#[derive(Debug, Default)]
pub(super) struct SafetyThaw {
    task: Mutex<Option<AbortHandle>>,
    state_file: StateFile,
}

impl SafetyThaw {
    pub(super) fn restored(restored: &Restored) -> Self {
        SafetyThaw { task: Mutex::default(), state_file: restored.file.clone() }
    }

    /// `next` is the pending thaw from now on, the one before is cancelled.
    fn replace(&self, next: Option<AbortHandle>) {
        if next.is_none() {
            self.remember(None);
        }
        let before = std::mem::replace(&mut *self.task.lock().unwrap_or_else(PoisonError::into_inner), next);
        if let Some(before) = before {
            before.abort();
        }
    }

    /// When the thaw is due, for the next launcher; what was remembered before.
    fn remember(&self, at: Option<u64>) -> Option<u64> {
        self.state_file.change(|state| std::mem::replace(&mut state.thaw_at, at))
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Guest {
    /// FreezeVirtualMachine. `metadata` says whether a migration is under way.
    pub async fn freeze(&self, request: FreezeRequest, metadata: &KubeVirtMetadata) -> Result<(), Error> {
        self.freeze_within(self.shared.agent.connection.deadlines().freeze, request, metadata).await
    }

    /// The same for a caller whose own client waits for less, `within` the time that it has.
    pub async fn freeze_within(
        &self,
        within: Duration,
        request: FreezeRequest,
        metadata: &KubeVirtMetadata,
    ) -> Result<(), Error> {
        if metadata.migration_under_way().is_some() {
            return Err(Error::not_now("failed to freeze VMI, VMI is currently during migration"));
        }
        let agent = &self.shared.agent;
        let end = Instant::now() + within;
        if guest_agent::status(agent, agent.connection.deadlines().agent.min(within)).await? == FROZEN {
            return Ok(());
        }
        if has_persistent_tpm(&request.vmi) {
            self.sync_tpm().await?;
        }
        let seconds = u64::try_from(request.unfreeze_timeout_seconds).unwrap_or_default();
        let thaw_after = (request.unfreeze_timeout_seconds != 0).then(|| Duration::from_secs(seconds));
        let due = || thaw_after.map(|after| now().saturating_add(after.as_secs()));
        let due_before = self.shared.thaw.remember(due());
        let frozen = guest_agent::freeze(agent, end.saturating_duration_since(Instant::now())).await;
        self.shared.interest.freeze_status.notify_one();
        match frozen {
            Ok(()) => {
                self.shared.thaw.replace(thaw_after.map(|after| self.thaw_later(after)));
                // Its time counts from now; the guest may have taken a while to get here.
                self.shared.thaw.remember(due());
                Ok(())
            }
            Err(error) => {
                if may_still_happen(&error) {
                    self.shared.thaw.remember(due().or(Some(now())));
                    self.shared.thaw.replace(Some(self.thaw_later(thaw_after.unwrap_or_default())));
                } else {
                    self.shared.thaw.remember(due_before);
                }
                Err(error.into())
            }
        }
    }

    /// UnfreezeVirtualMachine.
    pub async fn unfreeze(&self) -> Result<(), Error> {
        self.shared.thaw.replace(None);
        Ok(self.thaw().await?)
    }

    async fn thaw(&self) -> Result<(), AgentError> {
        let agent = &self.shared.agent;
        let deadlines = agent.connection.deadlines();
        let thawed = match self.is_known_frozen() {
            true => guest_agent::thaw_frozen(agent, deadlines.control).await,
            false => guest_agent::thaw(agent, deadlines.agent, deadlines.control).await,
        };
        self.shared.interest.freeze_status.notify_one();
        thawed
    }

    fn is_known_frozen(&self) -> bool {
        self.shared.data.borrow().freeze.status == FROZEN
    }

    /// Thaws the guest within so long if it is known to be frozen: it is to power off, which a frozen guest cannot do.
    pub async fn thaw_if_frozen(&self, within: Duration) -> Result<(), AgentError> {
        if !self.is_known_frozen() && self.shared.thaw.state_file.state().thaw_at.is_none() {
            return Ok(());
        }
        let thawed = guest_agent::thaw_frozen(&self.shared.agent, within).await;
        self.shared.interest.freeze_status.notify_one();
        if thawed.is_ok() {
            self.shared.thaw.replace(None);
            tracing::info!("thawed the guest's file systems: it is to power off");
        }
        thawed
    }

    /// Adopts the safety thaw of the previous launcher.
    pub fn resume_safety_thaw(&self) {
        if let Some(at) = self.shared.thaw.state_file.state().thaw_at {
            self.shared.thaw.replace(Some(self.thaw_later(Duration::from_secs(at.saturating_sub(now())))));
        }
    }

    fn thaw_later(&self, after: Duration) -> AbortHandle {
        let guest = self.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            for attempt in 0..THAW_ATTEMPTS {
                match guest.thaw().await {
                    Ok(()) => {
                        guest.shared.thaw.remember(None);
                        return tracing::info!("safety thaw: thawed the guest's file systems");
                    }
                    Err(AgentError::Libvirt(error)) if error.is_no_domain() => {
                        guest.shared.thaw.remember(None);
                        return;
                    }
                    Err(error) if attempt == 0 => tracing::warn!("cannot thaw the guest's file systems yet: {error}"),
                    Err(_) => {}
                }
                tokio::time::sleep(THAW_PAUSE).await;
            }
            tracing::error!("the guest's file systems may still be frozen, their thaw failed {THAW_ATTEMPTS} times");
        });
        task.abort_handle()
    }

    async fn sync_tpm(&self) -> Result<(), Error> {
        let path = self.shared.tpm_state.clone();
        let failed = |why: String| {
            Error::storage(format!("cannot sync the TPM's state in {}: {why}", self.shared.tpm_state.display()))
        };
        let synced = with_deadline(TPM_SYNC, move || sync_tree(&path, 8)).await.map_err(failed)?;
        synced.map_err(|error| failed(error.to_string()))
    }
}

/// Whether libvirt may carry out a freeze although it has not said so.
fn may_still_happen(error: &AgentError) -> bool {
    match error {
        AgentError::Libvirt(error) => match error {
            libvirt::Error::Deadline { .. } | libvirt::Error::Aborted { .. } => true,
            libvirt::Error::Libvirt(_) | libvirt::Error::AgentBusy { .. } | libvirt::Error::Disconnected { .. } => {
                false
            }
        },
        AgentError::Reply { .. }
        | AgentError::FreezeStatus(_)
        | AgentError::Pid { .. }
        | AgentError::Timeout { .. }
        | AgentError::NoTime(_)
        | AgentError::Exit { .. } => false,
    }
}

fn has_persistent_tpm(vmi: &VirtualMachineInstance) -> bool {
    let tpm = vmi.spec.domain.devices.tpm.as_ref();
    tpm.is_some_and(|tpm| tpm.enabled.unwrap_or(true) && tpm.persistent.unwrap_or(false))
}

/// Writes everything below `path` to its disk, `depth` folders deep.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
fn sync_tree(path: &Path, depth: u32) -> io::Result<()> {
    if depth > 0 {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                sync_tree(&entry.path(), depth - 1)?;
            } else if kind.is_file() {
                std::fs::File::open(entry.path())?.sync_all()?;
            }
        }
    }
    std::fs::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_persistent_tpm_has_state_to_keep() {
        let vmi = |tpm: &str| {
            let text = format!(r#"{{"spec":{{"domain":{{"devices":{{"tpm":{tpm}}}}}}}}}"#);
            crate::vmi::parse(text.as_bytes()).unwrap()
        };
        assert!(!has_persistent_tpm(&vmi("null")));
        assert!(!has_persistent_tpm(&vmi("{}")));
        assert!(has_persistent_tpm(&vmi(r#"{"persistent":true}"#)));
        assert!(!has_persistent_tpm(&vmi(r#"{"persistent":true,"enabled":false}"#)));
    }

    #[test]
    fn state_of_tpms_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tpm2")).unwrap();
        std::fs::write(dir.path().join("tpm2/state"), "x").unwrap();
        sync_tree(dir.path(), 8).unwrap();
        assert!(sync_tree(&dir.path().join("absent"), 8).is_err());
    }

    #[test]
    fn only_a_freeze_without_an_answer_has_to_be_undone() {
        let deadline = libvirt::Error::Deadline { call: "virDomainFSFreeze", after: THAW_PAUSE };
        let refused = libvirt::Error::Libvirt(crate::libvirt::VirError { code: 86, domain: 0, message: String::new() });
        assert!(may_still_happen(&deadline.into()));
        assert!(!may_still_happen(&refused.into()));
    }

    #[tokio::test]
    async fn there_is_one_safety_thaw_at_a_time() {
        let pending = || tokio::spawn(std::future::pending::<()>());
        let (first, second) = (pending(), pending());
        let thaw = SafetyThaw::default();
        thaw.replace(Some(first.abort_handle()));
        thaw.replace(Some(second.abort_handle()));
        assert!(first.await.unwrap_err().is_cancelled());
        assert!(!second.is_finished());
        thaw.remember(Some(7));
        thaw.replace(None);
        assert_eq!(thaw.state_file.state().thaw_at, None, "nothing is left to adopt");
        assert!(second.await.unwrap_err().is_cancelled());
    }
}
