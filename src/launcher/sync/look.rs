//! What a sync looks at in the pod and in its storage.

use std::time::Duration;

use crate::files::in_time;
use crate::launcher::error::Error;

/// How long a look may take; virt-handler waits 20 s for a sync (contract/cmd-server.md 1).
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `look` where it may wait. `what` names it in errors, such as "looking at the VM's volumes".
pub(super) async fn look<T: Send + 'static>(
    what: &'static str,
    look: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    in_time(PATIENCE, look).await.map_err(|why| Error::storage(format!("{what}: {why}")))
}
