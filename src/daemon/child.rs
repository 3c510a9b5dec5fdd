//! Starting a daemon as a direct child, which dies with the launcher unless its spec says otherwise.
//!
//! A libvirt daemon must not outlive the launcher: the next launcher starts its own, and two would fight over pid file and sockets.
//! The kernel's parent-death signal sees to that, but it watches the *thread* that forked, and the runtime's threads come
//! and go. So all daemons are forked by one thread that lives as long as the process.
#![allow(unsafe_code, reason = "what a child does between fork and exec")]

use std::io;
use std::process::Stdio;
use std::sync::{OnceLock, mpsc};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::hypervisor::DaemonSpec;
use crate::process::raise_ambient_net_bind_service;

type Job = Box<dyn FnOnce() + Send>;

/// The thread that forks, through its queue.
static FORKS: OnceLock<mpsc::Sender<Job>> = OnceLock::new();

fn forking_thread() -> io::Result<&'static mpsc::Sender<Job>> {
    if let Some(thread) = FORKS.get() {
        return Ok(thread);
    }
    let (sender, jobs) = mpsc::channel::<Job>();
    std::thread::Builder::new().name("daemons".into()).spawn(move || {
        for job in jobs {
            job();
        }
    })?;
    // If another caller was faster, this thread's queue ends here and the thread with it; it has no children.
    Ok(FORKS.get_or_init(|| sender))
}

/// Starts the daemon: own process group (a terminal's Ctrl-C is not for it), empty signal mask, standard input and output
/// at `/dev/null`, standard error a pipe if its log is to be forwarded. SIGKILL reaches it when the launcher ends in
/// whatever way, unless it is to outlive it.
pub(super) async fn spawn(spec: &DaemonSpec) -> io::Result<Child> {
    let mut command = Command::new(&spec.program);
    command.args(&spec.args).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(if spec.forward_log { Stdio::piped() } else { Stdio::null() });
    command.process_group(0).kill_on_drop(!spec.outlives_launcher);
    command.envs(spec.environment.iter().map(|(name, value)| (name, value)));
    if let Some(user) = &spec.run_as {
        tracing::info!("{} runs as uid {} although the launcher is root: {}", spec.name, user.uid, user.reason);
        command.uid(user.uid).gid(user.gid).envs(user.environment.iter().map(|(name, value)| (name, value)));
    }
    let parent = nix::unistd::getpid();
    let (net_bind_service, outlives) = (spec.ambient_net_bind_service, spec.outlives_launcher);
    // SAFETY: `prepare` makes system calls only, no allocation and no locks.
    unsafe {
        command.pre_exec(move || prepare(parent, net_bind_service, outlives));
    }
    let runtime = Handle::current();
    let (reply, child) = oneshot::channel();
    let job = move || {
        let _inside = runtime.enter();
        // Without a waiting task the child is killed as its handle is dropped.
        let _ = reply.send(command.spawn());
    };
    forking_thread()?.send(Box::new(job)).map_err(|_| gone())?;
    child.await.map_err(|_| gone())?
}

fn gone() -> io::Error {
    io::Error::other("the thread that starts daemons has ended")
}

/// Runs in the child between fork and exec.
fn prepare(parent: nix::unistd::Pid, net_bind_service: bool, outlives: bool) -> io::Result<()> {
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    if net_bind_service {
        // Where the container does not have it, the daemon does without it.
        let _ = raise_ambient_net_bind_service();
    }
    if outlives {
        return Ok(());
    }
    // After the capabilities, because a change of credentials clears it; execve keeps it, as the daemons have no file
    // capabilities of their own.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The launcher may have ended before that.
    if nix::unistd::getppid() != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}
