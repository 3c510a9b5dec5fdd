//! Flags and environment, and what a person types: one checked configuration per role.

pub mod ctl;
pub mod domain_xml;

use std::process::ExitCode;

/// Runs the role that `argv[0]` or the first argument names.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|role| role == "ctl") {
        return ctl::main(arguments);
    }
    ExitCode::SUCCESS
}
