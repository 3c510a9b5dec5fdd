//! Running one of the image's tools under a deadline.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::StorageError;

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
}

impl Default for Tools {
    fn default() -> Self {
        Tools {
            qemu_img: "qemu-img".into(),
            xorrisofs: "xorrisofs".into(),
            qemu_storage_daemon: "qemu-storage-daemon".into(),
            timings: Timings::default(),
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
}

/// Address space and CPU time limits for a tool that reads what a user made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub cpu_seconds: u64,
    pub address_space_bytes: u64,
}

/// Runs the tool; its standard output, unless it failed.
pub(super) async fn run<S: AsRef<OsStr>>(
    program: &Path,
    arguments: impl IntoIterator<Item = S>,
    job: Job<'_>,
    limits: Option<Limits>,
) -> Result<String, StorageError> {
    let Job { tool, what, path, deadline } = job;
    let failed = |output: String| StorageError::Tool { tool, what, path: path.to_owned(), output };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    if let Some(limits) = limits {
        use nix::sys::resource::{Resource, setrlimit};
        // SAFETY: setrlimit is a plain system call.
        unsafe {
            command.pre_exec(move || {
                setrlimit(Resource::RLIMIT_CPU, limits.cpu_seconds, limits.cpu_seconds)?;
                setrlimit(Resource::RLIMIT_AS, limits.address_space_bytes, limits.address_space_bytes)?;
                Ok(())
            });
        }
    }
    let mut child = command.spawn().map_err(|error| failed(format!("cannot start {}: {error}", program.display())))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (out, err) = tokio::join!(read(out), read(err));
        (finished(&mut child).await, out, err)
    };
    match tokio::time::timeout(deadline, work).await {
        Err(_) => Err(StorageError::TooSlow { tool, what, path: path.to_owned(), seconds: deadline.as_secs() }),
        Ok((Ok(status), out, _)) if status.success() => Ok(out),
        Ok((Ok(status), out, err)) => {
            let said = if err.trim().is_empty() { out } else { err };
            Err(failed(format!("{} ({status})", said.trim())))
        }
        Ok((Err(error), _, _)) => Err(failed(error.to_string())),
    }
}

async fn finished(child: &mut Child) -> std::io::Result<std::process::ExitStatus> {
    child.wait().await
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        // An unreadable stream is an empty one: the exit status decides.
        let _ = (&mut stream).take(OUTPUT).read_to_end(&mut bytes).await;
        // The rest must be taken too, or the tool would wait for a reader.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
