//! libvirt's `qemu` hook (contract/lifecycle.md 10.3): hands an incoming migration's XML to the launcher of the target
//! pod, and leaves the mark of a finished migration. Everything else is none of its business.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The launcher's pre-migration hook server.
const SOCKET: &str = "/var/run/kubevirt/migration-hook-socket";
/// Made when a migration away from here is complete.
const MIGRATED: &str = "/run/kubevirt-private/backend-storage-meta/migrated";
/// For the whole exchange.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest document either way.
const LONGEST: u64 = 16 * 1024 * 1024;

/// Runs the hook: `arguments` are `<domain> <operation> <sub-operation> <extra>`.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let done = match words.as_slice() {
        [_, "migrate", "begin", ..] => {
            exchange(Path::new(SOCKET), DEADLINE, &mut io::stdin().lock(), &mut io::stdout().lock())
        }
        [_, "release", "end", "migrated", ..] => std::fs::File::create(MIGRATED)
            .map(drop)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot make {MIGRATED}: {error}"))),
        _ => Ok(()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("qemu hook: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Sends the XML without closing, since the server answers as soon as the root element is complete, and prints the answer.
fn exchange(socket: &Path, deadline: Duration, xml: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    let named = |what: &str, error: io::Error| {
        io::Error::new(error.kind(), format!("cannot {what} {}: {error}", socket.display()))
    };
    let end = Instant::now() + deadline;
    let left = || match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::new(io::ErrorKind::TimedOut, "the launcher did not answer in time")),
        left => Ok(Some(left)),
    };
    let mut document = Vec::new();
    xml.take(LONGEST).read_to_end(&mut document)?;
    let mut stream = UnixStream::connect(socket).map_err(|error| named("connect to", error))?;
    stream.set_write_timeout(left()?)?;
    stream.write_all(&document).map_err(|error| named("write to", error))?;
    let mut answer = Vec::new();
    let mut buffer = [0_u8; 8192];
    loop {
        stream.set_read_timeout(left()?)?;
        let count = stream.read(&mut buffer).map_err(|error| named("read from", error))?;
        if count == 0 {
            break;
        }
        answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if answer.len() as u64 > LONGEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the launcher's answer is too long"));
        }
    }
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the launcher refused the migration"));
    }
    out.write_all(&answer)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn served(answer: &'static [u8]) -> (io::Result<()>, Vec<u8>, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; 9];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(answer).unwrap();
            asked
        });
        let mut out = Vec::new();
        let result = exchange(&path, Duration::from_secs(10), &mut b"<domain/>".as_slice(), &mut out);
        (result, server.join().unwrap(), out)
    }

    #[test]
    fn the_answer_is_printed_and_an_empty_one_refuses() {
        let (result, asked, out) = served(b"<domain>x</domain>");
        result.unwrap();
        assert_eq!((asked.as_slice(), out.as_slice()), (b"<domain/>".as_slice(), b"<domain>x</domain>".as_slice()));
        let (result, _, out) = served(b"");
        assert!(result.is_err() && out.is_empty());
    }

    #[test]
    fn a_silent_server_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let result = exchange(&path, Duration::from_millis(30), &mut b"<domain/>".as_slice(), &mut Vec::new());
        assert!(result.is_err());
    }

    #[test]
    fn other_operations_are_ignored() {
        for words in [&["vm", "prepare", "begin", "-"][..], &["vm"], &[], &["vm", "release", "end", "-"]] {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert_eq!(format!("{:?}", run(&words)), format!("{:?}", ExitCode::SUCCESS));
        }
    }
}
