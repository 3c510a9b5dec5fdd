//! A process that cannot be mistaken for a later one with the same number.
#![allow(unsafe_code, reason = "system calls that have no safe wrapper here")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::Outcome;

/// For how long a process that has ended may wait for its parent.
const REAPED: Duration = Duration::from_millis(20);
/// Between two questions how it ended, of which the kernel gives no sign.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A system call about a process failed.
#[derive(Debug, thiserror::Error)]
#[error("process {pid}: cannot {what}: {source}")]
pub struct ProcessError {
    /// The process.
    pub pid: i32,
    /// What was tried.
    pub what: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

/// A pidfd. The process need not be a child.
#[derive(Debug)]
pub struct PidFd {
    pid: i32,
    fd: OwnedFd,
}

impl PidFd {
    /// Opens the process; ESRCH if there is none.
    pub fn open(pid: i32) -> Result<Self, ProcessError> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::c_uint::default()) };
        let fd = i32::try_from(fd).unwrap_or(-1);
        if fd < 0 {
            return Err(ProcessError { pid, what: "open it", source: io::Error::last_os_error() });
        }
        // SAFETY: the descriptor is new and has no other owner.
        Ok(PidFd { pid, fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The process's number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal. A process that has ended already is an error with ESRCH.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        let number = signal as libc::c_int;
        // SAFETY: the descriptor is open; a null siginfo means "as kill(2) would".
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                number,
                std::ptr::null::<libc::siginfo_t>(),
                libc::c_uint::default(),
            )
        };
        match sent {
            0 => Ok(()),
            _ => Err(ProcessError { pid: self.pid, what: "signal it", source: io::Error::last_os_error() }),
        }
    }

    /// Blocks until the process has ended or `deadline` has passed; returns whether it has ended.
    pub fn wait_until(&self, deadline: Instant) -> Result<bool, ProcessError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that the loop does not spin through the last millisecond.
            let left = left + Duration::from_micros(999);
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(0) if Instant::now() >= deadline => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(ProcessError { pid: self.pid, what: "wait for it", source: errno.into() }),
            }
        }
    }

    /// Waits in the runtime until the process has ended, and returns how if the kernel reports it (Linux 6.15 or newer) and the
    /// process is reaped in time.
    pub async fn exited(self) -> Result<Option<Outcome>, ProcessError> {
        let failed = |source| ProcessError { pid: self.pid, what: "watch it", source };
        // SAFETY: the descriptor is owned and stays open for as long as the registration.
        let watched =
            unsafe { tokio::io::unix::AsyncFd::register_with_interest(self.fd, tokio::io::Interest::READABLE) }
                .map_err(|error| failed(error.into()))?;
        watched.readable().await.map(drop).map_err(failed)?;
        let reaped = async {
            loop {
                match outcome(watched.get_ref()) {
                    Ok(None) => tokio::time::sleep(LOOK_AGAIN).await,
                    Ok(outcome) => return outcome,
                    Err(_unknown_to_the_kernel) => return None,
                }
            }
        };
        Ok(tokio::time::timeout(REAPED, reaped).await.unwrap_or_default())
    }
}

/// How the process ended; none before its parent has waited for it.
fn outcome(pidfd: &OwnedFd) -> Result<Option<Outcome>, Errno> {
    // SAFETY: it is made of integers.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = libc::PIDFD_INFO_EXIT.into();
    // SAFETY: the kernel writes no more than the request says, which is the size of `info`.
    let asked = unsafe { libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    // ESRCH: the same as no answer, a zombie that is not reaped yet has no other information.
    match Errno::result(asked) {
        Ok(_) if info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0 => Ok(Outcome::from_wait(info.exit_code)),
        Ok(_) | Err(Errno::ESRCH) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn cat() -> std::process::Child {
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn waits_until_the_end_and_not_longer_than_the_deadline() {
        let mut child = cat();
        let pidfd = PidFd::open(child.id() as i32).unwrap();
        assert!(!pidfd.wait_until(Instant::now() + Duration::from_millis(10)).unwrap());
        pidfd.signal(Signal::SIGTERM).unwrap();
        assert!(pidfd.wait_until(Instant::now() + Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
        assert!(PidFd::open(child.id() as i32).is_err());
    }

    #[tokio::test]
    async fn runtime_hears_of_the_end() {
        let mut child = cat();
        let pidfd = PidFd::open(child.id() as i32).unwrap();
        let ended = tokio::spawn(pidfd.exited());
        drop(child.stdin.take());
        tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap().unwrap().unwrap();
        child.wait().unwrap();
    }

    /// An older kernel does not report it, which is not an error.
    #[test]
    fn kernel_tells_how_a_process_ended_once_it_is_reaped() {
        let mut child = cat();
        let pidfd = PidFd::open(child.id() as i32).unwrap();
        child.kill().unwrap();
        assert!(pidfd.wait_until(Instant::now() + Duration::from_secs(10)).unwrap());
        let before = outcome(&pidfd.fd);
        child.wait().unwrap();
        match outcome(&pidfd.fd) {
            Ok(after) => assert_eq!((before, after), (Ok(None), Some(Outcome::Signaled(9)))),
            Err(errno) => assert!(matches!(errno, Errno::ENOTTY | Errno::EINVAL), "{errno}"),
        }
    }
}
