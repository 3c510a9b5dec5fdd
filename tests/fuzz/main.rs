//! Random mutations of real documents: whatever comes in, the readers answer with a document or an error.
//!
//! `make fuzz SECONDS=60` runs with a new seed; `cargo test` runs a few thousand inputs of a fixed one. An input that
//! fails is left in `target/fuzz/`, and `FUZZ_INPUT=file make fuzz` runs it alone;
//! `FUZZ_ONLY=convert` takes the targets with that in their name. Coverage-guided fuzzing would need a
//! nightly compiler.
#![allow(clippy::disallowed_methods, reason = "a test waits for its own folders")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod mutate;
mod targets;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mutate::{Corpus, Random};
use targets::TARGETS;

/// Inputs per target when no time is given.
const INPUTS: u64 = 400;
/// An input that takes longer is a failure: reading a few kilobytes is a matter of milliseconds, even unoptimized.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if !is_wanted(std::env::args().skip(1)) {
        return ExitCode::SUCCESS;
    }
    if let Some(input) = variable("FUZZ_INPUT") {
        return replay(Path::new(&input));
    }
    let seconds: Option<u64> = variable("FUZZ_SECONDS").map(|text| text.parse().unwrap());
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = variable("FUZZ_SEED").map_or(if seconds.is_some() { fresh } else { 1 }, |text| text.parse().unwrap());
    println!("fuzz: seed {seed} (FUZZ_SEED={seed} repeats it)");
    if !targets::wide_suite().is_dir() {
        println!("fuzz: without the wide suite's documents: {} does not exist", targets::wide_suite().display());
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
    std::fs::create_dir_all(&folder).unwrap();
    std::panic::set_hook(Box::new(|_| {}));
    let mut failed = false;
    let only = variable("FUZZ_ONLY").unwrap_or_default();
    let targets: Vec<_> = TARGETS.iter().filter(|target| target.name.contains(&only)).collect();
    for target in &targets {
        let share = seconds.map(|seconds| Duration::from_secs(seconds) / targets.len() as u32);
        failed |= !run(target, seed, share, &folder);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Whether the words of the standard test runner, by which `cargo test` calls this program, ask for it.
fn is_wanted(mut arguments: impl Iterator<Item = String>) -> bool {
    let (mut wanted, mut skipped) = (Vec::new(), Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // It is never ignored, and it has nothing to list.
            "--ignored" | "--list" => return false,
            "--skip" => skipped.extend(arguments.next()),
            "--test-threads" | "--color" | "--format" => drop(arguments.next()),
            flag if flag.starts_with('-') => {}
            _ => wanted.push(argument),
        }
    }
    let is_this = |word: &String| "fuzz".contains(word.as_str());
    (wanted.is_empty() || wanted.iter().any(is_this)) && !skipped.iter().any(is_this)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Feeds one target until the time or the number of inputs is used up; false at the first failure.
fn run(target: &targets::Target, seed: u64, share: Option<Duration>, folder: &Path) -> bool {
    let corpus = Corpus::new((target.seeds)());
    let mut random = Random::new(seed);
    let (start, mut inputs, mut accepted) = (Instant::now(), 0_u64, 0_u64);
    // Written before it is run: an overflowing stack leaves no other trace.
    let current = folder.join(format!("{}-current", target.name));
    while share.map_or(inputs < INPUTS, |share| start.elapsed() < share) {
        let input = corpus.mutation(&mut random);
        if share.is_some() {
            std::fs::write(&current, &input).unwrap();
        }
        match feed(target, &input) {
            Ok(was_accepted) => accepted += u64::from(was_accepted),
            Err(why) => {
                let kept = folder.join(format!("{}-{seed}-{inputs}", target.name));
                std::fs::write(&kept, &input).unwrap();
                println!("fuzz: {}: {why}\nthe input is in {}", target.name, kept.display());
                return false;
            }
        }
        inputs += 1;
    }
    println!("fuzz: {:<12} {inputs} inputs, {accepted} accepted, {:.1?}", target.name, start.elapsed());
    true
}

fn feed(target: &targets::Target, input: &[u8]) -> Result<bool, String> {
    let start = Instant::now();
    let outcome = std::panic::catch_unwind(|| (target.run)(input)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        format!("panic: {}", text.unwrap_or_default())
    })?;
    match start.elapsed() {
        elapsed if elapsed > PATIENCE => Err(format!("took {elapsed:?}")),
        _ => Ok(outcome),
    }
}

/// Runs one kept input through the target its file name begins with.
fn replay(input: &Path) -> ExitCode {
    let name: PathBuf = input.file_name().unwrap().into();
    let bytes = std::fs::read(input).unwrap();
    for target in TARGETS.iter().filter(|target| name.to_str().unwrap().starts_with(target.name)) {
        println!("fuzz: {}: accepted: {}", target.name, (target.run)(&bytes));
    }
    ExitCode::SUCCESS
}
