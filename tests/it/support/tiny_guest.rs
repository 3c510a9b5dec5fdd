//! The guest of `pvh_guest.S`, assembled when it is needed: for VMs that need no Linux, and for hypervisors under which none
//! gets anywhere on this machine.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::wait_for;

/// From the connection to an answer.
const ANSWER: Duration = Duration::from_secs(60);

/// The ELF file.
pub fn elf() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // Test binaries that run at the same time must not write the same file.
        let named = |end: &str| folder.join(format!("pvh-guest-{}.{end}", std::process::id()));
        let (object, file) = (named("o"), named("elf"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/pvh_guest.S");
        run(Command::new("as").args(["--64", "-o"]).arg(&object).arg(source));
        let flags = ["-static", "-z", "noexecstack", "-z", "max-page-size=4096", "-Ttext-segment=0x200000"];
        run(Command::new("ld")
            .args(["-m", "elf_x86_64"])
            .args(flags)
            .args(["-e", "start", "-o"])
            .arg(&file)
            .arg(&object));
        file
    })
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("binutils are needed: {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Types a line at the serial port and waits for the guest's echo.
pub fn type_line(serial_port: &Path, line: &str) {
    let mut console = wait_for("the serial port", ANSWER, || UnixStream::connect(serial_port));
    console.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    // Whatever was typed before and not ended counts as a line of its own.
    write!(console, "\n{line}\n").unwrap();
    let (wanted, start) = (format!("echo: {line}\n"), Instant::now());
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(&wanted) {
        let mut buffer = [0; 4096];
        match console.read(&mut buffer) {
            Ok(0) => panic!("the serial port hung up: {}", String::from_utf8_lossy(&seen)),
            Ok(length) => seen.extend_from_slice(&buffer[..length]),
            Err(error) => assert!(start.elapsed() < ANSWER, "{error}: {}", String::from_utf8_lossy(&seen)),
        }
    }
}
