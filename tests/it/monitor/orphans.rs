//! Orphans by the thousand: none stays a zombie.
#![allow(unsafe_code, reason = "processes are forked by the thousand")]

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::container::{Container, Seen, children, eventually};

#[test]
fn orphans_by_the_thousand_leave_no_zombie() {
    let container = Container::new(
        "exec \"$HELPER\" --ignored --exact monitor::orphans::helper_process_maker_of_orphans --nocapture >/dev/null",
    );
    let release = container.fifo("release");
    let monitor = container.start(&[]);
    let mut zombies: HashMap<i32, Zombie> = HashMap::new();
    let mut oldest = Duration::ZERO;
    let mut sample = || {
        let seen = children(monitor.pid());
        for Seen { pid, after, before, .. } in seen.iter().filter(|child| child.state == 'Z') {
            let new = || Zombie { since: *before, seen: *after, starved: starved(monitor.pid()) };
            zombies.entry(*pid).or_insert_with(new).seen = *after;
        }
        let starved = starved(monitor.pid());
        zombies.retain(|pid, zombie| {
            let still_there = seen.iter().any(|child| child.pid == *pid && child.state == 'Z');
            if !still_there {
                let age = zombie.seen.saturating_duration_since(zombie.since);
                oldest = oldest.max(age.saturating_sub(starved.saturating_sub(zombie.starved)));
            }
            still_there
        });
        seen.len()
    };
    eventually("10,000 orphans", || {
        sample();
        container.path("first").exists().then_some(())
    });
    assert_eq!(container.read("first"), "10000");
    // The launcher, and orphans that wait to die all at once.
    eventually("a crowd of orphans", || (sample() == 1 + CROWD).then_some(()));
    drop(OpenOptions::new().write(true).open(&release).unwrap());
    eventually("only the launcher is left", || (sample() == 1).then_some(()));
    drop(OpenOptions::new().write(true).open(&release).unwrap());
    assert_eq!(monitor.wait(), 42);
    println!("oldest zombie: {oldest:?} of the monitor's own time");
    assert!(oldest < Duration::from_millis(100), "a zombie was {oldest:?} old");
    assert!(!container.read("log").contains("\"level\":\"error\",\"msg\":\"Break"), "no children is no error");
}

/// A zombie between the first and the last time that it was seen.
struct Zombie {
    since: Instant,
    seen: Instant,
    /// How long the monitor had waited for a processor at the first time; what others take is not its fault.
    starved: Duration,
}

/// How long a process has been ready to run without running, from the second field of `schedstat`.
fn starved(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    let waited = stat.split_whitespace().nth(1).and_then(|waited| waited.parse().ok());
    Duration::from_nanos(waited.unwrap_or_default())
}

/// Orphans that die together.
const CROWD: usize = 300;

#[test]
#[ignore = "a helper process, the launcher of orphans_by_the_thousand_leave_no_zombie"]
fn helper_process_maker_of_orphans() {
    let directory = PathBuf::from(std::env::var_os("DIR").unwrap());
    // Ends when the test has opened and closed the FIFO.
    let released = || File::open(directory.join("release")).unwrap().read_to_end(&mut Vec::new()).unwrap();
    let mut made = 0;
    for _ in 0..10_000 {
        made += usize::from(orphan(None));
    }
    fs::write(directory.join("first.new"), made.to_string()).unwrap();
    fs::rename(directory.join("first.new"), directory.join("first")).unwrap();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    for _ in 0..CROWD {
        assert!(orphan(Some((&reader, &writer))));
    }
    released();
    drop(writer);
    released();
    // SAFETY: ends the process with a code that the test harness would not give.
    unsafe { libc::_exit(42) }
}

/// Makes a grandchild whose parent ends at once. It ends at once too, or when the other end of the pipe is closed.
fn orphan(until: Option<(&std::os::fd::OwnedFd, &std::os::fd::OwnedFd)>) -> bool {
    use std::os::fd::AsRawFd;
    // SAFETY: the children make system calls only.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            if libc::fork() == 0
                && let Some((reader, writer)) = until
            {
                libc::close(writer.as_raw_fd());
                let mut byte = 0u8;
                libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1);
            }
            libc::_exit(0);
        }
        let mut status = 0;
        child > 0 && libc::waitpid(child, &raw mut status, 0) == child
    }
}
