//! Keeps the launcher and its monitor small. Their memory is charged to every VM's pod.
//!
//! Measured with all that is here: the launcher of a running VM has 8.4 MiB resident, without it 12.9 MiB; after 20,000 calls
//! and 300 notifications 9.1 MiB, without it 13.4 MiB. `tests/it/image/budgets.rs` holds the budget.
#![allow(unsafe_code, reason = "the C library's allocator and the program's own mappings")]

use std::ffi::{c_int, c_void};

/// From this size on, in bytes, memory is given back as soon as it is freed; glibc raises its own limit with every large
/// piece that it has seen, and keeps more and more.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 64 * 1024;

/// Keeps the heap small: all threads share one, since each of glibc's further ones keeps what its threads have freed, and
/// what is large is given back. Threads that wait for each other now and then are no loss where one does nearly all the
/// work. To be called before there are threads.
pub fn keep_heap_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets numbers that the allocator looks at later. One that it refuses stays as it is.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

/// Gives the program's read-only pages back. Starting up touches pages all over the binary; what follows needs a part of
/// them, which the kernel maps again from its cache.
///
/// Nothing is lost: segments without write permission are never changed, and those that relocation changes have it.
pub fn release_text_pages() {
    for_each_read_only(&mut |start, length| {
        // SAFETY: these are whole pages of a read-only mapping; they read the same afterwards. A failure
        // leaves them where they are.
        unsafe { libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED) };
    });
}

/// What the kernel maps at most for one page of the program that is touched, in bytes.
const PIECE: usize = 16 * 1024;

/// Lets the kernel map the program in small pieces. By itself it maps 64 KiB for each page that is touched, as far as the
/// mapping reaches, and most of it is code for something else. Every other piece is left out of core dumps, which have no
/// use for code, and so becomes a mapping of its own.
pub fn map_in_pieces() {
    for_each_read_only(&mut |start, length| {
        for piece in (start..start + length).step_by(2 * PIECE) {
            let length = PIECE.min(start + length - piece);
            // SAFETY: these are whole pages of a mapping; what they hold stays as it is. A failure leaves it in one piece.
            unsafe { libc::madvise(piece as *mut c_void, length, libc::MADV_DONTDUMP) };
        }
    });
}

/// Start and length of the program's segments without write permission, in whole pages.
fn for_each_read_only(mut act: &mut dyn FnMut(usize, usize)) {
    // SAFETY: `each` only reads what it is given, as the call allows, and `act` outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut act).cast()) };
}

/// Called with every loaded object; `act` is a `&mut &mut dyn FnMut(usize, usize)`.
unsafe extern "C" fn each(info: *mut libc::dl_phdr_info, _: usize, act: *mut c_void) -> c_int {
    // SAFETY: sysconf has no preconditions.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    // SAFETY: it is what the only caller gives.
    let act = unsafe { &mut *act.cast::<&mut dyn FnMut(usize, usize)>() };
    // SAFETY: the caller gives a valid object whose header table has `dlpi_phnum` entries.
    let (base, headers) = unsafe {
        let info = &*info;
        let headers = match info.dlpi_phdr.is_null() {
            true => &[],
            false => std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)),
        };
        (info.dlpi_addr, headers)
    };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        if let Some((start, length)) = whole_pages(base + header.p_vaddr, header.p_memsz, page) {
            act(start, length);
        }
    }
    0
}

/// First address and length of the pages that begin and end within a segment; its first page is its own even if the
/// segment begins inside.
fn whole_pages(address: u64, size: u64, page: usize) -> Option<(usize, usize)> {
    let end = usize::try_from(address.checked_add(size)?).ok()?;
    let start = usize::try_from(address).ok()?;
    let (start, end) = (start - start % page, end - end % page);
    (start < end).then(|| (start, end - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_are_given_back() {
        assert_eq!(whole_pages(0x1000, 0x2000, 0x1000), Some((0x1000, 0x2000)));
        assert_eq!(whole_pages(0x1234, 0x2000, 0x1000), Some((0x1000, 0x2000)));
        assert_eq!(whole_pages(0x1000, 0xfff, 0x1000), None);
        assert_eq!(whole_pages(u64::MAX, 1, 0x1000), None);
    }

    #[test]
    fn program_is_mapped_in_pieces_and_runs_on() {
        let of_the_program = || {
            let program = std::env::current_exe().unwrap().display().to_string();
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            maps.lines().filter(|mapping| mapping.ends_with(&program)).count()
        };
        let before = of_the_program();
        map_in_pieces();
        let pieces = of_the_program();
        // The program of the unit tests has some ten megabytes of code.
        assert!(pieces > before + 100, "{before} mappings, then {pieces}");
        release_text_pages();
        assert_eq!(of_the_program(), pieces);
    }
}
