//! Finds the sidecars of a pod when the launcher starts (contract/lifecycle.md 10.1).

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::sidecar::Sidecar;
use super::{HookError, Hooks, Timings};

impl Hooks {
    /// Waits until `count` sidecars below `folder`, each in a folder of its own, have said what they are. One that does
    /// not listen yet is asked again; one that listens and cannot be used is an error at once.
    pub async fn collect(folder: &Path, count: usize, within: Duration, timings: Timings) -> Result<Self, HookError> {
        let deadline = Instant::now() + within;
        let mut sidecars: Vec<Sidecar> = Vec::new();
        let mut greeted: BTreeSet<PathBuf> = BTreeSet::new();
        let mut last = None;
        while sidecars.len() < count {
            for socket in sockets(folder) {
                if greeted.contains(&socket) {
                    continue;
                }
                match Sidecar::greet(&socket, &timings).await {
                    Ok(sidecar) => {
                        tracing::info!("hook sidecar {} at {}", sidecar.name, socket.display());
                        greeted.insert(socket);
                        sidecars.push(sidecar);
                    }
                    Err(error @ HookError::Dial { .. }) => last = Some(error.to_string()),
                    Err(
                        error @ (HookError::Version { .. }
                        | HookError::Call { .. }
                        | HookError::Answer { .. }
                        | HookError::Missing { .. }
                        | HookError::Plugin { .. }),
                    ) => return Err(error),
                }
            }
            if sidecars.len() < count {
                if Instant::now() >= deadline {
                    let folder = folder.to_owned();
                    return Err(HookError::Missing { folder, wanted: count, found: sidecars.len(), within, last });
                }
                tokio::time::sleep(timings.look_again).await;
            }
        }
        Ok(Hooks { sidecars: Arc::new(sidecars), timings })
    }
}

/// Everything but folders that lies in a folder below `folder`, in the order of its names.
fn sockets(folder: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
            .map(|entries| entries.filter_map(Result::ok).map(|entry| entry.path()).collect())
            .unwrap_or_default();
        paths.sort();
        paths
    };
    let is_socket = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|about| about.file_type().is_socket());
    entries(folder).iter().flat_map(|folder| entries(folder)).filter(is_socket).collect()
}
