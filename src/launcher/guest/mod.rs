//! The guest through its agent: what is known of it, commands, pings, freezing (contract/cmd-server.md 7.1, 8.1, 8.2).
//!
//! What the reader can rely on: reads answer from what the poller has learnt and never reach into the guest; a freeze
//! that was asked for with a time limit is undone even if libvirt's answer to it never came.

mod credentials;
mod freeze;
mod ping;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cmd::{GuestCommand, GuestOutput};
use crate::domain::{self, Domain, DomainSpec, FsFreeze, LifeCycle};
use crate::guest_agent::{self, AgentError, GuestData, Interest, Intervals, Introduction, LibvirtAgent, Presence};
use crate::launcher::error::Error;
use crate::launcher::vm::identity::Identity;
use crate::launcher::vm::state_file::Restored;
use crate::libvirt::Connection;
use crate::notify::{InvolvedObject, K8sEvent, K8sEventType, Outbox};

/// The agent's channel (contract/domain-xml-qemu.md 7.1).
const CHANNEL: &str = "org.qemu.guest_agent.0";
/// libvirt's words for whether the guest has opened a channel.
pub(super) const CONNECTED: &str = "connected";
pub(super) const DISCONNECTED: &str = "disconnected";

/// Whether an agent is connected.
pub(super) fn has_agent(spec: &DomainSpec) -> bool {
    let mut targets = spec.devices.channels.iter().filter_map(|channel| channel.target.as_ref());
    targets.any(|target| target.name == CHANNEL && target.state == CONNECTED)
}

/// Writes whether an agent is connected, as one of libvirt's words.
pub(super) fn write_agent_state(spec: &mut DomainSpec, state: &str) {
    let targets = spec.devices.channels.iter_mut().filter_map(|channel| channel.target.as_mut());
    for target in targets.filter(|target| target.name == CHANNEL) {
        state.clone_into(&mut target.state);
    }
}

/// The guest. Clones share everything.
#[derive(Clone)]
pub struct Guest {
    shared: Arc<Shared>,
}

struct Shared {
    agent: LibvirtAgent,
    outbox: Outbox,
    object: InvolvedObject,
    /// Where libvirt keeps the state of persistent TPMs.
    tpm_state: PathBuf,
    data: watch::Sender<GuestData>,
    presence: watch::Sender<Presence>,
    interest: Arc<Interest>,
    /// How often libvirt has reported that the agent connected.
    connections: AtomicU64,
    probes_paused: AtomicBool,
    /// Access credentials are being propagated.
    propagates: AtomicBool,
    thaw: freeze::SafetyThaw,
}

impl Guest {
    /// The guest of the domain that `identity` names, as the previous launcher knew it.
    pub fn new(
        identity: &Identity,
        connection: Connection,
        outbox: Outbox,
        tpm_state: PathBuf,
        restored: &Restored,
    ) -> Self {
        let object = InvolvedObject {
            namespace: identity.namespace.clone(),
            name: identity.name.clone(),
            uid: identity.uid.clone(),
        };
        let guest = Guest {
            shared: Arc::new(Shared {
                agent: LibvirtAgent { connection, domain: identity.domain.clone() },
                outbox,
                object,
                tpm_state,
                data: watch::Sender::default(),
                presence: watch::Sender::default(),
                interest: Arc::default(),
                connections: AtomicU64::new(1),
                probes_paused: AtomicBool::new(false),
                propagates: AtomicBool::new(false),
                thaw: freeze::SafetyThaw::restored(restored),
            }),
        };
        let (shown, before) = (restored.document.as_ref().map(|document| &*document.domain), &restored.state);
        guest.restore(shown, before.freeze.clone(), before.agent.clone());
        guest
    }

    /// Begins with what the agent answered to the previous launcher, of which `shown` is the last document: a guest that is
    /// paused or frozen cannot be asked, and the answers of an agent are kept when it disconnects (contract/notify.md 6.1).
    pub(crate) fn restore(&self, shown: Option<&Domain>, freeze: FsFreeze, agent: Introduction) {
        self.shared.data.send_modify(|data| {
            data.freeze = freeze;
            data.restore(agent);
            if let Some(domain) = shown {
                data.interfaces.clone_from(&domain.status.interfaces);
                data.os.clone_from(&domain.status.os_info);
            }
        });
    }

    /// Asks the agent again and again, for as long as the runtime lives.
    pub fn start_poller(&self, intervals: Intervals) -> JoinHandle<()> {
        let Shared { agent, presence, interest, data, .. } = &*self.shared;
        let (presence, interest) = (presence.subscribe(), Arc::clone(interest));
        tokio::spawn(guest_agent::poll(agent.in_background(), intervals, presence, interest, data.clone()))
    }

    /// The agent's answers so far, and notice of every change.
    pub fn data(&self) -> watch::Receiver<GuestData> {
        self.shared.data.subscribe()
    }

    /// libvirt reports that an agent has connected; it may be another one than before.
    pub fn agent_connected(&self) {
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// The domain as libvirt shows it now, `None` if there is none: whether there is an agent that can be asked.
    pub fn seen(&self, domain: Option<&Domain>) {
        let present =
            domain.is_some_and(|domain| domain.status.status == LifeCycle::Running && has_agent(&domain.spec));
        let now = present.then(|| self.shared.connections.load(Ordering::Relaxed));
        self.shared.presence.send_if_modified(|before| std::mem::replace(before, now) != now);
    }

    /// Whether there was an agent that could be asked when libvirt was looked at last.
    pub fn has_agent(&self) -> bool {
        self.shared.presence.borrow().is_some()
    }

    /// Whether probes of the guest are to be answered without asking it (`kubevirt.io/pause-guest-agent-probes`).
    pub fn pause_probes(&self, annotation: Option<&str>) {
        let paused = annotation.and_then(domain::parse_bool).unwrap_or(false);
        self.shared.probes_paused.store(paused, Ordering::Relaxed);
    }

    /// GetGuestInfo.
    pub fn info(&self) -> Result<String, Error> {
        self.shared.interest.users.notify_one();
        document(guest_agent::guest_info(&self.shared.data.borrow()))
    }

    /// GetUsers.
    pub fn users(&self) -> Result<String, Error> {
        self.shared.interest.users.notify_one();
        document(guest_agent::user_list(&self.shared.data.borrow()))
    }

    /// GetFilesystems.
    pub fn filesystems(&self) -> Result<String, Error> {
        document(guest_agent::filesystem_list(&self.shared.data.borrow()))
    }

    /// Exec.
    pub async fn exec(&self, command: GuestCommand) -> Result<GuestOutput, Error> {
        let GuestCommand { domain, path, arguments, timeout_seconds } = command;
        let agent = LibvirtAgent { domain, ..self.shared.agent.clone() };
        let command = guest_agent::Command { path, arguments, timeout_seconds };
        let guest_agent::Finished { exit_code, output } = guest_agent::exec(&agent, &command).await?;
        Ok(GuestOutput { exit_code, stdout: output })
    }

    /// Tells the user of something that went wrong, as a Kubernetes event of the VMI.
    pub fn warning(&self, reason: &str, message: String) {
        let event = K8sEvent {
            involved_object: self.shared.object.clone(),
            event_type: K8sEventType::Warning,
            reason: reason.to_owned(),
            message,
        };
        self.shared.outbox.k8s_event(&event);
    }
}

fn document(written: Result<String, serde_json::Error>) -> Result<String, Error> {
    written.map_err(|error| Error::other(format!("the guest agent's answer cannot be written as JSON: {error}")))
}

impl From<AgentError> for Error {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Libvirt(error) => error.into(),
            error @ (AgentError::Reply { .. }
            | AgentError::FreezeStatus(_)
            | AgentError::Pid { .. }
            | AgentError::Timeout { .. }
            | AgentError::NoTime(_)
            | AgentError::Exit { .. }) => Error::other(error.to_string()),
        }
    }
}
