//! What the integration tests share: waiting for conditions, and doubles of what surrounds the launcher.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use programs::write_program;

pub mod beats;
pub mod bridge;
pub mod chance;
pub mod console;
pub mod daemon;
pub mod driver;
pub mod export_server;
pub mod figures;
pub mod gate;
pub mod guest;
pub mod pod;
pub mod processes;
pub mod programs;
pub mod reconcile;
pub mod sidecar;
pub mod subject;
pub mod tiny_guest;
pub mod virt_handler;
pub mod weight;

/// Between two looks at a condition that nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until `condition` holds and returns what it found; after `deadline` the test fails with its last complaint.
pub fn wait_for<T, E: Display>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(found) => return found,
            Err(complaint) if start.elapsed() >= deadline => {
                panic!("{what}: not within {deadline:?}; last: {complaint}")
            }
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// [`wait_for`] for tests that run in a tokio runtime.
pub async fn wait_until<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(found) => return found,
            Err(complaint) if start.elapsed() >= deadline => {
                panic!("{what}: not within {deadline:?}; last: {complaint}")
            }
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// A variable that says where something is without which the test cannot run; `from`: who sets it.
pub fn needed(variable: &str, from: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set ({from})"))
}

/// A folder of the wide suite: the recordings of the original. Tests that ask for it stand in modules called `wide_suite`,
/// which `make test` leaves out, and says so, where the suite is not there.
pub fn wide_suite(folder: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance").join(folder);
    assert!(path.is_dir(), "{} does not exist", path.display());
    path
}

/// `Ok` if it holds, else what was seen instead; for the conditions of [`wait_for`].
pub fn expect<S: std::fmt::Debug>(holds: bool, seen: S) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{seen:?}")) }
}
