//! Keeps PID 1 small. Its memory is charged to every VM's pod.

use std::ffi::{c_int, c_void};

/// Gives the program's read-only pages back. Starting up touches pages all over a binary that holds much more than the
/// monitor; the loop that follows needs a handful of them, which the kernel maps again from its cache.
///
/// Nothing is lost: segments without write permission are never changed, and those that relocation changes have it.
pub fn give_back_program_pages() {
    // SAFETY: `each` only reads what it is given, as the call allows.
    unsafe { libc::dl_iterate_phdr(Some(each), std::ptr::null_mut()) };
}

/// Called with every loaded object.
unsafe extern "C" fn each(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: sysconf has no preconditions.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
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
        let Some((start, length)) = whole_pages(base + header.p_vaddr, header.p_memsz, page) else { continue };
        // SAFETY: these are whole pages of a mapping that nobody can write to; they read the same afterwards. A failure
        // leaves them where they are.
        unsafe { libc::madvise(start as *mut c_void, length, libc::MADV_DONTNEED) };
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
    fn the_program_runs_on() {
        give_back_program_pages();
        assert_eq!("still here".len(), 10);
    }
}
