//! Signals of a crash.
#![allow(unsafe_code, reason = "dispositions of signals")]

use nix::sys::signal::{SigHandler, Signal, signal};

/// Lets SIGSEGV and SIGBUS end the process at once, also if another process sends them. Rust's own handler, which is there for the words
/// about a stack overflow, takes the first one and returns: sent by another process, it would do nothing.
pub fn restore_default_crash_signals() {
    for fault in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the default disposition runs no code of ours. It cannot fail for these signals.
        let _ = unsafe { signal(fault, SigHandler::SigDfl) };
    }
}
