//! `ctl migration`: the RPCs of live migration, which a launcher may refuse.

use serde_json::{Map, Value, json};

use super::call::Caller;
use super::{CtlError, Target};
use crate::cmd::client::deadline;
use crate::proto::cmd_v1::{MigrationRequest, VmiRequest};

/// Which RPC.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Send the VM to its target.
    Start(Target),
    /// Prepare this pod to receive a VM.
    SyncTarget(Target),
    /// Stop sending the VM.
    Cancel(Target),
    /// Finish, on the target, what a migration leaves to do.
    Finalize(Target),
}

/// virt-handler's options of a migration in a cluster that sets none (contract/cmd-server.md 6.2).
pub(super) fn default_options() -> Map<String, Value> {
    let options = json!({
        "Bandwidth": "0", "ProgressTimeout": 150, "CompletionTimeoutPerGiB": 150, "MaxDowntimeMs": 900,
        "UnsafeMigration": false, "AllowAutoConverge": false, "AllowPostCopy": false, "AllowWorkloadDisruption": false,
    });
    options.as_object().cloned().unwrap_or_default()
}

impl Caller {
    pub(super) async fn migration(&self, command: Command) -> Result<(), CtlError> {
        let mut client = self.connect().await?;
        let reply = match command {
            Command::Start(target) => {
                let options = Value::Object(default_options());
                let vmi = Some(self.vmi(&mut client, target).await?);
                let request = MigrationRequest { vmi, options: options.to_string().into_bytes() };
                self.answer(deadline::LONG, client.migrate_virtual_machine(request)).await?
            }
            Command::SyncTarget(target) => {
                let request = VmiRequest { vmi: Some(self.vmi(&mut client, target).await?), options: None };
                self.answer(deadline::LONG, client.sync_migration_target(request)).await?
            }
            Command::Cancel(target) => {
                let request = VmiRequest { vmi: Some(self.vmi(&mut client, target).await?), options: None };
                self.answer(deadline::LONG, client.cancel_virtual_machine_migration(request)).await?
            }
            Command::Finalize(target) => {
                let request = VmiRequest { vmi: Some(self.vmi(&mut client, target).await?), options: None };
                self.answer(deadline::LONG, client.finalize_virtual_machine_migration(request)).await?
            }
        };
        self.done(&reply)
    }
}
