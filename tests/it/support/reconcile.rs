//! What virt-handler's VM controller does with one VM, in its order (KubeVirt's pkg/virt-handler/vm.go): look at the newest
//! document, order what it asks for, clean up after a VM that is down, then compute the VMI's status from that document,
//! for which it asks the launcher whenever the document shows an agent. Documents that come while it works are one.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::watch;
use tonic::transport::Channel;
use virt_launcher::cmd::client;
use virt_launcher::proto::cmd_v1::cmd_client::CmdClient;
use virt_launcher::proto::cmd_v1::{EmptyRequest, Vmi, VmiRequest};

use super::virt_handler::{Options, Received, is_deleted};

/// Until it looks again after an error; the original waits between 5 ms and 1000 s.
const REQUEUE: Duration = Duration::from_millis(200);
/// How long an agent may take to tell what virt-handler asked for too early.
const TOLD_LATE: Duration = Duration::from_secs(20);

/// Commands without which an agent is not supported, whatever the VMI asks for.
const REQUIRED: [&str; 10] = [
    "guest-ping",
    "guest-get-time",
    "guest-info",
    "guest-shutdown",
    "guest-network-get-interfaces",
    "guest-get-fsinfo",
    "guest-get-host-name",
    "guest-get-users",
    "guest-get-timezone",
    "guest-get-osinfo",
];

/// The VMI's status as virt-handler has written it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VmiStatus {
    /// `Scheduled` until a document says more.
    pub phase: &'static str,
    /// Condition AgentConnected.
    pub agent_connected: bool,
    /// Condition AgentVersionNotSupported, with its reason.
    pub agent_unsupported: Option<String>,
    /// `kubevirt_vmi_guest_os_panic_total`.
    pub panics: u32,
}

impl VmiStatus {
    pub fn is_final(&self) -> bool {
        matches!(self.phase, "Succeeded" | "Failed")
    }
}

/// What others see of the controller.
#[derive(Clone)]
pub struct Watched {
    /// Orders, in order.
    pub calls: Arc<Mutex<Vec<&'static str>>>,
    pub status: watch::Sender<VmiStatus>,
    /// When it closed its connection after it had been told of the deletion.
    pub last_word: Arc<Mutex<Option<Instant>>>,
    /// What must not happen with a launcher that is right; the test fails at its end.
    pub complaints: Arc<Mutex<Vec<String>>>,
}

impl Default for Watched {
    fn default() -> Self {
        let status = watch::Sender::new(VmiStatus { phase: "Scheduled", ..VmiStatus::default() });
        Watched { calls: Arc::default(), status, last_word: Arc::default(), complaints: Arc::default() }
    }
}

/// What virt-handler reads out of a domain document.
#[derive(Clone)]
struct Seen {
    deleted: bool,
    status: String,
    reason: String,
    marked: bool,
    acpi: bool,
    agent: bool,
    panics: i64,
}

fn seen(domain: &Value) -> Seen {
    let text = |pointer: &str| domain.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let grace = "/Spec/Metadata/KubeVirt/GracePeriod/MarkedForGracefulShutdown";
    let channels = domain.pointer("/Spec/Devices/Channels").and_then(Value::as_array).cloned().unwrap_or_default();
    let connected = |channel: &Value| {
        channel["Target"]["Name"] == "org.qemu.guest_agent.0" && channel["Target"]["State"] == "connected"
    };
    Seen {
        deleted: is_deleted(domain),
        status: text("/Status/Status"),
        reason: text("/Status/Reason"),
        marked: domain.pointer(grace) == Some(&Value::Bool(true)),
        acpi: domain.pointer("/Spec/Features/ACPI").is_some_and(|acpi| !acpi.is_null()),
        agent: channels.iter().any(connected),
        panics: domain.pointer("/Status/PanicCount").and_then(Value::as_i64).unwrap_or_default(),
    }
}

impl Seen {
    fn is_alive(&self) -> bool {
        !matches!(self.status.as_str(), "Shutoff" | "Crashed" | "")
    }

    fn is_migrating(&self) -> bool {
        self.status == "Paused" && matches!(self.reason.as_str(), "Migration" | "StartingUp" | "Postcopy")
    }

    /// The phase that the document leads to, if it says.
    fn phase(&self) -> Option<&'static str> {
        match (self.status.as_str(), self.reason.as_str()) {
            ("Shutoff" | "Crashed", "Crashed" | "Panicked") => Some("Failed"),
            ("Shutoff" | "Crashed", "Destroyed") if self.acpi => Some("Failed"),
            ("Shutoff" | "Crashed", "Destroyed" | "Shutdown" | "Saved" | "FromSnapshot") => Some("Succeeded"),
            ("Paused", "PostcopyFailed") => Some("Failed"),
            ("Paused" | "Running" | "Blocked" | "PMSuspended", _) => Some("Running"),
            _ => None,
        }
    }
}

/// Why a look at the VM is repeated.
struct Requeue(String);

struct Controller {
    socket: PathBuf,
    options: Options,
    watched: Watched,
    /// The connection that is kept until it cleans up.
    client: Option<CmdClient<Channel>>,
    first_shutdown: Option<Instant>,
    /// The panic count that was seen last; forgotten in the clean-up.
    last_panics: i64,
}

/// Drives the VM until the runtime ends. Begins with the domain that the launcher shows, as virt-handler does when it starts.
pub async fn reconcile(
    socket: PathBuf,
    mut received: watch::Receiver<Vec<Received>>,
    options: Options,
    watched: Watched,
) {
    let mut controller = Controller { socket, options, watched, client: None, first_shutdown: None, last_panics: 0 };
    let mut domain = controller.listed().await;
    let mut taken = 0;
    loop {
        {
            let all = received.borrow_and_update();
            let news = all.get(taken..).unwrap_or_default();
            let latest = news.iter().rev().find_map(|event| match event {
                Received::Domain { domain, .. } => Some(seen(domain)),
                Received::K8s(_) => None,
            });
            taken = all.len();
            domain = latest.or(domain);
        }
        let look_again = match &domain {
            Some(now) => controller.execute(&now.clone()).await,
            None => Ok(None),
        };
        let wait = match look_again {
            Ok(again) => again,
            Err(Requeue(why)) => {
                eprintln!("virt-handler looks again: {why}");
                Some(REQUEUE)
            }
        };
        match tokio::time::timeout(wait.unwrap_or(Duration::from_secs(3600)), received.changed()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => return,
        }
    }
}

impl Controller {
    async fn listed(&mut self) -> Option<Seen> {
        let mut client = self.client().await.ok()?;
        let shown = client.get_domain(EmptyRequest {}).await.ok()?.into_inner().domain;
        serde_json::from_str(&shown).ok().map(|domain| seen(&domain))
    }

    /// One look; when to look again without being told.
    async fn execute(&mut self, now: &Seen) -> Result<Option<Duration>, Requeue> {
        if now.deleted {
            self.order("DeleteVirtualMachine").await;
            self.client = None;
            *self.watched.last_word.lock().unwrap() = Some(Instant::now());
            self.clean_up().await;
            return Ok(None);
        }
        if now.is_migrating() {
            return Ok(None);
        }
        let status = self.watched.status.borrow().clone();
        let mut again = None;
        let ambiguous = now.status == "Shutoff" && matches!(now.reason.as_str(), "" | "Unknown");
        if now.is_alive() && now.status != "NoState" {
            if now.marked {
                again = self.shut_down(now).await;
            }
        } else if now.status == "NoState" || (ambiguous && status.phase == "Scheduled") {
            // It may still be starting.
        } else {
            self.delete().await;
        }
        self.update_status(now, status).await?;
        Ok(again)
    }

    async fn shut_down(&mut self, now: &Seen) -> Option<Duration> {
        let since = *self.first_shutdown.get_or_insert_with(Instant::now);
        let grace = self.options.grace;
        if since.elapsed() >= grace {
            self.order("KillVirtualMachine").await;
        } else if now.status != "ShuttingDown" {
            self.order("ShutdownVirtualMachine").await;
        }
        let left = grace.saturating_sub(since.elapsed()).max(Duration::from_millis(100));
        Some(self.options.shutdown_repeat.min(left))
    }

    /// Deletes the domain, if the pod is still there, and cleans up.
    async fn delete(&mut self) {
        self.order("DeleteVirtualMachine").await;
        self.client = None;
        self.clean_up().await;
    }

    async fn clean_up(&mut self) {
        self.last_panics = 0;
        // Mounts and network.
        tokio::time::sleep(self.options.clean_up).await;
    }

    async fn update_status(&mut self, now: &Seen, mut status: VmiStatus) -> Result<(), Requeue> {
        if status.is_final() {
            return Ok(());
        }
        status.phase = now.phase().unwrap_or(status.phase);
        if now.panics > self.last_panics {
            self.last_panics = now.panics;
            status.panics += 1;
            // A metric is not lost with the status.
            self.watched.status.send_modify(|known| known.panics = status.panics);
        }
        status.agent_connected = now.agent;
        if now.agent {
            status.agent_unsupported = self.judge_agent().await?;
        }
        self.watched.status.send_replace(status);
        Ok(())
    }

    /// Why the agent is not supported, if it is not.
    async fn judge_agent(&mut self) -> Result<Option<String>, Requeue> {
        let info = self.guest_info().await?;
        let commands: BTreeMap<&str, bool> = info["supportedCommands"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|command| Some((command["name"].as_str()?, command["enabled"] == true)))
            .collect();
        if commands.is_empty() {
            let version = info["guestAgentVersion"].as_str().unwrap_or_default().to_owned();
            if version.is_empty() {
                self.complain_if_told_late();
            }
            return Ok(Some(format!("Guest agent version '{version}' is not supported")));
        }
        let has = |names: &[&str]| names.iter().all(|name| commands.get(name) == Some(&true));
        Ok((!has(&REQUIRED)).then(|| "This guest agent doesn't support required basic commands".to_owned()))
    }

    async fn guest_info(&mut self) -> Result<Value, Requeue> {
        let mut client = match self.client().await {
            Ok(client) => client,
            Err(why) => {
                if why == NO_SOCKET {
                    let lost = format!("Updating the VirtualMachineInstance status failed. {why}");
                    self.watched.complaints.lock().unwrap().push(lost);
                }
                return Err(Requeue(why));
            }
        };
        let asked = client.get_guest_info(EmptyRequest {}).await;
        let answer = asked.map_err(|status| {
            self.client = None;
            Requeue(format!("GetGuestInfo: {status}"))
        })?;
        serde_json::from_str(&answer.into_inner().guest_info_response).map_err(|error| Requeue(error.to_string()))
    }

    /// An agent that answers after all was shown to virt-handler too early, and the condition stands until something else
    /// is told.
    fn complain_if_told_late(&self) {
        let (client, complaints) = (self.client.clone(), Arc::clone(&self.watched.complaints));
        tokio::spawn(async move {
            let Some(mut client) = client else { return };
            let asked = Instant::now();
            while asked.elapsed() < TOLD_LATE {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let Ok(answer) = client.get_guest_info(EmptyRequest {}).await else { return };
                let info: Value = serde_json::from_str(&answer.into_inner().guest_info_response).unwrap_or_default();
                if info["supportedCommands"].is_array() {
                    complaints.lock().unwrap().push(format!(
                        "AgentVersionNotSupported was set, and {:?} later the agent told its commands",
                        asked.elapsed()
                    ));
                    return;
                }
            }
        });
    }

    /// The connection, made if there is none.
    async fn client(&mut self) -> Result<CmdClient<Channel>, String> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        if let Err(error) = std::fs::symlink_metadata(&self.socket)
            && error.kind() == ErrorKind::NotFound
        {
            return Err(NO_SOCKET.to_owned());
        }
        let client = client::connect(&self.socket, client::deadline::SHORT).await.map_err(|error| error.to_string())?;
        Ok(self.client.insert(client).clone())
    }

    async fn order(&mut self, rpc: &'static str) {
        self.watched.calls.lock().unwrap().push(rpc);
        let request = || VmiRequest { vmi: Some(Vmi { vmi_json: self.options.vmi_json.clone() }), options: None };
        let request = request();
        // A pod that is gone has no VM. A connection that has broken is made anew once.
        let mut client = None;
        for _ in 0..2 {
            let Ok(mut tried) = self.client().await else { return };
            match tried.ping(EmptyRequest {}).await {
                Ok(_) => {
                    client = Some(tried);
                    break;
                }
                Err(_) => self.client = None,
            }
        }
        let Some(mut client) = client else { return };
        // Like the original it looks at the domain's state, not at the reply, to know what to do next.
        let _ = match rpc {
            "ShutdownVirtualMachine" => client.shutdown_virtual_machine(request).await,
            "KillVirtualMachine" => client.kill_virtual_machine(request).await,
            "DeleteVirtualMachine" => client.delete_virtual_machine(request).await,
            other => panic!("the double makes no call {other}"),
        };
    }
}

/// virt-handler's words for a launcher that has gone.
const NO_SOCKET: &str = "No command socket found";
