//! What is to be said about a file.

use std::fmt;

use crate::yaml::Place;

/// Whether the file can be used all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// It can, but perhaps not as it was meant.
    Warning,
    /// It cannot.
    Error,
}

/// Something that is to be said about a field of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Whether the file can be used all the same.
    pub severity: Severity,
    /// Path of the field in its document; empty for the document itself.
    pub path: String,
    /// Where it stands.
    pub place: Place,
    /// What is wrong.
    pub problem: String,
}

impl Finding {
    pub(super) fn new(severity: Severity, path: impl Into<String>, place: Place, problem: impl Into<String>) -> Self {
        Finding { severity, path: path.into(), place, problem: problem.into() }
    }

    /// `FILE:LINE: path: problem`, as compilers write it.
    pub fn located(&self, file: &str) -> String {
        located(file, self.place, &self.to_string())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        out.write_str(&self.problem)
    }
}

/// `FILE:LINE: text`; a text that is not from a file has its line alone.
pub(super) fn located(file: &str, place: Place, text: &str) -> String {
    match (file, place.line) {
        ("", 0) => text.to_owned(),
        ("", line) => format!("line {line}: {text}"),
        (file, 0) => format!("{file}: {text}"),
        (file, line) => format!("{file}:{line}: {text}"),
    }
}
