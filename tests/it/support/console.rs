//! A shell of the test guest, on its serial console.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::wait_for;

/// From the start of the domain to the guest's shell, in emulation on a busy machine.
const BOOT: Duration = Duration::from_secs(300);
/// One command.
const COMMAND: Duration = Duration::from_secs(60);
/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(200);

/// Holds the serial port; QEMU serves one at a time.
pub struct Console {
    stream: UnixStream,
    seen: String,
}

impl Console {
    /// Connects to the socket of the serial port and waits for the guest's shell.
    pub fn open(socket: &Path) -> Console {
        let stream = wait_for("serial port", BOOT, || UnixStream::connect(socket));
        stream.set_read_timeout(Some(TICK)).unwrap();
        let mut console = Console { stream, seen: String::new() };
        console.up_to("guest: ready", BOOT);
        console
    }

    /// Connects to the serial port of a guest that has booted already.
    pub fn of_a_booted_guest(socket: &Path) -> Console {
        let stream = wait_for("serial port", COMMAND, || UnixStream::connect(socket));
        stream.set_read_timeout(Some(TICK)).unwrap();
        Console { stream, seen: String::new() }
    }

    /// Runs a command in the guest and returns what it printed; the test fails unless it succeeds.
    pub fn run(&mut self, command: &str) -> String {
        let (code, output) = self.attempt(command);
        assert_eq!(code, 0, "in the guest, {command}: {output}");
        output
    }

    /// Runs `command` in the guest until it succeeds.
    pub fn wait(&mut self, command: &str) -> String {
        self.run(&format!("for i in $(seq 200); do {command} && break; sleep 0.1; [ $i -lt 200 ]; done"))
    }

    /// Reads on until the guest has written `text`.
    pub fn read_up_to(&mut self, text: &str) {
        self.up_to(text, COMMAND);
    }

    /// Makes the guest's kernel panic. It writes out why before it does anything else, and would wait for somebody who
    /// stays connected and does not read.
    pub fn crash(mut self) {
        writeln!(self.stream, "echo c >/proc/sysrq-trigger").unwrap();
        self.up_to("Kernel panic", COMMAND);
    }

    fn attempt(&mut self, command: &str) -> (i32, String) {
        // The shell echoes what is typed; with the quotes in it that does not look like the markers.
        writeln!(self.stream, "echo B''EGIN; {command}; echo E''ND=$?=").unwrap();
        self.up_to("BEGIN", COMMAND);
        let output = self.up_to("END=", COMMAND);
        let code = self.up_to("=", COMMAND);
        (code.parse().unwrap(), output.replace('\r', "").trim().to_owned())
    }

    /// What the guest writes before `text`, which is taken off too.
    fn up_to(&mut self, text: &str, deadline: Duration) -> String {
        let start = Instant::now();
        loop {
            if let Some((before, after)) = self.seen.split_once(text) {
                let (before, after) = (before.to_owned(), after.to_owned());
                self.seen = after;
                return before;
            }
            assert!(start.elapsed() < deadline, "no {text:?} on the console: {}", self.seen);
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the VM has ended before {text:?}: {}", self.seen),
                Ok(count) => self.seen.push_str(&String::from_utf8_lossy(&buffer[..count])),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => panic!("serial port: {error}"),
            }
        }
    }
}
