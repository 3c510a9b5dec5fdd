//! Ends the containers that this process started, however it ends: a shell in a process group of its own waits until its
//! standard input is closed, which the kernel does even after SIGKILL.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// `$1` is podman, `$2` what the containers' names begin with, `$3` a folder to remove. `podman run` may still be under way
/// when its caller dies: only containers that are absent three times in a row are absent.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
absent=0 looks=0
while [ $absent -lt 3 ] && [ $looks -lt 60 ]; do
    looks=$((looks + 1))
    found=$("$1" ps -aq --filter "name=^$2" </dev/null 2>/dev/null)
    if [ -n "$found" ]; then
        absent=0
        "$1" rm -f -t 0 $found </dev/null >/dev/null 2>&1
    else
        absent=$((absent + 1))
        sleep 0.2
    fi
done
rm -rf "$3"
"#;

/// Ends containers when this process ends, or earlier when asked.
pub struct Guard {
    /// `None` once it has ended them.
    shell: Mutex<Option<Child>>,
}

impl Guard {
    /// Guards all containers whose names begin with `prefix`, and `folder`.
    ///
    /// # Errors
    /// The shell cannot be started.
    pub fn new(podman: &OsStr, prefix: &str, folder: &Path) -> std::io::Result<Self> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT, "guard"]).arg(podman).arg(prefix).arg(folder);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        Ok(Guard { shell: Mutex::new(Some(shell.spawn()?)) })
    }

    /// Starts a container, unless all were ended: then the process is about to exit, and this never returns.
    pub fn start<T>(&self, start: impl FnOnce() -> T) -> T {
        let shell = self.shell.lock().unwrap_or_else(PoisonError::into_inner);
        if shell.is_none() {
            drop(shell);
            loop {
                std::thread::park();
            }
        }
        start()
    }

    /// Ends all containers and returns once they are gone. Waits for the one that is being started.
    pub fn end(&self) {
        if let Some(mut shell) = self.shell.lock().unwrap_or_else(PoisonError::into_inner).take() {
            drop(shell.stdin.take());
            let _ = shell.wait();
        }
    }

    /// The shell's process.
    pub fn pid(&self) -> Option<u32> {
        self.shell.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Child::id)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end();
    }
}
