//! Figures as a table for people or as JSON for programs.

use std::fmt::Write as _;

/// One measured value.
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

/// The machine, which every figure depends on.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    format!("{cpus} CPUs, {}, load {load}", model.map_or("unknown", |(_, model)| model))
}

pub fn table(figures: &[(&str, Vec<Figure>)]) -> String {
    let mut text = format!("{}\n\n{:<12} {:<44} {:>12} {:<5} how\n", machine(), "group", "figure", "value", "unit");
    for (group, figures) in figures {
        for Figure { name, value, unit, how } in figures {
            let value = value.map_or_else(|| "not taken".to_owned(), rounded);
            let _ = writeln!(text, "{group:<12} {name:<44} {value:>12} {unit:<5} {how}");
        }
    }
    text
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

pub fn json(figures: &[(&str, Vec<Figure>)]) -> String {
    let all = figures.iter().flat_map(|(group, figures)| figures.iter().map(move |figure| (group, figure)));
    let figures: Vec<serde_json::Value> = all
        .map(|(group, Figure { name, value, unit, how })| {
            serde_json::json!({"group": group, "name": name, "value": value, "unit": unit, "how": how})
        })
        .collect();
    let document = serde_json::json!({"machine": machine(), "figures": figures});
    serde_json::to_string_pretty(&document).unwrap() + "\n"
}
