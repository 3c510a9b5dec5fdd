//! `ctl backup` and `ctl redefine-checkpoint`.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::call::{Caller, check, encode};
use super::{CtlError, Target};
use crate::cmd::client::deadline;
use crate::domain::Time;
use crate::proto::cmd_v1::{BackupRequest, RedefineCheckpointRequest};

/// What is to be done about a backup.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Begin one; get-domain shows its progress.
    Start {
        #[command(flatten)]
        which: Which,
        /// The folder for its files, as the launcher sees it.
        #[arg(value_name = "DIRECTORY")]
        target: String,
        /// Serve it on a socket instead of writing it out.
        #[arg(long)]
        pull: bool,
        /// Only what has changed since this checkpoint.
        #[arg(long, value_name = "CHECKPOINT")]
        incremental: Option<String>,
        /// Do not freeze the guest's file systems.
        #[arg(long)]
        skip_quiesce: bool,
    },
    /// End it before it is complete.
    Abort(Which),
    /// Have a backup that is served exported to a server.
    Export {
        #[command(flatten)]
        which: Which,
        /// `host:port`.
        #[arg(long)]
        server: String,
        /// The name in the server's certificate.
        #[arg(long)]
        server_name: String,
        /// Our certificate.
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
        /// Its key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The authority that signed the server's certificate.
        #[arg(long, value_name = "FILE")]
        ca: PathBuf,
    },
}

/// Name and time say which backup or checkpoint is meant.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Its name.
    #[arg(long)]
    name: String,
    /// When the backup was ordered (now by default), or the checkpoint made.
    #[arg(long, value_name = "RFC3339")]
    at: Option<Time>,
    #[command(flatten)]
    target: Target,
}

impl Caller {
    pub(super) async fn backup(&self, command: Command) -> Result<(), CtlError> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| CtlError::Usage(format!("{}: {error}", path.display())))
        };
        let (which, mut options) = match command {
            Command::Start { which, target, pull, incremental, skip_quiesce } => {
                let mode = if pull { "Pull" } else { "Push" };
                let options = json!({
                    "cmd": "Start", "mode": mode, "targetPath": target,
                    "incremental": incremental.unwrap_or_default(), "skipQuiesce": skip_quiesce,
                });
                (which, options)
            }
            Command::Abort(which) => (which, json!({ "cmd": "Abort" })),
            Command::Export { which, server, server_name, cert, key, ca } => {
                let options = json!({
                    "cmd": "Export", "mode": "Pull", "exportServerAddr": server, "exportServerName": server_name,
                    "backupCert": read(&cert)?, "backupKey": read(&key)?, "caCert": read(&ca)?,
                });
                (which, options)
            }
        };
        let Which { name, at, target } = which;
        if let Value::Object(options) = &mut options {
            options.insert("backupName".to_owned(), json!(name));
            options.insert("backupStartTime".to_owned(), json!(at.unwrap_or_else(Time::now)));
        }
        let mut client = self.connect().await?;
        let vmi = tracked(self.target(&mut client, target).await?);
        let request = BackupRequest { vmi: Some(encode(&vmi)), options: options.to_string().into_bytes() };
        let reply = self.answer(deadline::LONG, client.backup_virtual_machine(request)).await?;
        self.done(&reply)
    }

    pub(super) async fn redefine_checkpoint(&self, which: Which) -> Result<(), CtlError> {
        let Which { name, at, target } = which;
        let mut client = self.connect().await?;
        let vmi = tracked(self.target(&mut client, target).await?);
        let checkpoint = json!({ "name": name, "creationTime": at }).to_string().into_bytes();
        let request = RedefineCheckpointRequest { vmi: Some(encode(&vmi)), checkpoint };
        let reply = self.answer(deadline::LONG, client.redefine_checkpoint(request)).await?;
        check(reply.response.as_ref())?;
        self.done(&reply.response.unwrap_or_default())
    }
}

/// A VMI that says nothing of changed block tracking gets it: a backup needs it.
fn tracked(mut vmi: Value) -> Value {
    if vmi.pointer("/status/changedBlockTracking").is_none()
        && let Value::Object(vmi) = &mut vmi
        && let Value::Object(status) = vmi.entry("status").or_insert_with(|| json!({}))
    {
        status.insert("changedBlockTracking".to_owned(), json!({ "state": "Enabled" }));
    }
    vmi
}
