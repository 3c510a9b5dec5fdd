//! The golden cases: VMI and context in, the original's defines out, byte for byte.
//!
//! `make conformance [DIR=…] [ONLY=substring] [SHOW=n]`; the variables reach this program as `CONFORMANCE_DIR`,
//! `CONFORMANCE_ONLY` and `CONFORMANCE_SHOW`. Exit code 0: no case differs. A `SHOW` above 3, or a single case, also shows
//! where an error's text is not the original's.
#![allow(clippy::disallowed_methods, reason = "a test waits for its own folders")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod case;
mod diff;
mod subject;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use case::{Case, Verdict};

/// How many failures are shown in full unless `SHOW` says otherwise.
const SHOWN: usize = 3;
/// How many failures are named.
const NAMED: usize = 200;

/// What this program is as one test of the standard test runner, by whose words `cargo test` calls it.
const NAME: &str = "wide_suite::conformance";

fn main() -> ExitCode {
    match Asked::of(std::env::args().skip(1)) {
        Asked::Run => {}
        Asked::Ignored => {
            println!("test {NAME} ... ignored, needs the wide suite, ../shared/conformance; make conformance");
            return ExitCode::SUCCESS;
        }
        Asked::List => {
            println!("{NAME}: test");
            return ExitCode::SUCCESS;
        }
        Asked::Another => return ExitCode::SUCCESS,
    }
    let folder = variable("CONFORMANCE_DIR").map_or_else(default_folder, PathBuf::from);
    let only = variable("CONFORMANCE_ONLY").unwrap_or_default();
    let shown = variable("CONFORMANCE_SHOW").map_or(SHOWN, |text| text.parse().unwrap());
    if !folder.is_dir() {
        println!("conformance: {} does not exist: give DIR=folder of the golden cases", folder.display());
        return ExitCode::FAILURE;
    }
    let cases = case::list(&folder, &only);
    if cases.is_empty() {
        println!("conformance: no case in {} has {only:?} in its name", folder.display());
        return ExitCode::FAILURE;
    }
    let verdicts = run(&cases);
    report(&cases, &verdicts, shown)
}

/// What the arguments ask of the one test [`NAME`], which is ignored unless it is asked for.
enum Asked {
    Run,
    Ignored,
    List,
    /// Other tests are meant.
    Another,
}

impl Asked {
    fn of(mut arguments: impl Iterator<Item = String>) -> Asked {
        let (mut wanted, mut skipped, mut flags) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--skip" => skipped.extend(arguments.next()),
                "--test-threads" | "--color" | "--format" => drop(arguments.next()),
                flag if flag.starts_with('-') => flags.push(argument),
                _ => wanted.push(argument),
            }
        }
        let has = |flag: &str| flags.iter().any(|given| given == flag);
        let names = |word: &String| if has("--exact") { NAME == word } else { NAME.contains(word.as_str()) };
        match () {
            () if !(wanted.is_empty() || wanted.iter().any(names)) || skipped.iter().any(names) => Asked::Another,
            () if has("--list") => Asked::List,
            () if has("--ignored") || has("--include-ignored") => Asked::Run,
            () => Asked::Ignored,
        }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn default_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance/domain-xml")
}

/// Judges all cases, side by side on all cores; verdicts in the cases' order.
fn run(cases: &[Case]) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(BTreeMap::new());
    // A panic is a verdict; its backtrace would only bury the table.
    std::panic::set_hook(Box::new(|_| {}));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, case)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|index| Some((index, cases.get(index)?)))
                {
                    let verdict = case.judge();
                    verdicts.lock().unwrap().insert(index, verdict);
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    verdicts.into_inner().unwrap().into_values().collect()
}

fn report(cases: &[Case], verdicts: &[Verdict], shown: usize) -> ExitCode {
    let mut families: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut errors = 0;
    let (mut failures, mut other_texts) = (Vec::new(), Vec::new());
    for (case, verdict) in cases.iter().zip(verdicts) {
        let (passed, total) = families.entry(case.family()).or_default();
        *total += 1;
        match verdict {
            Verdict::Same => *passed += 1,
            Verdict::Refused { other_text } => {
                *passed += 1;
                errors += 1;
                other_texts.extend(other_text.iter().map(|texts| (case, texts)));
            }
            Verdict::Differs(why) => failures.push((case, why)),
        }
    }
    for (case, why) in failures.iter().take(shown) {
        println!("--- {}: {why}", case.name);
    }
    if failures.len() > shown {
        println!("--- more that fail (ONLY=name shows one):");
        for (case, why) in failures.iter().skip(shown).take(NAMED) {
            println!("{}: {}", case.name, why.lines().next().unwrap_or(""));
        }
    }
    println!("\n{:<12} {:>6} {:>6}", "family", "passed", "total");
    for (family, (passed, total)) in &families {
        println!("{family:<12} {passed:>6} {total:>6}{}", if passed == total { "" } else { "  <" });
    }
    println!("{:<12} {:>6} {:>6}", "all", cases.len() - failures.len(), cases.len());
    if errors > 0 {
        println!("errors where one is due: {errors}, with the original's text: {}", errors - other_texts.len());
    }
    for (case, (expected, ours)) in other_texts.iter().filter(|_| cases.len() == 1 || shown > SHOWN) {
        println!("--- {}\n  original: {expected}\n  ours:     {ours}", case.name);
    }
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
