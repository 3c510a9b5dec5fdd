//! Which capabilities the programs that we start get.
#![allow(unsafe_code, reason = "system calls that have no safe wrapper here")]

use std::io;

/// Bit of `CAP_DAC_OVERRIDE` (linux/capability.h).
const DAC_OVERRIDE: u32 = 1;
/// Bit of `CAP_NET_BIND_SERVICE` (linux/capability.h).
const NET_BIND_SERVICE: u32 = 10;
/// `_LINUX_CAPABILITY_VERSION_3`: 64 capabilities in two words of 32.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes `CAP_NET_BIND_SERVICE` ambient in the calling thread, so that the programs it starts keep it although they run
/// as an ordinary user (contract/lifecycle.md 4.3, 8.1). EPERM if the thread does not have the capability.
///
/// Only system calls, so that it may be used between fork and exec.
pub fn raise_ambient_net_bind_service() -> io::Result<()> {
    let mut sets = sets()?;
    let [low, _] = &mut sets;
    low.permitted |= 1 << NET_BIND_SERVICE;
    low.inheritable |= 1 << NET_BIND_SERVICE;
    set(&sets)?;
    let zero: libc::c_ulong = 0;
    // SAFETY: PR_CAP_AMBIENT takes numbers only; unused arguments must be 0.
    let raised = unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
            libc::c_ulong::from(NET_BIND_SERVICE),
            zero,
            zero,
        )
    };
    if raised == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// For a program that reads what a user made: whatever it becomes, it gains no privileges, and of the capabilities that
/// the calling thread has it keeps `CAP_DAC_OVERRIDE` alone, because a root pod's disks belong to QEMU's user. Having less
/// than the launcher, it cannot trace it either (capabilities(7), ptrace(2)), even where both are the same user.
///
/// Only system calls, so that it may be used between fork and exec.
pub fn keep_only_access_to_files() -> io::Result<()> {
    // Without it, execve would give root everything in the bounding set again.
    nix::sys::prctl::set_no_new_privs()?;
    let mut sets = sets()?;
    let [low, high] = &mut sets;
    low.permitted &= 1 << DAC_OVERRIDE;
    low.effective = low.permitted;
    low.inheritable = 0;
    *high = Sets::default();
    // What is ambient has to be permitted and inheritable, so that it goes too.
    set(&sets)
}

/// The calling thread's capabilities.
fn sets() -> io::Result<[Sets; 2]> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: version 3 reads one header and fills two sets.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    if got == 0 { Ok(sets) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread these capabilities.
fn set(sets: &[Sets; 2]) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: version 3 reads one header and two sets.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Own word of `/proc/thread-self/status`.
    fn word(name: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    }

    #[test]
    fn whoever_has_the_capability_can_hand_it_down() {
        let bit = 1 << NET_BIND_SERVICE;
        let permitted = word("CapPrm:") & bit != 0;
        let raised = raise_ambient_net_bind_service();
        assert_eq!(raised.is_ok(), permitted, "{raised:?}");
        assert_eq!(word("CapAmb:") & bit != 0, permitted);
    }
}
