//! What a process weighs, as the kernel counts it: memory, and how often it was woken.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

/// Between two looks at the threads: well below the time that an idle one lives, so that few switches are missed of one
/// that ends.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A field of `smaps_rollup` (`Rss:`, `Pss:`, `Anonymous:`) in KiB.
pub fn rollup(pid: u32, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(field))?.trim().strip_suffix(" kB")?.parse().ok()
}

/// For how long its threads have run on a CPU so far, those that have ended not included.
#[allow(dead_code, reason = "the benchmark alone measures it")]
pub fn cpu_time(pid: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let of = |task: fs::DirEntry| {
        fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.filter_map(Result::ok).filter_map(of).sum())
}

/// How often all threads of a process were switched to in `time`, those that begin or end meanwhile included, by thread
/// name.
pub fn wake_ups(pid: u32, time: Duration) -> HashMap<String, u64> {
    let begun = Instant::now();
    let before = switches(pid);
    let mut last = before.clone();
    while begun.elapsed() < time {
        std::thread::sleep(LOOK_AGAIN);
        last.extend(switches(pid));
    }
    let mut by_name = HashMap::new();
    for (thread, (name, count)) in last {
        let earlier = before.get(&thread).map_or(0, |(_, count)| *count);
        *by_name.entry(name).or_default() += count - earlier;
    }
    by_name.retain(|_, count| *count > 0);
    by_name
}

/// Voluntary switches of each thread so far: it went to sleep and was woken. Of the others the machine's load decides.
fn switches(pid: u32) -> HashMap<u32, (String, u64)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return HashMap::new() };
    let of = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let count = field("voluntary_ctxt_switches:")?.parse().ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, (field("Name:")?.to_owned(), count)))
    };
    tasks.filter_map(Result::ok).filter_map(of).collect()
}
