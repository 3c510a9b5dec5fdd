//! `container-disk` by itself: what runs inside container disks, in images built from nothing, and what every VM copies
//! there where image volumes are off. The launcher's own binary has it as a role, but is twenty times as large.
//!
//! `images/static-libvirt/link.sh` compiles it with `--cfg without_std`, since the standard library's machinery for
//! panics alone would be a third of it. Built as usual, it is the same program with the standard library linked in.
#![cfg_attr(without_std, no_std)]
#![no_main]
#![allow(unsafe_code, reason = "the C library alone, without the standard library")]

use core::ffi::{CStr, c_char, c_int};

#[path = "../tools/container_disk.rs"]
mod container_disk;

/// What the C library calls.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, words: *const *const c_char) -> c_int {
    let count = usize::try_from(count).unwrap_or_default();
    // SAFETY: `words` points to `count` C strings that live as long as the process.
    let words = (1..count).map(|at| unsafe { CStr::from_ptr(*words.add(at)) });
    c_int::from(container_disk::run(words))
}

#[cfg(without_std)]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: it has no preconditions.
    unsafe { libc::abort() }
}
