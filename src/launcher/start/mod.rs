//! Start-up (contract/lifecycle.md 3) as phases, each made of the one before:
//!
//! ```text
//! Resolved ──► Daemons ──► Serving ──► Launcher
//! ```
//!
//! What does not depend on each other overlaps: the sockets are made while the daemons start, the emulator is probed while
//! virt-handler still prepares the pod. A phase that fails takes down what the phases before it have brought up.

mod connect;
pub(crate) mod daemons;
pub mod directories;
pub mod error;
mod log_pipes;
mod resolved;
mod serving;
mod standalone;

use crate::launcher::config::Config;
use crate::launcher::shutdown::teardown::Launcher;
use crate::launcher::timings::Timings;
use error::StartError;
use resolved::Resolved;

/// Brings everything up; the socket has its final name when this returns.
pub(super) async fn start(config: Config, timings: Timings) -> Result<Launcher, StartError> {
    let resolved = Resolved::new(config, timings)?;
    let daemons = resolved.start_daemons()?;
    let serving = daemons.serve().await?;
    serving.connect().await
}
