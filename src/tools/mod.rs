//! The helper programs that share this binary.
#![allow(clippy::disallowed_methods, reason = "a small program waits for its own files only")]

mod call;
pub mod container_disk;
pub mod qemu_hook;
pub mod virt_freezer;
pub mod virt_probe;
pub mod virt_tail;
