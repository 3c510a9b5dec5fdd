//! What passes between libvirt's `qemu` hook and the launcher of a target pod (contract/migration.md 9).
//!
//! The hook sends the incoming domain's XML, without length or end, and the launcher answers with the XML that is to start, or
//! closes without a byte: so the original's two programs talk. A hook that begins with [`EXPLAIN`], which an XML reader passes
//! over, gets the reason of a refusal, and libvirt puts what the hook says into the migration's error.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Where the launcher listens.
pub const SOCKET: &str = "/var/run/kubevirt/migration-hook-socket";
/// Longest document either way, in bytes.
pub const LONGEST: u64 = 16 * 1024 * 1024;
/// Asks for the reason of a refusal.
pub const EXPLAIN: &str = "<?virt-launcher-hook explain?>";
/// A refusal begins with it, which no document does.
const REFUSED: &str = "refused: ";

/// The answer of a launcher that refuses, to a hook that wants to know why.
pub fn refusal(reason: &str) -> String {
    format!("{REFUSED}{reason}\n")
}

/// Asks the launcher at `socket` to adapt `xml` and writes its answer to `out`. It sends without closing, as the launcher
/// answers as soon as the outermost element is complete. `step` is called with the name of each step.
pub fn exchange(socket: &Path, step: &dyn Fn(&'static str), xml: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    let named = |what: &str, error: io::Error| {
        io::Error::new(error.kind(), format!("cannot {what} {}: {error}", socket.display()))
    };
    step("read libvirt's XML");
    let mut document = EXPLAIN.as_bytes().to_vec();
    xml.take(LONGEST).read_to_end(&mut document)?;
    step("connect to the launcher");
    let mut stream = UnixStream::connect(socket).map_err(|error| named("connect to", error))?;
    step("write to the launcher");
    // A launcher that refuses early closes early, and has answered: its answer is reported rather than the broken pipe.
    let written = stream.write_all(&document);
    step("read the launcher's answer");
    let mut answer = Vec::new();
    let read = (&stream).take(LONGEST + 1).read_to_end(&mut answer);
    if answer.is_empty() {
        written.map_err(|error| named("write to", error))?;
    }
    read.map_err(|error| named("read from", error))?;
    if answer.len() as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the launcher's answer is too long"));
    }
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the launcher refused the migration"));
    }
    if let Some(reason) = answer.strip_prefix(REFUSED.as_bytes()) {
        let reason = String::from_utf8_lossy(reason).trim_end().to_owned();
        return Err(io::Error::other(format!("the launcher refused the migration: {reason}")));
    }
    step("write to libvirt");
    out.write_all(&answer)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What the hook makes of an answer: its outcome, what the launcher got, what libvirt gets.
    fn answered(answer: &'static [u8]) -> (io::Result<()>, Vec<u8>, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hook.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; EXPLAIN.len() + 9];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(answer).unwrap();
            asked
        });
        let mut out = Vec::new();
        let result = exchange(&path, &|_| {}, &mut b"<domain/>".as_slice(), &mut out);
        (result, server.join().unwrap(), out)
    }

    #[test]
    fn answer_goes_to_libvirt_and_a_refusal_does_not() {
        let (result, asked, out) = answered(b"<domain>x</domain>");
        result.unwrap();
        assert_eq!(asked, format!("{EXPLAIN}<domain/>").as_bytes());
        assert_eq!(out, b"<domain>x</domain>");
        let refused = |answer| {
            let (result, _, out) = answered(answer);
            assert!(out.is_empty());
            result.unwrap_err().to_string()
        };
        assert_eq!(refused(b""), "the launcher refused the migration");
        assert_eq!(refused(b"refused: no CPU\n"), "the launcher refused the migration: no CPU");
    }
}
