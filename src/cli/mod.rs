//! Flags and environment, and what a person types: one checked configuration per role.

use std::process::ExitCode;

/// Runs the role that `argv[0]` or the first argument names.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
