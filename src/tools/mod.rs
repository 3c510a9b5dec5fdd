//! The helper programs that share this binary.

pub mod qemu_hook;
