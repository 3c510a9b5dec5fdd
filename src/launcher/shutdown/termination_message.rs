//! The pod's termination message: what `kubectl describe` shows of a container that ended badly.
#![allow(clippy::disallowed_methods, reason = "a file of the node's disk that the kubelet has made")]

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Where the kubelet mounts it (`terminationMessagePath` by default).
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// As much as the kubelet keeps.
const LIMIT: usize = 4096;

/// Writes the message, if the kubelet wants one. Nothing depends on it.
pub fn write(path: &Path, message: &str) {
    match attempt(path, message) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(reason = %error, "no termination message in {}", path.display()),
    }
}

fn attempt(path: &Path, message: &str) -> io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut file = OpenOptions::new().write(true).truncate(true).custom_flags(flags).open(path)?;
    let end = (0..=LIMIT.min(message.len())).rev().find(|end| message.is_char_boundary(*end)).unwrap_or_default();
    file.write_all(message.get(..end).unwrap_or_default().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_cut_to_size_and_written_only_where_it_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let (log, missing, link) =
            (folder.path().join("log"), folder.path().join("missing"), folder.path().join("link"));
        std::fs::write(&log, "an older message").unwrap();
        write(&log, "short");
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "short");
        write(&log, &"ü".repeat(LIMIT));
        assert_eq!(std::fs::read_to_string(&log).unwrap().len(), LIMIT);
        write(&missing, "text");
        assert!(!missing.exists());
        std::os::unix::fs::symlink(&log, &link).unwrap();
        write(&link, "through a link");
        assert_ne!(std::fs::read_to_string(&log).unwrap(), "through a link");
    }
}
