//! `make bench [ONLY=substring] [JSON=1]`: one table of figures, each with how it was taken.
//!
//! A group of figures is one file: a function that takes them, listed in `GROUPS`. What cannot be taken on a machine (no
//! image, no root) is a note instead of a value, never a guess.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a benchmark ends by panicking

mod conversion;
mod heap;
mod launcher;
mod report;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;

use report::Figure;

/// Counts what the conversions allocate.
#[global_allocator]
static HEAP: heap::Counting = heap::Counting::new();

/// Takes the figures of a group.
type Take = fn() -> Vec<Figure>;

/// The groups by name, in the table's order.
const GROUPS: &[(&str, Take)] = &[("conversion", conversion::figures), ("launcher", launcher::figures)];

fn main() -> ExitCode {
    // Besides these words cargo gives `--bench`.
    let words: Vec<String> = std::env::args().skip(1).collect();
    let json = words.iter().any(|word| word == "--json");
    let only = words.iter().find(|word| !word.starts_with("--")).map_or("", String::as_str);
    let groups = GROUPS.iter().filter(|(name, _)| name.contains(only));
    let figures: Vec<(&str, Vec<Figure>)> = groups.map(|(name, take)| (*name, take())).collect();
    if figures.is_empty() {
        eprintln!("bench: no group has {only:?} in its name; there are: {}", names().join(", "));
        return ExitCode::FAILURE;
    }
    print!("{}", if json { report::json(&figures) } else { report::table(&figures) });
    ExitCode::SUCCESS
}

fn names() -> Vec<&'static str> {
    GROUPS.iter().map(|(name, _)| *name).collect()
}
