//! Freezes or thaws the guest's file systems around a backup (contract/lifecycle.md 11.3).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tonic::transport::Channel;

use super::call::{CallError, answer, check};
use crate::cmd::client::{self, deadline};
use crate::proto::cmd_v1::cmd_client::CmdClient;
use crate::proto::cmd_v1::{EmptyRequest, FreezeRequest, Vmi, VmiRequest};

/// The launcher's socket.
pub const SOCKET: &str = "/run/kubevirt/sockets/launcher-sock";

/// What to do to which VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freezer {
    /// The launcher's socket: [`SOCKET`], or another one in a test.
    pub socket: PathBuf,
    /// The VMI.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// What to do.
    pub deed: Deed,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Freeze, and thaw by itself after so many seconds unless that is 0.
    Freeze {
        /// Seconds.
        unfreeze_timeout_seconds: i32,
    },
    /// Thaw.
    Unfreeze,
}

/// A frozen guest takes its time to write everything out.
const FREEZING: Duration = Duration::from_secs(60);
/// The launcher's words for an agent that has just gone; the guest may be frozen all the same.
const AGENT_GONE: &str = "Guest agent not available for now";
/// The agent's words for a guest that is frozen and allows little else.
const LIMITED: &str = "fsfreeze is limited";

/// Does it; false if it could not be done.
pub fn run(freezer: &Freezer) -> bool {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(reason = %error, "no runtime");
            return false;
        }
    };
    match runtime.block_on(perform(freezer)) {
        Ok(()) => true,
        Err(error) => {
            let what = match freezer.deed {
                Deed::Freeze { .. } => "freezing the guest's file systems failed",
                Deed::Unfreeze if error.to_string().contains(LIMITED) => {
                    "the guest allows no thaw now, because its agent limits fsfreeze"
                }
                Deed::Unfreeze => "thawing the guest's file systems failed",
            };
            tracing::error!(reason = %error, name = freezer.name, namespace = freezer.namespace, "{what}");
            false
        }
    }
}

async fn perform(freezer: &Freezer) -> Result<(), CallError> {
    let mut client = client::connect(Path::new(&freezer.socket), deadline::SHORT).await?;
    if !has_agent(&mut client).await? {
        tracing::info!("no guest agent, nothing to do");
        return Ok(());
    }
    if !is_running(&mut client).await? {
        tracing::info!("the VM is not running, nothing to do");
        return Ok(());
    }
    let vmi = json!({
        "kind": "VirtualMachineInstance",
        "apiVersion": "kubevirt.io/v1",
        "metadata": { "name": freezer.name, "namespace": freezer.namespace },
        "spec": { "domain": { "devices": {} } },
        "status": {},
    });
    let vmi = Some(Vmi { vmi_json: vmi.to_string().into_bytes() });
    match freezer.deed {
        Deed::Freeze { unfreeze_timeout_seconds } => {
            let request = FreezeRequest { vmi: vmi.clone(), unfreeze_timeout_seconds };
            let reply = answer("FreezeVirtualMachine", FREEZING, client.freeze_virtual_machine(request)).await?;
            let frozen = check("FreezeVirtualMachine", Some(reply));
            if let Err(error) = &frozen
                && error.to_string().contains(AGENT_GONE)
                && let Err(error) = unfreeze(&mut client, vmi).await
            {
                tracing::warn!(reason = %error, "thawing after a freeze that failed");
            }
            frozen
        }
        Deed::Unfreeze => unfreeze(&mut client, vmi).await,
    }
}

async fn unfreeze(client: &mut CmdClient<Channel>, vmi: Option<Vmi>) -> Result<(), CallError> {
    let request = VmiRequest { vmi, options: None };
    let reply = answer("UnfreezeVirtualMachine", deadline::LONG, client.unfreeze_virtual_machine(request)).await?;
    check("UnfreezeVirtualMachine", Some(reply))
}

async fn has_agent(client: &mut CmdClient<Channel>) -> Result<bool, CallError> {
    let call = "GetGuestInfo";
    let reply = answer(call, deadline::SHORT, client.get_guest_info(EmptyRequest {})).await?;
    check(call, reply.response)?;
    let version = document(call, &reply.guest_info_response)?;
    Ok(version.get("guestAgentVersion").and_then(Value::as_str).is_some_and(|version| !version.is_empty()))
}

async fn is_running(client: &mut CmdClient<Channel>) -> Result<bool, CallError> {
    let call = "GetDomain";
    let reply = answer(call, deadline::SHORT, client.get_domain(EmptyRequest {})).await?;
    check(call, reply.response)?;
    let domain = document(call, &reply.domain)?;
    Ok(domain.pointer("/Status/Status").and_then(Value::as_str) == Some("Running"))
}

/// A JSON text; an empty one says that there is nothing.
fn document(call: &'static str, text: &str) -> Result<Value, CallError> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(text).map_err(|source| CallError::Unreadable { call, source })
}
