//! One log line.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

/// Severity, by the names of the log format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Filtered by verbosity.
    Info,
    /// Always written.
    Warning,
    /// Always written.
    Error,
    /// The process ends because of it.
    Fatal,
}

impl Level {
    /// The name in the line.
    pub fn name(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Fatal => "fatal",
        }
    }
}

/// A line in the making: keys and values, sorted by key when it is written.
#[derive(Debug, Clone)]
pub struct Record<'a> {
    fields: Vec<(&'a str, Value)>,
}

#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Number(i64),
}

impl<'a> Record<'a> {
    /// A line of `component` (`virt-launcher`, `virt-launcher-monitor`, …) with the present time.
    pub fn new(component: &str, level: Level, message: impl Into<String>) -> Self {
        let fields = vec![
            ("component", Value::Text(component.to_owned())),
            ("level", Value::Text(level.name().to_owned())),
            ("msg", Value::Text(message.into())),
            ("timestamp", Value::Text(timestamp_now())),
        ];
        Record { fields }
    }

    /// Adds or replaces a text. An empty `namespace` is left out, as the original does.
    pub fn field(self, key: &'a str, value: impl Into<String>) -> Self {
        let value = value.into();
        if key == "namespace" && value.is_empty() { self } else { self.put(key, Value::Text(value)) }
    }

    /// Adds or replaces a number (`code`, `iteration`, …).
    pub fn number(self, key: &'a str, value: i64) -> Self {
        self.put(key, Value::Number(value))
    }

    fn put(mut self, key: &'a str, value: Value) -> Self {
        self.fields.retain(|(present, _)| *present != key);
        self.fields.push((key, value));
        self
    }

    /// The line with its newline.
    pub fn line(mut self) -> String {
        self.fields.sort_by_key(|(key, _)| *key);
        let mut line = String::with_capacity(160);
        for (index, (key, value)) in self.fields.iter().enumerate() {
            line.push(if index == 0 { '{' } else { ',' });
            push_text(&mut line, key);
            line.push(':');
            match value {
                Value::Text(text) => push_text(&mut line, text),
                Value::Number(number) => line.push_str(&number.to_string()),
            }
        }
        line.push_str("}\n");
        line
    }

    /// Writes the line to standard error in one piece. A reader that went away loses it, nothing else.
    pub fn write(self) {
        let _ = std::io::stderr().lock().write_all(self.line().as_bytes());
    }
}

/// `pos` of a source line: the file's name; the folder's, too, of a `mod.rs`, which says nothing alone.
pub(super) fn position(file: &str, line: u32) -> String {
    let start = match file.strip_suffix("/mod.rs") {
        Some(folder) => folder.rfind('/'),
        None => file.rfind('/'),
    };
    let name = start.and_then(|slash| file.get(slash + 1..)).unwrap_or(file);
    format!("{name}:{line}")
}

/// Appends a JSON string; `<`, `>` and `&` stay as they are (contract/lifecycle.md 5.1).
fn push_text(line: &mut String, text: &str) {
    line.push('"');
    for character in text.chars() {
        match character {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            control if u32::from(control) < 0x20 => {
                // Writing to a String cannot fail.
                let _ = write!(line, "\\u{:04x}", u32::from(control));
            }
            other => line.push(other),
        }
    }
    line.push('"');
}

/// `2026-08-22T10:34:54.123456Z`, from microseconds since the epoch.
pub fn timestamp(microseconds: i128) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(microseconds.saturating_mul(1000))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.microsecond()
    )
}

/// The present time in the log's form.
pub fn timestamp_now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    timestamp(i128::try_from(since.as_micros()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_and_text_is_escaped() {
        let line = Record::new("virt-launcher", Level::Info, "a \"b\" \\ <c>\n\u{1}é")
            .field("pos", "x.rs:1")
            .field("namespace", "ns")
            .number("code", -1)
            .field("timestamp", "2026-08-22T10:34:54.123456Z")
            .line();
        assert_eq!(
            line,
            "{\"code\":-1,\"component\":\"virt-launcher\",\"level\":\"info\",\"msg\":\"a \\\"b\\\" \\\\ <c>\\n\\u0001é\",\
             \"namespace\":\"ns\",\"pos\":\"x.rs:1\",\"timestamp\":\"2026-08-22T10:34:54.123456Z\"}\n"
        );
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["msg"], "a \"b\" \\ <c>\n\u{1}é");
    }

    #[test]
    fn position_names_the_file() {
        assert_eq!(position("src/monitor/reaper.rs", 7), "reaper.rs:7");
        assert_eq!(position("src/monitor/mod.rs", 7), "monitor/mod.rs:7");
        assert_eq!(position("main.rs", 7), "main.rs:7");
        assert_eq!(position("mod.rs", 7), "mod.rs:7");
    }

    #[test]
    fn empty_namespace_is_left_out() {
        let line = Record::new("virt-probe", Level::Info, "m").field("namespace", "").field("name", "").line();
        assert!(!line.contains("namespace"), "{line}");
        assert!(line.contains("\"name\":\"\""), "{line}");
    }

    #[test]
    fn timestamps_have_six_digits() {
        assert_eq!(timestamp(1_787_394_894_123_456), "2026-08-22T10:34:54.123456Z");
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000000Z");
    }
}
