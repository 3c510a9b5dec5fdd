//! SyncVirtualMachine (contract/cmd-server.md 5): from a VMI to a domain that runs (`first_boot`, with what it `prepare`s), and
//! what is done to one that runs already (`live`).

pub mod first_boot;
mod image_size;
pub mod live;
pub mod means;
mod prepare;
mod refusal;
mod storage_io;
pub mod target;
mod volume_files;
