//! VMI to domain XML: how many per second, how much memory one takes.

use std::hint::black_box;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike as _};
use virt_launcher::convert::{Defines, HostFacts};
use virt_launcher::vmi;

use crate::Run;
use crate::support::figures::report::Figure;

/// Measured stretches per VMI; the median counts.
const ROUNDS: usize = 5;
/// Length of one.
const ROUND: Duration = Duration::from_millis(400);

/// For a process to convert a VMI.
const PATIENCE: Duration = Duration::from_secs(20);

/// File in tests/vmis, and what it is called.
const VMIS: &[(&str, &str)] = &[("small", "small"), ("typical", "typical"), ("big", "64 vCPUs, 32 disks")];

pub fn figures(run: &Run) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vmis");
    let context = folder.join("facts.json");
    let facts: HostFacts = serde_json::from_str(&std::fs::read_to_string(&context).unwrap()).unwrap();
    let documents: Vec<(&str, PathBuf, Vec<u8>)> = VMIS
        .iter()
        .map(|(file, name)| {
            let path = folder.join(format!("{file}.yaml"));
            let vmi = vmi::parse_document(&std::fs::read_to_string(&path).unwrap()).unwrap();
            (*name, path, serde_json::to_vec(&vmi).unwrap())
        })
        .collect();
    let rates = documents.iter().map(|(name, _, json)| Figure {
        name: format!("{name}: conversions"),
        value: Some(rate(|| convert(json, &facts))),
        unit: "1/s",
        how: format!(
            "VMI JSON in, first define's XML out, per second of CPU time; median of {ROUNDS} times {} ms",
            ROUND.as_millis()
        ),
    });
    let heaps = documents.iter().map(|(name, _, json)| Figure {
        name: format!("{name}: heap of one conversion"),
        value: Some(crate::HEAP.peak_of(|| convert(json, &facts)).1 as f64 / 1024.0),
        unit: "KiB",
        how: "most bytes allocated at a time, counted in the allocator".to_owned(),
    });
    let (program, which) = program();
    let processes = documents.iter().map(|(name, path, _)| Figure {
        name: format!("{name}: peak memory of the process"),
        value: peak_kib(Command::new(&program).arg("domain-xml").arg(path).arg("--context").arg(&context)),
        unit: "KiB",
        how: format!("VmHWM of {which} domain-xml --context, when it prints"),
    });
    rates.chain(heaps).chain(processes).for_each(|figure| run.add(figure));
}

fn convert(json: &[u8], facts: &HostFacts) -> String {
    let vmi = vmi::parse(black_box(json)).unwrap();
    Defines::new(&vmi, black_box(facts)).unwrap().xml()
}

/// Runs of `work` in a second of CPU time.
fn rate(work: impl Fn() -> String) -> f64 {
    let round = || {
        let (start, mut count) = (cpu_time(), 0_u32);
        while cpu_time() - start < ROUND {
            black_box(work());
            count += 1;
        }
        f64::from(count) / (cpu_time() - start).as_secs_f64()
    };
    // The first warms up.
    round();
    let mut rates: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    rates.sort_by(f64::total_cmp);
    rates[ROUNDS / 2]
}

/// What this thread has had of a CPU: a busy machine shows the same as an idle one.
fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let part = |time: TimeVal| Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap());
    part(usage.user_time()) + part(usage.system_time())
}

/// The released binary where there is one, else this build's.
fn program() -> (PathBuf, &'static str) {
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/dist/virt-launcher");
    match released.exists() {
        true => (released, "the released"),
        false => (PathBuf::from(env!("CARGO_BIN_EXE_virt-launcher")), "this build's (dynamic)"),
    }
}

/// The most memory that a process had up to its first output, which it waits to be rid of: its pipe is full.
///
/// `wait4` would be no use: what it says of a child is never less than what this process had when it started the child.
fn peak_kib(command: &mut Command) -> Option<f64> {
    let (_reader, mut writer) = std::io::pipe().ok()?;
    // A page is the least that a pipe holds.
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).ok()?;
    writer.write_all(&vec![0; usize::try_from(size).ok()?]).ok()?;
    let mut child = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::null()).spawn().ok()?;
    let status = format!("/proc/{}/status", child.id());
    let deadline = Instant::now() + PATIENCE;
    let peak = loop {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        match field("State:\t").and_then(|state| state.chars().next()) {
            // Waiting, and for files nothing waits like this.
            Some('S') => {
                break field("VmHWM:").and_then(|size| size.trim().strip_suffix(" kB")?.parse().ok());
            }
            Some('R' | 'D') if Instant::now() < deadline => std::thread::yield_now(),
            // It has ended before it printed anything.
            _ => break None,
        }
    };
    child.kill().ok()?;
    child.wait().ok()?;
    peak
}
