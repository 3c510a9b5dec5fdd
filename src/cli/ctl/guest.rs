//! The commands that reach into the guest, by its agent.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::transport::Channel;

use super::call::{Caller, check, encode, no_domain};
use super::{CtlError, Target, output, vmi_file};
use crate::cmd::client::deadline;
use crate::proto::cmd_v1::cmd_client::CmdClient;
use crate::proto::cmd_v1::{EmptyRequest, ExecRequest, FreezeRequest, GuestPingRequest};

/// What the launcher has learnt from the agent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Learnt {
    Info,
    Users,
    Filesystems,
}

/// What to run in the guest.
#[derive(Debug, clap::Args)]
pub(super) struct Exec {
    /// Seconds that the command may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(i32).range(1..))]
    limit: i32,
    /// The program's path in the guest, and its arguments after it.
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// How to freeze.
#[derive(Debug, clap::Args)]
pub(super) struct Freeze {
    /// Seconds until the launcher thaws by itself; 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(i32).range(0..))]
    unfreeze_after: i32,
    #[command(flatten)]
    target: Target,
}

impl Caller {
    pub(super) async fn learnt(&self, what: Learnt) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let (response, document) = match what {
            Learnt::Info => {
                let reply = self.answer(deadline::SHORT, client.get_guest_info(EmptyRequest {})).await?;
                (reply.response, reply.guest_info_response)
            }
            Learnt::Users => {
                let reply = self.answer(deadline::SHORT, client.get_users(EmptyRequest {})).await?;
                (reply.response, reply.guest_user_list_response)
            }
            Learnt::Filesystems => {
                let reply = self.answer(deadline::SHORT, client.get_filesystems(EmptyRequest {})).await?;
                (reply.response, reply.guest_filesystems_response)
            }
        };
        check(response.as_ref())?;
        let document: Value = serde_json::from_str(&document)
            .map_err(|error| CtlError::Refused(format!("the launcher's answer cannot be read: {error}")))?;
        output::print(self.format, &document, || rows(what, &document))
    }

    pub(super) async fn exec(&self, exec: Exec) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let domain_name = self.domain_name(&mut client).await?;
        let mut words = exec.command.into_iter();
        let command = words.next().unwrap_or_default();
        let request = ExecRequest { domain_name, command, args: words.collect(), timeout_seconds: exec.limit };
        // The answer comes after the command's end.
        let within = Duration::from_secs(u64::try_from(exec.limit).unwrap_or_default()) + deadline::LONG;
        let reply = self.answer(within, client.exec(request)).await?;
        check(reply.response.as_ref())?;
        let document = json!({ "exitCode": reply.exit_code, "stdOut": reply.std_out });
        output::print(self.format, &document, || vec![("", reply.std_out.trim_end_matches('\n').to_owned())])?;
        match reply.exit_code {
            0 => Ok(()),
            code => Err(CtlError::Refused(format!("the command ended with exit code {code} in the guest"))),
        }
    }

    pub(super) async fn guest_ping(&self) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let domain_name = self.domain_name(&mut client).await?;
        let request = GuestPingRequest { domain_name, timeout_seconds: 0 };
        let reply = self.answer(deadline::LONG, client.guest_ping(request)).await?;
        self.done(&reply.response.unwrap_or_default())
    }

    pub(super) async fn freeze(&self, freeze: Freeze) -> Result<(), CtlError> {
        let Freeze { unfreeze_after, target } = freeze;
        let mut client = self.connect().await?;
        let vmi = encode(&self.target(&mut client, target).await?);
        let request = FreezeRequest { vmi: Some(vmi), unfreeze_timeout_seconds: unfreeze_after };
        let reply = self.answer(deadline::LONG, client.freeze_virtual_machine(request)).await?;
        self.done(&reply)
    }

    /// libvirt's name of the one domain.
    async fn domain_name(&self, client: &mut CmdClient<Channel>) -> Result<String, CtlError> {
        let vmi = vmi_file::of_domain(&self.domain(client).await?.ok_or_else(no_domain)?);
        let text = |pointer: &str| vmi.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(format!("{}_{}", text("/metadata/namespace"), text("/metadata/name")))
    }
}

fn rows(what: Learnt, document: &Value) -> output::Table {
    let text = |value: &Value, pointer: &str| match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let list = document.as_array().map(Vec::as_slice).unwrap_or_default();
    match what {
        Learnt::Info => vec![
            ("AGENT", text(document, "/guestAgentVersion")),
            ("HOSTNAME", text(document, "/hostname")),
            ("OS", text(document, "/os/prettyName")),
            ("KERNEL", text(document, "/os/kernelRelease")),
            ("TIMEZONE", text(document, "/timezone")),
            ("FREEZE", text(document, "/fsFreezeStatus")),
        ],
        Learnt::Users => list.iter().map(|user| ("USER", text(user, "/userName"))).collect(),
        Learnt::Filesystems => list
            .iter()
            .map(|filesystem| {
                let part = |pointer| text(filesystem, pointer);
                let usage = format!("{} of {} bytes used", part("/usedBytes"), part("/totalBytes"));
                ("FILESYSTEM", [part("/mountPoint"), part("/diskName"), part("/fileSystemType"), usage].join("  "))
            })
            .collect(),
    }
}
