//! Figures as a table for people or as JSON for programs. Each is printed when it is taken, so that a later failure does not
//! lose it.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What the names of another image's figures begin with.
pub const PEER: &str = "peer: ";

/// One measured value.
#[derive(Debug, Clone)]
pub struct Figure {
    /// What was measured: `small: conversions`.
    pub name: String,
    /// The value; `None` where it could not be taken, and `how` says why.
    pub value: Option<f64>,
    /// `1/s`, `KiB`, `ms`.
    pub unit: &'static str,
    /// How it was taken, in one line.
    pub how: String,
}

impl Figure {
    /// What could not be measured, and why.
    pub fn not_taken(name: impl Into<String>, why: impl Into<String>) -> Self {
        Figure { name: name.into(), value: None, unit: "", how: why.into() }
    }
}

/// What is printed on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A row for each figure as it is taken, then own figures and the peer's side by side.
    Table,
    /// One document at the end; the rows go to standard error.
    Json,
}

/// All figures of a run; clones share them.
#[derive(Clone)]
pub struct Sheet {
    form: Form,
    taken: Arc<Mutex<Vec<(&'static str, Figure)>>>,
    /// What counts where no figure of that name was taken.
    kept: Arc<Mutex<Vec<(&'static str, Figure)>>>,
    frozen: Arc<AtomicBool>,
}

impl Sheet {
    /// An empty one; prints the head of the table.
    pub fn new(form: Form) -> Self {
        let sheet = Sheet { form, taken: Arc::default(), kept: Arc::default(), frozen: Arc::default() };
        sheet.say(&format!("{}\n\n{}", machine(), row("group", "figure", "value", "unit", "how")));
        sheet
    }

    /// Keeps a figure and prints it.
    pub fn add(&self, group: &'static str, figure: Figure) {
        self.say(&figure_row(group, &figure));
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).push((group, figure));
    }

    /// Keeps figures that are not complete yet, in the place of earlier ones of the same name.
    pub fn keep(&self, group: &'static str, figures: Vec<Figure>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if self.frozen.load(Ordering::Relaxed) {
            return;
        }
        kept.retain(|(_, known)| figures.iter().all(|figure| figure.name != known.name));
        kept.extend(figures.into_iter().map(|figure| (group, figure)));
    }

    /// Keeps nothing more: what is measured is about to be ended.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    /// Prints a line about the progress, on standard error.
    pub fn progress(&self, line: &str) {
        eprintln!("bench: {line}");
    }

    /// Prints what is to be printed at the end.
    pub fn finish(&self) {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        let taken = self.taken();
        for (group, figure) in kept {
            if taken.iter().all(|(_, taken)| taken.name != figure.name) {
                self.add(group, figure);
            }
        }
        let taken = self.taken();
        match self.form {
            Form::Table => print!("{}", comparison(&taken)),
            Form::Json => print!("{}", json(&taken)),
        }
    }

    fn taken(&self) -> Vec<(&'static str, Figure)> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn say(&self, row: &str) {
        match self.form {
            Form::Table => println!("{row}"),
            Form::Json => eprintln!("{row}"),
        }
    }
}

/// The machine, which every figure depends on.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    format!("{cpus} CPUs, {}, load {load}", model.map_or("unknown", |(_, model)| model))
}

fn row(group: &str, name: &str, value: &str, unit: &str, how: &str) -> String {
    format!("{group:<12} {name:<50} {value:>12} {unit:<6} {how}")
}

/// One line, also of a reason that has several.
pub fn figure_row(group: &str, Figure { name, value, unit, how }: &Figure) -> String {
    let how = how.split_whitespace().collect::<Vec<_>>().join(" ");
    row(group, name, &value.map_or_else(|| "not taken".to_owned(), rounded), unit, &how)
}

/// Three significant digits, or all of the whole ones.
fn rounded(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Own figures and the peer's side by side, those that the peer has not included; empty without a peer.
pub fn comparison(figures: &[(&'static str, Figure)]) -> String {
    let mut text = String::new();
    for (group, own) in figures.iter().filter(|(_, figure)| !figure.name.starts_with(PEER)) {
        let peers = || figures.iter().filter(|(of, figure)| of == group && figure.name.starts_with(PEER));
        let of_the_name = peers().find(|(_, peer)| peer.name.strip_prefix(PEER) == Some(&own.name));
        let peer = of_the_name.map_or(Figure::not_taken("", ""), |(_, peer)| peer.clone());
        if peers().next().is_none() || (own.value.is_none() && of_the_name.is_none()) {
            continue;
        }
        let name = &own.name;
        if text.is_empty() {
            let _ = writeln!(text, "\n{:<50} {:>12} {:>12} {:<6} peer/own", "figure", "own", "peer", "unit");
        }
        let shown = |value: Option<f64>| value.map_or_else(|| "not taken".to_owned(), rounded);
        let ratio = match (own.value, peer.value) {
            (Some(own), Some(peer)) if own > 0.0 => rounded(peer / own),
            _ => String::new(),
        };
        let unit = if own.unit.is_empty() { peer.unit } else { own.unit };
        let _ = writeln!(text, "{name:<50} {:>12} {:>12} {unit:<6} {ratio}", shown(own.value), shown(peer.value));
    }
    text
}

/// The document of `JSON=1`.
pub fn json(figures: &[(&'static str, Figure)]) -> String {
    let figures: Vec<serde_json::Value> = figures
        .iter()
        .map(|(group, Figure { name, value, unit, how })| {
            serde_json::json!({"group": group, "name": name, "value": value, "unit": unit, "how": how})
        })
        .collect();
    let document = serde_json::json!({"machine": machine(), "figures": figures});
    serde_json::to_string_pretty(&document).unwrap() + "\n"
}
