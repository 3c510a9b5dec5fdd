//! A client of the command service, for the tools.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::Channel;

use super::service::VERSIONS;
use crate::proto::cmd_info::CmdInfoRequest;
use crate::proto::cmd_info::cmd_info_client::CmdInfoClient;
use crate::proto::cmd_v1::cmd_client::CmdClient;
use crate::proto::unix::{self, DialError};

/// How long the clients of this protocol wait (contract/cmd-server.md 1).
pub mod deadline {
    use std::time::Duration;

    /// For a connection.
    pub const CONNECT: Duration = Duration::from_secs(2);
    /// For calls that only read.
    pub const SHORT: Duration = Duration::from_secs(5);
    /// For calls that change something.
    pub const LONG: Duration = Duration::from_secs(20);
}

/// Why a client has no connection it can use.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No launcher answers there.
    #[error("cannot connect to {path}: {reason}")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Somebody answers, but not as a launcher does.
    #[error("{path}: the launcher did not report its protocol versions: {reason}")]
    NoVersions {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The launcher speaks other versions only.
    #[error("no compatible version found, server: {server:?}, client: {VERSIONS:?}")]
    Incompatible {
        /// What the server offers.
        server: Vec<u32>,
    },
}

/// Connects to the launcher at `path` and agrees on a version.
pub async fn connect(path: &Path, within: Duration) -> Result<CmdClient<Channel>, ConnectError> {
    agreed(greet(path, within).await?)
}

/// [`connect`] over a connection that leads to the launcher; errors name it `path`.
pub async fn connect_over<S>(stream: S, path: &Path, within: Duration) -> Result<CmdClient<Channel>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let dialled = tokio::time::timeout(within, unix::over(stream)).await.unwrap_or(Err(DialError::Late(within)));
    agreed(greet_over(dialled, path, within).await?)
}

fn agreed((channel, server): (Channel, Vec<u32>)) -> Result<CmdClient<Channel>, ConnectError> {
    if !server.iter().any(|version| VERSIONS.contains(version)) {
        return Err(ConnectError::Incompatible { server });
    }
    Ok(CmdClient::new(channel))
}

/// The versions of the command protocol that the launcher at `path` offers.
pub async fn versions(path: &Path, within: Duration) -> Result<Vec<u32>, ConnectError> {
    greet(path, within).await.map(|(_, versions)| versions)
}

async fn greet(path: &Path, within: Duration) -> Result<(Channel, Vec<u32>), ConnectError> {
    greet_over(unix::dial(path, within.min(deadline::CONNECT)).await, path, within).await
}

async fn greet_over(
    dialled: Result<Channel, DialError>,
    path: &Path,
    within: Duration,
) -> Result<(Channel, Vec<u32>), ConnectError> {
    let channel =
        dialled.map_err(|error| ConnectError::Unreachable { path: path.to_owned(), reason: error.to_string() })?;
    let no_versions = |reason: String| ConnectError::NoVersions { path: path.to_owned(), reason };
    let mut info = CmdInfoClient::new(channel.clone());
    let server = tokio::time::timeout(within, info.info(CmdInfoRequest {}))
        .await
        .map_err(|_| no_versions(format!("no answer within {:.1} s", within.as_secs_f32())))?
        .map_err(|status| no_versions(format!("{:?}: {}", status.code(), status.message())))?
        .into_inner()
        .supported_cmd_versions;
    Ok((channel, server))
}
