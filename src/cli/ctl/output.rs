//! How answers are printed.

use clap::ValueEnum;
use serde_json::Value;

use super::CtlError;

/// `-o`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// The reply as JSON.
    Json,
    /// The reply as YAML.
    Yaml,
    /// A few lines for people.
    Table,
}

/// Rows of a name and a value, for people.
pub(super) type Table = Vec<(&'static str, String)>;

/// Prints `document`, or `table` instead of it for people.
pub(super) fn print(format: Format, document: &Value, table: impl FnOnce() -> Table) -> Result<(), CtlError> {
    let text = match format {
        Format::Json => serde_json::to_string_pretty(document).map_err(unprintable)?,
        Format::Yaml => serde_norway::to_string(document).map_err(unprintable)?,
        Format::Table => align(&table()),
    };
    line(text.trim_end())
}

/// Prints one line or block to stdout. A reader that has gone away is not our failure, but it ends us.
pub(super) fn line(text: &str) -> Result<(), CtlError> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|error| CtlError::Refused(format!("stdout: {error}")))
}

fn unprintable(error: impl std::fmt::Display) -> CtlError {
    CtlError::Refused(format!("the answer cannot be printed: {error}"))
}

fn align(table: &Table) -> String {
    let width = table.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (name, value) in table {
        let row = if name.is_empty() { value.clone() } else { format!("{name:width$}  {value}") };
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_a_column() {
        let table = vec![("NAME", "vm".to_owned()), ("NAMESPACE", "ns".to_owned()), ("UID", String::new())];
        assert_eq!(align(&table), "NAME       vm\nNAMESPACE  ns\nUID\n");
        assert_eq!(align(&vec![("", "ok".to_owned())]), "ok\n");
    }
}
