//! Live migration (contract/migration.md).

pub mod document;
pub mod hook;
pub mod options;
pub mod parameters;
pub mod policy;
pub mod progress;
pub mod sockets;
pub mod volumes;
