//! Running one of the image's tools with few privileges and under a deadline.
#![allow(unsafe_code, reason = "what a child does between fork and exec")]

use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::{Staged, StorageError};
use crate::process::keep_only_access_to_files;

/// How long tools may take.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// qemu-img.
    pub image: Duration,
    /// The ISO tool. The original's 10 s fire on loaded nodes (contract/lifecycle.md 12.23).
    pub iso: Duration,
    /// Growing a disk, whose new blocks may have to be allocated.
    pub growth: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Timings { image: Duration::from_secs(30), iso: Duration::from_secs(30), growth: Duration::from_secs(60) }
    }
}

/// The tools, and how long each may take.
#[derive(Debug, Clone)]
pub struct Tools {
    /// Makes and inspects images; found by PATH unless it has a path.
    pub qemu_img: PathBuf,
    /// Makes ISO 9660 images.
    pub xorrisofs: PathBuf,
    /// Makes overlays for changed block tracking.
    pub qemu_storage_daemon: PathBuf,
    /// Deadlines.
    pub timings: Timings,
    /// `--disk-memory-limit`: bytes of address space for a tool that reads an untrusted image. `None` sets no limit.
    pub image_memory: Option<u64>,
}

impl Default for Tools {
    fn default() -> Self {
        Tools {
            qemu_img: "qemu-img".into(),
            xorrisofs: "xorrisofs".into(),
            qemu_storage_daemon: "qemu-storage-daemon".into(),
            timings: Timings::default(),
            image_memory: None,
        }
    }
}

/// Most of a tool's output that is kept.
const OUTPUT: u64 = 256 * 1024;

/// What a tool is to do, for messages.
pub(super) struct Job<'a> {
    /// Its name.
    pub tool: &'static str,
    /// The verb.
    pub what: &'static str,
    /// The object.
    pub path: &'a Path,
    /// Its deadline.
    pub deadline: Duration,
    /// The file that it makes.
    pub makes: Makes<'a>,
}

/// The file that a tool makes.
#[derive(Clone, Copy)]
pub(super) enum Makes<'a> {
    /// None.
    Nothing,
    /// The one whose path ([`Staged::at`]) is among its arguments.
    At(&'a Staged),
    /// It writes it to its standard output.
    Output(&'a Staged),
}

/// Limits for a tool that reads what a user made; `None` sets none.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// Seconds of processor time.
    pub(super) cpu_seconds: Option<u64>,
    /// Bytes of address space.
    pub(super) address_space_bytes: Option<u64>,
}

impl Limits {
    /// Makes them the tool's own before it runs.
    pub(super) fn apply(self, command: &mut Command) {
        use nix::sys::resource::{Resource, setrlimit};
        let limits = [(Resource::RLIMIT_CPU, self.cpu_seconds), (Resource::RLIMIT_AS, self.address_space_bytes)];
        let set = move || {
            for (resource, limit) in limits {
                if let Some(limit) = limit {
                    setrlimit(resource, limit, limit)?;
                }
            }
            Ok(())
        };
        // SAFETY: setrlimit is a plain system call.
        unsafe { command.pre_exec(set) };
    }
}

/// A tool that has access to files and no other privilege (`SECURITY.md`), that dies with its handle and whose output is read.
/// It inherits the file that it is to make, which must stay open until it has been started.
pub(super) fn confined(program: &Path, inherits: Option<&Staged>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let inherited = inherits.map(|staged| staged.file().as_raw_fd());
    let prepare = move || {
        keep_only_access_to_files()?;
        // SAFETY: a system call on a number; the launcher's descriptor stays as it is.
        match inherited.map(|fd| unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }) {
            Some(-1) => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: system calls only.
    unsafe { command.pre_exec(prepare) };
    command
}

/// Runs the tool; its standard output, unless it failed.
pub(super) async fn run<S: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = S>,
    job: Job<'_>,
    limits: Limits,
) -> Result<String, StorageError> {
    let Job { tool, what, path, deadline, makes } = job;
    let failed = |output: String| StorageError::Tool { tool, what, path: path.to_owned(), output };
    let inherits = if let Makes::At(staged) = makes { Some(staged) } else { None };
    let mut command = confined(program, inherits);
    command.args(arguments);
    if let Makes::Output(staged) = makes {
        command.stdout(staged.file().try_clone().map_err(|error| failed(error.to_string()))?);
    }
    limits.apply(&mut command);
    let work = async {
        let mut child = command.spawn().map_err(|error| format!("cannot start {}: {error}", program.display()))?;
        let (out, err) = tokio::join!(read(child.stdout.take()), read(child.stderr.take()));
        let status = child.wait().await.map_err(|error| error.to_string())?;
        if status.success() {
            return Ok(out);
        }
        let said = if err.trim().is_empty() { out } else { err };
        Err(format!("{} ({status})", said.trim()))
    };
    within((tool, what, path), deadline, work).await
}

/// Gives what a tool is to do its deadline; a text that says why it failed becomes an error that says who, what and where.
pub(super) async fn within<T>(
    (tool, what, path): (&'static str, &'static str, &Path),
    deadline: Duration,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, StorageError> {
    match tokio::time::timeout(deadline, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(output)) => Err(StorageError::Tool { tool, what, path: path.to_owned(), output }),
        Err(_) => Err(StorageError::TooSlow { tool, what, path: path.to_owned(), seconds: deadline.as_secs() }),
    }
}

pub(super) async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        // An unreadable stream is an empty one: the exit status decides.
        let _ = (&mut stream).take(OUTPUT).read_to_end(&mut bytes).await;
        // The rest must be taken too, or the tool would wait for a reader.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tool_has_access_to_files_and_no_other_privilege() {
        let job = Job {
            tool: "cat",
            what: "read",
            path: Path::new("status"),
            deadline: Duration::from_secs(30),
            makes: Makes::Nothing,
        };
        let status = run(Path::new("cat"), ["/proc/self/status"], job, Limits::default()).await.unwrap();
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        let word = |text: &str, name: &str| {
            let word = text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
            u64::from_str_radix(word, 16).unwrap()
        };
        let dac_override = 1 << 1;
        for set in ["CapPrm:", "CapEff:"] {
            assert_eq!(word(&status, set), word(&own, "CapPrm:") & dac_override, "{set} {status}");
        }
        assert_eq!((word(&status, "CapInh:"), word(&status, "CapAmb:")), (0, 0), "{status}");
        assert_eq!(word(&status, "NoNewPrivs:"), 1, "{status}");
    }
}
