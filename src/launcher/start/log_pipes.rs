//! The pipes that a hypervisor writes its own log and that of the guest's console into.
//!
//! virtlogd reads them. When it has died, the one after it does not know them, and libvirt makes new ones only for the next
//! start of a VM: the hypervisor would write into the void until its end. So whatever nobody reads any more is read here.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use tokio::sync::watch;

use crate::daemon::DaemonState;
use crate::daemon::logs::copy_log;
use crate::launcher::guest::Guest;
use crate::launcher::vm::process::Tracker;
use crate::process::{PipeEnd, read_pipes, written_pipes};

/// A hypervisor's standard error, which libvirt makes its own log.
const STANDARD_ERROR: i32 = 2;

/// The files that virtlogd writes.
#[derive(Debug, Clone)]
pub(super) struct LogFiles {
    /// libvirt's log of the hypervisor.
    pub(super) hypervisor: Option<PathBuf>,
    /// What the guest writes to its serial console.
    pub(super) console: PathBuf,
}

/// What is known of virtlogd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// It runs.
    Runs(i32),
    /// It does not: nobody reads.
    Gone,
    /// It may come up any moment.
    Unknown,
}

fn reader(state: &DaemonState) -> Reader {
    match state {
        DaemonState::Running { pid, .. } => Reader::Runs(*pid),
        DaemonState::Backoff { .. } | DaemonState::Failed { .. } => Reader::Gone,
        DaemonState::Waiting { .. } | DaemonState::Starting { .. } | DaemonState::Stopped => Reader::Unknown,
    }
}

/// Takes over what virtlogd leaves unread, for as long as both can be watched. `inherited`: the hypervisor runs since an
/// earlier launcher, which may have been the reader. While neither is so, no pipe is touched: a hypervisor that is being
/// started has others, with which libvirt leads it.
pub(super) async fn watch(
    mut virtlogd: watch::Receiver<DaemonState>,
    tracker: Tracker,
    inherited: bool,
    files: LogFiles,
    guest: Guest,
) {
    let mut process = tracker.subscribe();
    let (mut taken, mut died) = (Vec::new(), false);
    loop {
        let reader = reader(&virtlogd.borrow_and_update());
        process.borrow_and_update();
        died |= reader == Reader::Gone && tracker.pid().is_some();
        if let Some(hypervisor) = tracker.pid().filter(|_| died || inherited) {
            match take_over(hypervisor, reader, &files, &mut taken) {
                Ok(0) => {}
                Ok(count) => tracing::warn!(
                    "virtlogd has left {count} logs of the VM without a reader: the launcher writes them from now on"
                ),
                // Where another user's processes cannot be looked at, as in a pod of root, all is well until virtlogd dies.
                Err(error) if !died => tracing::debug!("cannot see who reads the VM's logs: {error}"),
                Err(error) => {
                    let message = format!(
                        "virtlogd has ended, and the log of the VM's console stands still until the VM is started anew: {error}"
                    );
                    tracing::error!("{message}");
                    guest.warning("ConsoleLogLost", message);
                    return;
                }
            }
        }
        tokio::select! {
            changed = virtlogd.changed() => if changed.is_err() { return },
            changed = process.changed() => if changed.is_err() { return },
        }
    }
}

/// Reads each pipe of the hypervisor that nobody reads; how many there were. `taken` are those that this launcher reads.
fn take_over(hypervisor: i32, reader: Reader, files: &LogFiles, taken: &mut Vec<u64>) -> io::Result<usize> {
    let read = match reader {
        Reader::Runs(pid) => read_pipes(pid)?,
        Reader::Gone => BTreeMap::new(),
        Reader::Unknown => return Ok(0),
    };
    let mut unread = written_pipes(hypervisor)?;
    unread.retain(|number, _| !read.contains_key(number) && !taken.contains(number));
    let (own, console) = split(unread)?;
    let own = own.zip(files.hypervisor.clone());
    let console = console.map(|end| (end, files.console.clone()));
    let mut count = 0;
    for ((number, end), file) in own.into_iter().chain(console) {
        copy_log(end.read()?, file)?;
        taken.push(number);
        count += 1;
    }
    Ok(count)
}

type Pipe = (u64, PipeEnd);

/// The pipe of the hypervisor's own log and that of the console. With more than these nobody can say which is which.
fn split(written: BTreeMap<u64, PipeEnd>) -> io::Result<(Option<Pipe>, Option<Pipe>)> {
    let is_own = |end: &PipeEnd| end.descriptor <= STANDARD_ERROR;
    let (own, others): (Vec<Pipe>, Vec<Pipe>) = written.into_iter().partition(|(_, end)| is_own(end));
    if others.len() > 1 {
        return Err(io::Error::other(format!("the hypervisor writes into {} pipes", others.len())));
    }
    Ok((own.into_iter().next(), others.into_iter().next()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipes(ends: &[(u64, i32)]) -> BTreeMap<u64, PipeEnd> {
        ends.iter().map(|(number, descriptor)| (*number, PipeEnd { pid: 1, descriptor: *descriptor })).collect()
    }

    #[test]
    fn pipes_are_distinguished_by_their_descriptors() {
        let number = |pipe: Option<Pipe>| pipe.map(|(number, _)| number);
        let (own, console) = split(pipes(&[(400, 1), (395, 6)])).unwrap();
        assert_eq!((number(own), number(console)), (Some(400), Some(395)));
        let (own, console) = split(pipes(&[(400, 2)])).unwrap();
        assert_eq!((number(own), number(console)), (Some(400), None));
        assert!(split(pipes(&[(400, 2), (395, 6), (396, 7)])).is_err());
    }

    #[test]
    fn while_virtlogd_is_on_its_way_nothing_is_taken() {
        let files = LogFiles { hypervisor: None, console: "/nowhere/log".into() };
        let own = i32::try_from(std::process::id()).unwrap();
        for state in [DaemonState::Starting { generation: 2 }, DaemonState::Stopped] {
            assert_eq!(take_over(own, reader(&state), &files, &mut Vec::new()).unwrap(), 0);
        }
        assert_eq!(reader(&DaemonState::Failed { reason: String::new() }), Reader::Gone);
    }
}
