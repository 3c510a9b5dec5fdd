//! The pipes that a hypervisor writes its own log and that of the guest's console into.
//!
//! virtlogd reads them. When it has died, the one after it does not know them, and libvirt makes new ones only for the next
//! start of a VM: the hypervisor would write into the void until its end. The same is so when virtlogd cannot write, such as
//! to a disk that is full: it closes the pipe and goes on. So whatever it does not read any more is read here.
//!
//! Nothing is lost between the one reader and the other: a reading end of each pipe is held here, so that the kernel keeps
//! what is written. It keeps 64 KiB; a hypervisor with more to say waits, which it does only while both this launcher and
//! virtlogd stand still, for one that dies closes its ends.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;

use crate::daemon::DaemonState;
use crate::daemon::logs::copy_log;
use crate::launcher::guest::Guest;
use crate::launcher::vm::process::Tracker;
use crate::process::{HeldPipe, PipeEnd, read_pipes, written_pipes};

/// A hypervisor's standard error, which libvirt makes its own log.
const STANDARD_ERROR: i32 = 2;
/// How long something may lie in a pipe until it is looked whether virtlogd still reads it.
const UNREAD: Duration = Duration::from_secs(1);

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
    /// It does not: the pipe has no reader.
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

/// Pipes that virtlogd reads, by their numbers.
type Held = BTreeMap<u64, HeldPipe>;

/// Reads what virtlogd leaves unread, for as long as both can be watched. `was_started`: the hypervisor runs since a
/// previous launcher, which may have been the reader. While neither is so, only pipes that virtlogd has read are touched: a
/// hypervisor that is being started has others, with which libvirt leads it.
pub(super) async fn watch(
    mut virtlogd: watch::Receiver<DaemonState>,
    tracker: Tracker,
    was_started: bool,
    files: LogFiles,
    guest: Guest,
) {
    let mut process = tracker.subscribe();
    let (mut taken, mut held, mut died) = (Vec::new(), Held::new(), false);
    loop {
        let reader = reader(&virtlogd.borrow_and_update());
        process.borrow_and_update();
        let hypervisor = tracker.pid();
        died |= reader == Reader::Gone && hypervisor.is_some();
        let Some(hypervisor) = hypervisor else {
            held.clear();
            tokio::select! {
                changed = virtlogd.changed() => if changed.is_err() { return },
                changed = process.changed() => if changed.is_err() { return },
            }
            continue;
        };
        let wanted = |number: &u64| died || was_started || held.contains_key(number);
        match take_over(hypervisor, reader, &files, &mut taken, wanted) {
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
        held.retain(|number, _| !taken.contains(number));
        if let Err(error) = hold(hypervisor, reader, &taken, &mut held) {
            tracing::debug!("cannot hold the pipes of the VM's logs: {error}");
        }
        tokio::select! {
            changed = virtlogd.changed() => if changed.is_err() { return },
            changed = process.changed() => if changed.is_err() { return },
            () = left_unread(&held) => {}
        }
    }
}

/// Holds what this virtlogd reads of the hypervisor.
fn hold(hypervisor: i32, reader: Reader, taken: &[u64], held: &mut Held) -> io::Result<()> {
    let Reader::Runs(virtlogd) = reader else { return Ok(()) };
    let read = read_pipes(virtlogd)?;
    for (number, end) in written_pipes(hypervisor)? {
        if read.contains_key(&number) && !taken.contains(&number) && !held.contains_key(&number) {
            held.insert(number, HeldPipe::open(&end)?);
        }
    }
    Ok(())
}

/// Returns when something has lain in one of the pipes for a while.
async fn left_unread(held: &Held) {
    loop {
        poll_fn(|context| {
            // Each of them, so that each wakes this task.
            let written = held.values().filter(|pipe| pipe.poll_written(context).is_ready()).count();
            if written > 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        tokio::time::sleep(UNREAD).await;
        if held.values().any(HeldPipe::has_unread) {
            return;
        }
    }
}

/// Reads each pipe of the hypervisor that is `wanted` and that nobody else reads; how many there were. `taken` are those that
/// this launcher reads.
fn take_over(
    hypervisor: i32,
    reader: Reader,
    files: &LogFiles,
    taken: &mut Vec<u64>,
    wanted: impl Fn(&u64) -> bool,
) -> io::Result<usize> {
    let read = match reader {
        Reader::Runs(pid) => read_pipes(pid)?,
        Reader::Gone => BTreeMap::new(),
        Reader::Unknown => return Ok(0),
    };
    let mut unread = written_pipes(hypervisor)?;
    unread.retain(|number, _| wanted(number) && !read.contains_key(number) && !taken.contains(number));
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

/// The pipe of the hypervisor's own log and that of the console. Of more than two pipes it is not known which is which.
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
            assert_eq!(take_over(own, reader(&state), &files, &mut Vec::new(), |_| true).unwrap(), 0);
        }
        assert_eq!(reader(&DaemonState::Failed { reason: String::new() }), Reader::Gone);
    }
}
