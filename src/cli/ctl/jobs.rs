//! Commands that set off work on the VM beside its life cycle.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::call::Caller;
use super::{CtlError, Target};
use crate::cmd::client::deadline;
use crate::proto::cmd_v1::{InjectLaunchSecretRequest, MemoryDumpRequest};

/// A secret that an SEV guest's owner has encrypted for it. Both parts are read from files: arguments can be seen by
/// everybody on the machine.
#[derive(Debug, clap::Args)]
pub(super) struct Secret {
    /// The header, in base64.
    #[arg(long, value_name = "FILE")]
    header: PathBuf,
    /// The secret, in base64.
    #[arg(long, value_name = "FILE")]
    secret: PathBuf,
    #[command(flatten)]
    target: Target,
}

impl Caller {
    pub(super) async fn memory_dump(&self, path: &Path, target: Target) -> Result<(), CtlError> {
        let Some(dump_path) = path.to_str().map(str::to_owned) else {
            return Err(CtlError::Usage(format!("{}: the path is not UTF-8", path.display())));
        };
        let mut client = self.connect().await?;
        let request = MemoryDumpRequest { vmi: Some(self.vmi(&mut client, target).await?), dump_path };
        let reply = self.answer(deadline::LONG, client.virtual_machine_memory_dump(request)).await?;
        self.done(&reply)
    }

    pub(super) async fn inject_launch_secret(&self, secret: Secret) -> Result<(), CtlError> {
        let Secret { header, secret, target } = secret;
        let options = json!({ "header": text_of(&header)?, "secret": text_of(&secret)? });
        let mut client = self.connect().await?;
        let request = InjectLaunchSecretRequest {
            vmi: Some(self.vmi(&mut client, target).await?),
            options: options.to_string().into_bytes(),
        };
        let reply = self.answer(deadline::LONG, client.inject_launch_secret(request)).await?;
        self.done(&reply)
    }
}

fn text_of(file: &Path) -> Result<String, CtlError> {
    let text = std::fs::read_to_string(file);
    text.map(|text| text.trim().to_owned()).map_err(|error| CtlError::Usage(format!("{}: {error}", file.display())))
}
