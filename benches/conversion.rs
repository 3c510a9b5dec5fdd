//! VMI to domain XML: how many per second, how much memory one takes.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use virt_launcher::convert::{Defines, HostFacts};
use virt_launcher::vmi;

use crate::report::Figure;

/// Measured stretches per VMI; the median counts.
const ROUNDS: usize = 5;
/// Length of one.
const ROUND: Duration = Duration::from_millis(400);

const VMIS: &[(&str, &str)] = &[("small", "small"), ("typical", "typical"), ("big", "64 vCPUs, 32 disks")];

pub fn figures() -> Vec<Figure> {
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
            "VMI JSON in, first define's XML out, one thread, optimised; median of {ROUNDS} times {} ms",
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
        how: format!("maximum resident set (wait4) of {which} domain-xml"),
    });
    rates.chain(heaps).chain(processes).collect()
}

fn convert(json: &[u8], facts: &HostFacts) -> String {
    let vmi = vmi::parse(black_box(json)).unwrap();
    Defines::new(&vmi, black_box(facts)).unwrap().xml()
}

fn rate(work: impl Fn() -> String) -> f64 {
    let round = || {
        let (start, mut count) = (Instant::now(), 0_u32);
        while start.elapsed() < ROUND {
            black_box(work());
            count += 1;
        }
        f64::from(count) / start.elapsed().as_secs_f64()
    };
    // The first warms up.
    round();
    let mut rates: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    rates.sort_by(f64::total_cmp);
    rates[ROUNDS / 2]
}

/// The released binary where there is one, else this build's.
fn program() -> (PathBuf, &'static str) {
    let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/dist/virt-launcher");
    match released.exists() {
        true => (released, "the released"),
        false => (PathBuf::from(env!("CARGO_BIN_EXE_virt-launcher")), "this build's (dynamic)"),
    }
}

/// The most memory that a process had, if it ended well.
fn peak_kib(command: &mut Command) -> Option<f64> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().ok()?;
    let pid = libc::pid_t::try_from(child.id()).ok()?;
    let mut status = 0;
    // SAFETY: plain numbers, for which zeros are a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call; the child is ours and nobody else waits for it.
    let waited = unsafe { libc::wait4(pid, &mut status, 0, &mut usage) };
    (waited == pid && status == 0).then(|| usage.ru_maxrss as f64)
}
