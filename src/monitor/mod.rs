//! PID 1: starts the launcher, reaps everything, outlives it.

/// Runs the monitor.
pub fn run(_words: Vec<std::ffi::OsString>) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
