//! Log lines without `tracing`: PID 1 must stay small and writes a line a day.

use std::fmt::Display;
use std::panic::Location;

use super::record::{Level, Record, position};
use super::{DEFAULT_VERBOSITY, verbosity};

/// Writes the lines of one component. The caller's place becomes `pos`.
#[derive(Debug, Clone, Copy)]
pub struct Logger {
    component: &'static str,
    verbosity: i32,
}

impl Logger {
    /// A logger with the verbosity of `-v`, which the environment overrides.
    pub fn new(component: &'static str, flag: i32) -> Self {
        let (verbosity, warning) = verbosity(flag);
        let logger = Logger { component, verbosity };
        if let Some(warning) = warning {
            logger.warning(&warning);
        }
        logger
    }

    /// An ordinary info line.
    #[track_caller]
    pub fn info(&self, message: &str) {
        if DEFAULT_VERBOSITY <= self.verbosity {
            self.record(Level::Info, message).write();
        }
    }

    /// Something to know that harms nobody yet.
    #[track_caller]
    pub fn warning(&self, message: &str) {
        self.record(Level::Warning, message).write();
    }

    /// A fault, and its cause.
    #[track_caller]
    pub fn error(&self, message: &str, reason: &dyn Display) {
        self.record(Level::Error, message).field("reason", reason.to_string()).write();
    }

    /// A line to which fields can be added before it is written. No verbosity applies.
    #[track_caller]
    pub fn record(&self, level: Level, message: &str) -> Record<'static> {
        let place = Location::caller();
        Record::new(self.component, level, message).field("pos", position(place.file(), place.line()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_says_where_it_was_written() {
        let logger = Logger { component: "virt-launcher-monitor", verbosity: 2 };
        let line = logger.record(Level::Warning, "w").line();
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["component"], "virt-launcher-monitor");
        assert_eq!(read["level"], "warning");
        assert!(read["pos"].as_str().unwrap().starts_with("logger.rs:"), "{line}");
    }
}
