//! What the monitor and a launcher that adopts a VM know of each other: names, and nothing more.

use std::path::{Path, PathBuf};

use crate::domain::PRIVATE_DIR;
use crate::files::is_component;

/// The environment variable with the number of launchers before this one; absent for the first one.
pub const ATTEMPT: &str = "VIRT_LAUNCHER_ADOPTION";
/// The environment variable with the milliseconds since the first termination signal, if there was one.
pub const TERMINATING_FOR: &str = "VIRT_LAUNCHER_TERMINATING_FOR_MS";

/// What a launcher remembers for the next one, in the VM's folder below [`PRIVATE_DIR`].
pub const STATE_FILE: &str = "launcher-state.json";

/// The beginning of the monitor's name that `comm` shows.
const MONITOR: &str = "virt-launcher-m";

/// The monitor that started this launcher: all processes of the VM descend from it. None for a launcher that runs by itself.
pub fn monitor() -> Option<i32> {
    let parent = nix::unistd::getppid().as_raw();
    let comm = std::fs::read_to_string(format!("/proc/{parent}/comm")).ok()?;
    comm.starts_with(MONITOR).then_some(parent)
}

/// The state file of the VMI with this UID; none if the UID is not a single file name.
pub fn state_file(uid: &str) -> Option<PathBuf> {
    is_component(uid).then(|| Path::new(PRIVATE_DIR).join(uid).join(STATE_FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_leads_nowhere_else() {
        assert_eq!(state_file("u-1").unwrap(), Path::new("/var/run/kubevirt-private/u-1/launcher-state.json"));
        for uid in ["", ".", "..", "../x", "/etc", "a/b", "a\0b"] {
            assert_eq!(state_file(uid), None, "{uid:?}");
        }
    }
}
