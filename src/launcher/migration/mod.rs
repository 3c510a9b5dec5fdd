//! Live migration (contract/migration.md).

pub mod parameters;
pub mod sockets;
