//! `ctl console`: the guest's serial port in this terminal, or in a script.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::CtlError;

/// `^]`, as in telnet and virsh.
const ESCAPE: u8 = 0x1d;
const BUFFER_BYTES: usize = 4096;

#[derive(Debug, clap::Args)]
pub(super) struct Options {
    /// The serial port's socket, instead of the one that the launcher's domain names.
    #[arg(long, value_name = "SOCKET")]
    path: Option<PathBuf>,
    /// End when the guest has written this text.
    #[arg(long, value_name = "TEXT")]
    until: Option<String>,
}

impl Options {
    pub(super) fn path(&self) -> Option<PathBuf> {
        self.path.clone()
    }
}

/// Copies between the terminal and the guest until `^]`, the end of the VM, `--until`, or `timeout`.
///
/// When standard input is not a terminal, it is copied to its end, and the guest's output is printed further. Running out of time
/// is a failure only for who waited for a text.
pub(super) fn run(path: &Path, options: &Options, timeout: Option<Duration>) -> Result<(), CtlError> {
    let mut guest = UnixStream::connect(path).map_err(|error| {
        CtlError::Unreachable(format!("cannot connect to the serial port {}: {error}", path.display()))
    })?;
    let stdin = io::stdin();
    let interactive = stdin.is_terminal();
    let _raw = interactive.then(|| Raw::enter(&stdin)).transpose().map_err(broken("terminal"))?;
    if interactive {
        eprint!("connected to {}, escape is ^]\r\n", path.display());
    }
    let give_up = timeout.map(|timeout| Instant::now() + timeout);
    let mut until = options.until.as_deref().map(|text| Wanted::new(text.as_bytes()));
    let mut typing = true;
    loop {
        let left = give_up.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return match &options.until {
                Some(text) => Err(CtlError::Refused(format!("the guest did not write {text:?} in time"))),
                None => Ok(()),
            };
        }
        let (from_guest, from_stdin) = wait(&guest, &stdin, typing, left).map_err(broken("poll"))?;
        let mut buffer = [0; BUFFER_BYTES];
        if from_guest {
            let count = guest.read(&mut buffer).map_err(broken("serial port"))?;
            let written = buffer.get(..count).unwrap_or_default();
            if written.is_empty() {
                return match &options.until {
                    Some(text) => Err(CtlError::Refused(format!("the VM ended before it wrote {text:?}"))),
                    None => Ok(()),
                };
            }
            let mut out = io::stdout().lock();
            out.write_all(written).and_then(|()| out.flush()).map_err(broken("stdout"))?;
            if until.as_mut().is_some_and(|wanted| wanted.seen(written)) {
                return Ok(());
            }
        }
        if from_stdin {
            // Not through `Stdin`, whose buffer would hide from poll what it has already read.
            let count = nix::unistd::read(stdin.as_fd(), &mut buffer).map_err(|errno| broken("stdin")(errno.into()))?;
            let typed = buffer.get(..count).unwrap_or_default();
            let escape = typed.iter().position(|byte| interactive && *byte == ESCAPE);
            let sent = escape.map_or(typed, |at| typed.get(..at).unwrap_or_default());
            guest.write_all(sent).map_err(broken("serial port"))?;
            if escape.is_some() {
                return Ok(());
            }
            typing = !typed.is_empty();
        }
    }
}

fn broken(what: &'static str) -> impl Fn(io::Error) -> CtlError {
    move |error| CtlError::Refused(format!("{what}: {error}"))
}

/// Which of guest and stdin has something to read (its end included).
fn wait(guest: &UnixStream, stdin: &io::Stdin, typing: bool, left: Option<Duration>) -> io::Result<(bool, bool)> {
    // A little more than what is left, so that the deadline has passed when this returns.
    let timeout = match left {
        Some(left) => PollTimeout::try_from(left.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX),
        None => PollTimeout::NONE,
    };
    let mut descriptors = vec![PollFd::new(guest.as_fd(), PollFlags::POLLIN)];
    if typing {
        descriptors.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
    }
    match poll(&mut descriptors, timeout) {
        Ok(_) => {}
        Err(nix::errno::Errno::EINTR) => return Ok((false, false)),
        Err(errno) => return Err(errno.into()),
    }
    let ready = |at: usize| descriptors.get(at).and_then(PollFd::any).unwrap_or_default();
    Ok((ready(0), ready(1)))
}

/// The terminal without line editing and echo, until dropped.
struct Raw<'a> {
    terminal: &'a io::Stdin,
    before: Termios,
}

impl<'a> Raw<'a> {
    fn enter(terminal: &'a io::Stdin) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(terminal, SetArg::TCSANOW, &raw)?;
        Ok(Raw { terminal, before })
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(self.terminal, SetArg::TCSANOW, &self.before);
        eprintln!();
    }
}

/// Looks for a text in a stream that comes in pieces.
struct Wanted {
    text: Vec<u8>,
    /// The end of what was seen, shorter than the text.
    tail: Vec<u8>,
}

impl Wanted {
    fn new(text: &[u8]) -> Self {
        Wanted { text: text.to_vec(), tail: Vec::new() }
    }

    fn seen(&mut self, piece: &[u8]) -> bool {
        self.tail.extend_from_slice(piece);
        if self.text.is_empty() || self.tail.windows(self.text.len()).any(|window| window == self.text) {
            return true;
        }
        let keep = self.text.len() - 1;
        self.tail.drain(..self.tail.len().saturating_sub(keep));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_found_across_pieces() {
        let mut wanted = Wanted::new(b"login:");
        assert!(!wanted.seen(b"welcome\r\nlog"));
        assert!(!wanted.seen(b"i"));
        assert!(wanted.seen(b"n: "));
        let mut wanted = Wanted::new(b"aab");
        assert!(!wanted.seen(b"a"));
        assert!(!wanted.seen(b"a"));
        assert!(!wanted.seen(b"a"));
        assert!(wanted.seen(b"b"));
        assert!(!Wanted::new(b"x").seen(b""));
    }
}
