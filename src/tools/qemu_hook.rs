//! libvirt's `qemu` hook (contract/lifecycle.md 10.3): hands an incoming migration's XML to the launcher of the target
//! pod, and leaves the mark of a finished migration. Everything else is none of its business.
#![allow(unsafe_code, reason = "a test changes the length of a queue")]

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use crate::hooks::pre_migration::{SOCKET, exchange};

/// Made when a migration away from here is complete.
const MIGRATED: &str = "/run/kubevirt-private/backend-storage-meta/migrated";
/// For the whole exchange, from the first byte that libvirt hands over on.
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs the hook: `arguments` are `<domain> <operation> <sub-operation> <extra>`.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let done = match words.as_slice() {
        [_, "migrate", "begin", ..] => within(DEADLINE, |step| {
            exchange(Path::new(SOCKET), step, &mut io::stdin().lock(), &mut io::stdout().lock())
        }),
        [_, "release", "end", "migrated", ..] => std::fs::File::create(MIGRATED)
            .map(drop)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot make {MIGRATED}: {error}"))),
        _ => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Hook failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The log of the exchange.
enum Told {
    /// What it is about to do.
    Step(&'static str),
    /// How it ended.
    Ended(io::Result<()>),
}

/// Runs `exchange` in a thread of its own, since no step of it, neither connecting nor reading libvirt's end, can be
/// counted on to end; after `deadline` it is left behind and ends with the process.
fn within(
    deadline: Duration,
    exchange: impl FnOnce(&dyn Fn(&'static str)) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let (tell, told) = mpsc::channel();
    let end = Instant::now() + deadline;
    std::thread::Builder::new().spawn(move || {
        let step = |sender: &Sender<Told>, told| drop(sender.send(told));
        let ended = exchange(&|what| step(&tell, Told::Step(what)));
        step(&tell, Told::Ended(ended));
    })?;
    let mut doing = "begin";
    loop {
        match told.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(Told::Step(next)) => doing = next,
            Ok(Told::Ended(ended)) => return ended,
            Err(RecvTimeoutError::Timeout) => {
                let text = format!("cannot {doing} within {} s", deadline.as_secs_f32());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other(format!("cannot {doing}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    /// Why the exchange over `path` is given up, when libvirt's end of `xml` is read first.
    fn given_up(path: &Path, mut xml: impl Read + Send + 'static) -> String {
        let path = path.to_owned();
        let result = within(Duration::from_millis(100), move |step| exchange(&path, step, &mut xml, &mut io::sink()));
        result.unwrap_err().to_string()
    }

    #[test]
    fn whoever_is_silent_is_given_up_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let xml = || b"<domain/>".as_slice();
        assert_eq!(given_up(&path, xml()), "cannot read the launcher's answer within 0.1 s");
        let (libvirt, _open) = UnixStream::pair().unwrap();
        assert_eq!(given_up(&path, libvirt), "cannot read libvirt's XML within 0.1 s");
        // The listener does not accept, and its queue is full with the first client.
        // SAFETY: the descriptor is open; listening again changes the queue's length alone.
        assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 0) }, 0);
        assert_eq!(given_up(&path, xml()), "cannot connect to the launcher within 0.1 s");
    }

    #[test]
    fn other_operations_are_ignored() {
        for words in [&["vm", "prepare", "begin", "-"][..], &["vm"], &[], &["vm", "release", "end", "-"]] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert_eq!(format!("{:?}", run(&words)), format!("{:?}", ExitCode::SUCCESS));
        }
    }
}
