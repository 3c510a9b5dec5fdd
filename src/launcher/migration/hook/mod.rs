//! The pre-migration hook: what of an incoming domain depends on the target's pod is adapted before the domain starts
//! (contract/migration.md 9).

mod cpus;
mod edits;
mod framing;
mod gpu;
mod incoming;
mod interfaces;
mod paths;
pub mod server;

pub use incoming::{EditError, Incoming};
