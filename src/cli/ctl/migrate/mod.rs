//! `ctl migrate`: a whole migration between two launchers, without virt-handler (contract/migration.md 14).

mod bridge;
mod line;
mod order;
mod pod;
mod progress;
mod remote;
mod tls;
mod vmi;

use std::io::IsTerminal;
use std::path::PathBuf;

use super::call::Caller;
use super::error::CtlError;
use super::{events, output};
use crate::cli::vm_file::VmFile;
use pod::Pod;
use remote::{Remote, Server};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("way").required(true).args(["to", "listen", "connect"]))]
pub(super) struct Options {
    #[command(flatten)]
    file: Option<VmFile>,
    /// The target launcher's command socket, on this machine.
    #[arg(long, value_name = "SOCKET")]
    to: Option<PathBuf>,
    /// Be the target's side: wait at this address for the source's side; `--socket` is the target launcher's.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with_all = ["file", "vm", "follow"])]
    listen: Option<String>,
    /// The address at which the target's side listens, on another machine.
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// The name in the certificate of the target's side, if it is not HOST.
    #[arg(long, value_name = "NAME", requires = "connect")]
    server_name: Option<String>,
    #[command(flatten)]
    tls: tls::Files,
    /// Show how far it is.
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    order: order::Settings,
}

/// Moves a VM, or receives one.
pub(super) async fn run(caller: &Caller, options: Options) -> Result<(), CtlError> {
    if let Some(address) = &options.listen {
        return receive(caller, address, &options.tls).await;
    }
    let Some(file) = &options.file else {
        return Err(CtlError::Usage("the VM's FILE is missing".to_owned()));
    };
    let target = match (&options.to, options.connect) {
        (Some(socket), _) => bridge::Target::Here(Pod::of(socket).await?),
        (None, Some(address)) => {
            bridge::Target::There(Remote::new(address, options.tls.connector()?, options.server_name)?)
        }
        (None, None) => return Err(CtlError::Usage("--to, --listen or --connect is missing".to_owned())),
    };
    let shows = options
        .follow
        .then(|| if std::io::stderr().is_terminal() { order::Shows::Redraws } else { order::Shows::Lines });
    order::Order { caller, file, settings: &options.order, shows }.carry_out(target).await
}

/// The target's side of a migration between two machines.
async fn receive(caller: &Caller, address: &str, tls: &tls::Files) -> Result<(), CtlError> {
    let acceptor = tls.acceptor()?;
    let server = Server::bind(address, Pod::of(&caller.socket).await?, acceptor).await?;
    let address = server.address().map_err(|error| CtlError::Unreachable(format!("{address}: {error}")))?;
    output::line(&format!("waiting for the source's side at {address}"))?;
    let ended = tokio::select! {
        ended = server.run() => ended,
        interrupted = events::told_to_end() => {
            interrupted?;
            return Err(CtlError::Refused("interrupted: a migration that was under way is cut off and fails".to_owned()));
        }
    };
    match ended {
        None => output::line("the VM has arrived"),
        Some(why) => Err(CtlError::Refused(format!("the VM stays at the source: {why}"))),
    }
}
