//! The one VM as the launcher sees it, and what orders do to it.

#[cfg(test)]
pub(crate) mod control_double;
pub mod guest_clock;
pub mod metadata;
pub mod migration_target;
pub mod operations;
pub mod power_off;
pub mod process;
pub mod sev;
pub mod state_file;
