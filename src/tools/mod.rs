//! The helper programs that share this binary.

mod call;
pub mod container_disk;
pub mod qemu_hook;
pub mod virt_freezer;
pub mod virt_probe;
pub mod virt_tail;
