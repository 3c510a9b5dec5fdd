//! `make bench [ONLY=substring] [JSON=1] [QUICK=1]`: one table of figures, each with how it was taken.
//!
//! A group of figures is one function that takes them, listed in `GROUPS`. What cannot be taken on a machine (no image, no
//! root) is a note instead of a value, never a guess. What was taken before a failure or a signal is printed.
#![allow(clippy::disallowed_methods, reason = "a test waits for its own folders")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what panics ends its part of the figures")]

mod conversion;
mod heap;
mod launcher;
mod running;
#[path = "../../tests/it/support/mod.rs"]
#[allow(dead_code, reason = "the benchmark uses a part of what the tests share")]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use support::figures::guard::Guard;
use support::figures::life::reason;
use support::figures::report::{Figure, Form, Sheet};
use support::pod::{name_prefix, podman};

/// Counts what the conversions allocate.
#[global_allocator]
static HEAP: heap::Counting = heap::Counting::new();

/// Takes the figures of a group.
type Take = fn(&Run);

/// The groups by name, in the table's order.
const GROUPS: &[(&str, Take)] = &[("conversion", conversion::figures), ("launcher", launcher::figures)];

/// What taking figures needs.
pub struct Run {
    group: &'static str,
    /// Whether few VMs and short waits do.
    pub quick: bool,
    /// Has to start all containers.
    pub guard: Arc<Guard>,
    sheet: Sheet,
}

impl Run {
    /// Keeps a figure and prints it.
    pub fn add(&self, figure: Figure) {
        self.sheet.add(self.group, figure);
    }

    /// Keeps figures that are not complete yet, in case the run ends before they are.
    pub fn keep(&self, figures: Vec<Figure>) {
        self.sheet.keep(self.group, figures);
    }

    /// Prints a line about the progress.
    pub fn progress(&self, line: &str) {
        self.sheet.progress(line);
    }

    /// Takes some figures; a note takes the place of those that are missing after an error or a panic. Whether there was none.
    pub fn part(&self, name: &str, take: impl FnOnce() -> Result<(), String>) -> bool {
        let taken = catch_unwind(AssertUnwindSafe(take)).unwrap_or_else(|panic| Err(reason(&*panic)));
        taken.map_err(|why| self.add(Figure::not_taken(name, why))).is_ok()
    }
}

fn main() -> ExitCode {
    // Besides these words cargo gives `--bench`.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| words.iter().any(|word| word == flag);
    let only = words.iter().find(|word| !word.starts_with("--")).map_or("", String::as_str);
    let groups: Vec<_> = GROUPS.iter().filter(|(name, _)| name.contains(only)).collect();
    if groups.is_empty() {
        eprintln!("bench: no group has {only:?} in its name; there are: {}", names().join(", "));
        return ExitCode::FAILURE;
    }
    let sheet = Sheet::new(if has("--json") { Form::Json } else { Form::Table });
    // The pods' folders are to go with the containers.
    let folder = tempfile::Builder::new().prefix("bench").tempdir().unwrap();
    tempfile::env::override_temp_dir(folder.path()).unwrap();
    let guard = Arc::new(Guard::new(podman().get_program(), &name_prefix(), folder.path()).unwrap());
    end_in_order_on_signals(&sheet, &guard);
    let mut whole = true;
    for (group, take) in groups {
        let run = Run { group, quick: has("--quick"), sheet: sheet.clone(), guard: Arc::clone(&guard) };
        whole &= run.part("the rest", || {
            take(&run);
            Ok(())
        });
    }
    guard.end();
    sheet.finish();
    if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// On SIGINT, SIGTERM and SIGHUP: ends the containers, prints what was taken, exits.
fn end_in_order_on_signals(sheet: &Sheet, guard: &Arc<Guard>) {
    let (sheet, guard) = (sheet.clone(), Arc::clone(guard));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).unwrap();
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            sheet.freeze();
            guard.end();
            sheet.add("bench", Figure::not_taken("the rest", format!("ended by {name}")));
            sheet.finish();
            std::process::exit(128 + signal);
        }
    });
}

fn names() -> Vec<&'static str> {
    GROUPS.iter().map(|(name, _)| *name).collect()
}
