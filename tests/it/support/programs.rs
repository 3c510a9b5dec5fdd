//! Programs that tests make and run; also for the unit tests of the library (`process::testing`).

use std::path::Path;
use std::process::Command;

/// Makes `to` an executable copy of `from`. Another process writes it: the kernel does not run a file that is open for writing
/// (ETXTBSY), and a child that another thread of the tests has just forked would have this process's descriptor.
pub fn install(from: &Path, to: &Path) {
    let status = Command::new("install").args(["-m", "0755"]).args([from, to]).status().unwrap();
    assert!(status.success(), "{status}: install {} {}", from.display(), to.display());
}

/// Writes a script that can be run at once.
pub fn write_program(path: &Path, text: &str) {
    let draft = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(draft.path(), text).unwrap();
    install(draft.path(), path);
}
