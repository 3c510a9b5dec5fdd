//! Serves a container disk (contract/lifecycle.md 11.1): a socket by which virt-handler finds this container's files, held
//! open until its file goes away.
//!
//! Written for `core` and the C library alone. Besides being a role of the launcher, this file is nearly all of the small
//! program that runs inside container disks (`src/bin/container_disk.rs`), which every VM copies where image volumes are
//! off. It has no threads and no heap, and nothing to do until the kernel says so. Descriptors stay open until the process
//! ends.
#![allow(unsafe_code, reason = "the C library alone, without the standard library")]

use core::ffi::{CStr, c_int};
use core::fmt::{self, Write};

/// Longest `--copy-path`: with `.sock` it still fits a socket's address.
const LONGEST_PATH: usize = 102;
/// A socket's address, with the byte 0 at its end.
const ADDRESS: usize = LONGEST_PATH + ".sock\0".len();
/// Connections that wait; they are closed as soon as they are accepted.
const BACKLOG: c_int = 50;
/// Milliseconds between two looks at the socket's file where the kernel cannot watch it.
const LOOK_AGAIN: c_int = 1000;

const USAGE: &str = "Usage: container-disk --no-op | --copy-path PATH\n\
    \x20     --no-op            do nothing\n\
    \x20 -c, --copy-path PATH   serve the socket PATH.sock until its file is removed or SIGTERM comes\n";

/// Runs the program with the words of its command line, and returns its exit code: every mistake and failure is 1.
pub fn run<'a>(words: impl Iterator<Item = &'a CStr>) -> u8 {
    let done = match read(words) {
        Ok(Order::NoOp) => Ok(()),
        Ok(Order::Help) => {
            print(libc::STDOUT_FILENO, USAGE.as_bytes());
            Ok(())
        }
        Ok(Order::Serve(copy_path)) => serve(copy_path),
        Err(mistake) => {
            print(libc::STDERR_FILENO, USAGE.as_bytes());
            Err(mistake)
        }
    };
    match done {
        Ok(()) => 0,
        Err(failure) => {
            let _ = writeln!(Stderr, "container-disk: error: {failure}");
            1
        }
    }
}

/// Why nothing is served.
enum Failure<'a> {
    /// A word that is not a flag.
    Unknown(&'a CStr),
    /// `--copy-path` at the end.
    NoValue,
    /// No `--copy-path`.
    Missing,
    /// The socket's path does not fit.
    TooLong(&'a CStr),
    /// A system call failed.
    Call {
        /// What was tried.
        what: &'static str,
        /// The flag's value.
        copy_path: &'a CStr,
        /// The C library's number of the error.
        errno: c_int,
    },
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Unknown(word) => write!(to, "unknown flag {}", Text(word)),
            Failure::NoValue => to.write_str("--copy-path needs a value"),
            Failure::Missing => to.write_str("--copy-path is missing"),
            Failure::TooLong(path) => {
                let length = path.count_bytes();
                write!(to, "--copy-path {}: {length} bytes, more than {LONGEST_PATH}", Text(path))
            }
            Failure::Call { what, copy_path, errno } => {
                // SAFETY: the C library returns a text for every number; this program has one thread.
                let reason = unsafe { CStr::from_ptr(libc::strerror(*errno)) };
                write!(to, "cannot {what} {}.sock: {} (os error {errno})", Text(copy_path), Text(reason))
            }
        }
    }
}

/// A C string for people.
struct Text<'a>(&'a CStr);

impl fmt::Display for Text<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.to_bytes().utf8_chunks() {
            to.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                to.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

struct Stderr;

impl Write for Stderr {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        print(libc::STDERR_FILENO, text.as_bytes());
        Ok(())
    }
}

/// Best effort: a missing reader cannot be reported.
fn print(descriptor: c_int, bytes: &[u8]) {
    // SAFETY: the pointer and the length are of one slice.
    let _ = unsafe { libc::write(descriptor, bytes.as_ptr().cast(), bytes.len()) };
}

/// What the command line asks for.
enum Order<'a> {
    NoOp,
    Help,
    Serve(&'a CStr),
}

/// Reads flags as getopt_long does: `--no-op` counts when it is met, whatever follows.
fn read<'a>(mut words: impl Iterator<Item = &'a CStr>) -> Result<Order<'a>, Failure<'a>> {
    let mut copy_path = None;
    while let Some(word) = words.next() {
        match word.to_bytes() {
            b"--no-op" => return Ok(Order::NoOp),
            b"--help" | b"-h" => return Ok(Order::Help),
            b"--copy-path" | b"-c" => copy_path = Some(words.next().ok_or(Failure::NoValue)?),
            _ => {
                let value = after(word, b"--copy-path=").or_else(|| after(word, b"-c"));
                copy_path = Some(value.ok_or(Failure::Unknown(word))?);
            }
        }
    }
    copy_path.map(Order::Serve).ok_or(Failure::Missing)
}

/// What follows `prefix` in `word`.
fn after<'a>(word: &'a CStr, prefix: &[u8]) -> Option<&'a CStr> {
    let rest = word.to_bytes_with_nul().strip_prefix(prefix)?;
    CStr::from_bytes_with_nul(rest).ok()
}

/// A path that fits a socket's address, with the byte 0 at its end.
#[derive(Clone, Copy)]
struct Address([u8; ADDRESS]);

impl Address {
    /// `<path><suffix>`; `None` if it is too long.
    fn new(path: &[u8], suffix: &[u8]) -> Option<Self> {
        let mut bytes = [0; ADDRESS];
        let (place, rest) = bytes.split_at_mut_checked(path.len())?;
        place.copy_from_slice(path);
        let (place, rest) = rest.split_at_mut_checked(suffix.len())?;
        place.copy_from_slice(suffix);
        if rest.is_empty() { None } else { Some(Address(bytes)) }
    }

    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }

    /// The directory that it is in.
    fn directory(&self) -> Option<Self> {
        let path = self.as_c_str().to_bytes();
        match path.iter().rposition(|byte| *byte == b'/') {
            Some(0) => Address::new(b"/", b""),
            Some(at) => Address::new(path.get(..at)?, b""),
            None => Address::new(b".", b""),
        }
    }
}

/// A system call's answer.
fn answer(returned: c_int) -> Result<c_int, c_int> {
    // SAFETY: `errno` is this thread's.
    if returned == -1 { Err(unsafe { *libc::__errno_location() }) } else { Ok(returned) }
}

/// Serves `<copy_path>.sock` until the file is gone or SIGTERM comes.
fn serve(copy_path: &CStr) -> Result<(), Failure<'_>> {
    let path = Address::new(copy_path.to_bytes(), b".sock").ok_or(Failure::TooLong(copy_path))?;
    let directory = path.directory().ok_or(Failure::TooLong(copy_path))?;
    let failed = |what| move |errno| Failure::Call { what, copy_path, errno };

    // Before the socket is there, so that a signal finds everything in place. PID 1 does not see a signal that it neither
    // handles nor blocks.
    let signals = hear_sigterm().map_err(failed("hear signals for"))?;
    // SAFETY: the path ends with the byte 0.
    match answer(unsafe { libc::mkdir(directory.as_c_str().as_ptr(), 0o777) }) {
        Ok(_) | Err(libc::EEXIST) => {}
        Err(errno) => return Err(failed("make the directory of")(errno)),
    }
    let listener = listen_at(&path).map_err(failed("listen at"))?;
    let changes = watch(&directory).ok();
    loop {
        // SAFETY: the path ends with the byte 0.
        if answer(unsafe { libc::access(path.as_c_str().as_ptr(), libc::F_OK) }).is_err() {
            return Ok(());
        }
        accept_all(listener).map_err(failed("accept at"))?;
        let wanted = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // The kernel passes over a negative descriptor.
        let mut wanted = [listener, signals, changes.unwrap_or(-1)].map(wanted);
        let timeout = if changes.is_some() { -1 } else { LOOK_AGAIN };
        // SAFETY: the pointer and the length are of one array.
        match answer(unsafe { libc::poll(wanted.as_mut_ptr(), wanted.len() as libc::nfds_t, timeout) }) {
            Ok(_) | Err(libc::EINTR) => {}
            Err(errno) => return Err(failed("wait at")(errno)),
        }
        let [_, signalled, changed] = wanted;
        if signalled.revents != 0 {
            // Gone already is as good.
            // SAFETY: the path ends with the byte 0.
            let _ = unsafe { libc::unlink(path.as_c_str().as_ptr()) };
            return Ok(());
        }
        if changed.revents != 0 {
            forget(changed.fd);
        }
    }
}

/// Blocks SIGTERM, and returns a descriptor that can be read when it has come.
fn hear_sigterm() -> Result<c_int, c_int> {
    // SAFETY: all zeros is a set, which sigemptyset then makes empty; the pointers are to it.
    unsafe {
        let mut signals: libc::sigset_t = core::mem::zeroed();
        answer(libc::sigemptyset(&mut signals))?;
        answer(libc::sigaddset(&mut signals, libc::SIGTERM))?;
        answer(libc::sigprocmask(libc::SIG_BLOCK, &signals, core::ptr::null_mut()))?;
        answer(libc::signalfd(-1, &signals, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC))
    }
}

/// An existing file is an error: somebody else serves there, or did.
fn listen_at(path: &Address) -> Result<c_int, c_int> {
    // SAFETY: all zeros is an address without a path.
    let mut address: libc::sockaddr_un = unsafe { core::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(path.as_c_str().to_bytes_with_nul()) {
        *to = *from as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the pointer and the length are of one address.
    unsafe {
        let listener = answer(libc::socket(libc::AF_UNIX, kind, 0))?;
        let length = size_of::<libc::sockaddr_un>() as libc::socklen_t;
        answer(libc::bind(listener, (&raw const address).cast(), length))?;
        answer(libc::listen(listener, BACKLOG))?;
        Ok(listener)
    }
}

/// Hears of what happens in the socket's directory. If the kernel refuses, the file is looked at now and then.
fn watch(directory: &Address) -> Result<c_int, c_int> {
    let gone = libc::IN_DELETE | libc::IN_MOVED_FROM | libc::IN_DELETE_SELF | libc::IN_MOVE_SELF;
    // SAFETY: the path ends with the byte 0.
    unsafe {
        let changes = answer(libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC))?;
        answer(libc::inotify_add_watch(changes, directory.as_c_str().as_ptr(), gone))?;
        Ok(changes)
    }
}

/// Reads what there is: which change it was does not matter, since the file is looked at again.
fn forget(changes: c_int) {
    // Larger than one event with the longest name.
    let mut events = [0_u8; 4096];
    // SAFETY: the pointer and the length are of one array.
    while unsafe { libc::read(changes, events.as_mut_ptr().cast(), events.len()) } > 0 {}
}

/// Accepts and closes whatever waits.
fn accept_all(listener: c_int) -> Result<(), c_int> {
    loop {
        // SAFETY: who connects is not asked for.
        let accepted =
            unsafe { libc::accept4(listener, core::ptr::null_mut(), core::ptr::null_mut(), libc::SOCK_CLOEXEC) };
        match answer(accepted) {
            // SAFETY: the descriptor is new and has no other owner.
            Ok(connection) => drop(answer(unsafe { libc::close(connection) })),
            Err(libc::EAGAIN) => return Ok(()),
            Err(libc::EINTR | libc::ECONNABORTED) => {}
            Err(errno) => return Err(errno),
        }
    }
}
