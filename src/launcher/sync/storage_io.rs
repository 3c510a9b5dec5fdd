//! A sync's reads and writes in the pod and in its storage, which may hang.

use std::time::Duration;

use crate::files::with_deadline;
use crate::launcher::error::Error;

/// How long they may take; virt-handler waits 20 s for a sync (contract/cmd-server.md 1).
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `work` on a thread of its own. `what` names it in errors, such as "looking at the VM's volumes".
pub(super) async fn storage_io<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    with_deadline(PATIENCE, work).await.map_err(|why| Error::storage(format!("{what}: {why}")))
}
