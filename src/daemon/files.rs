//! Writes libvirt's configuration files as the plan says.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::files::{Folder, split};
use crate::hypervisor::{ConfigFile, LibvirtFiles};

/// A configuration file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("libvirt configuration {path}: cannot {what}: {source}")]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What was tried.
    pub what: &'static str,
    /// Why it failed.
    pub source: io::Error,
}

/// Copies every shipped file to its place (mode 0644, never through a link) and appends the plan's lines. A file that is
/// appended to in place gets each line once, however often the launcher starts.
pub fn write_files(plan: &LibvirtFiles) -> Result<(), FileError> {
    plan.files.iter().try_for_each(write_file)
}

fn write_file(file: &ConfigFile) -> Result<(), FileError> {
    let ConfigFile { shipped, target, append } = file;
    let failed = |path: &Path, what| {
        let path = path.to_owned();
        move |source| FileError { path, what, source }
    };
    let mut text = String::new();
    match std::fs::File::open(shipped) {
        Ok(mut shipped_file) => {
            shipped_file.read_to_string(&mut text).map_err(failed(shipped, "read it"))?;
        }
        // A distribution without the file means the daemon's defaults.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(shipped, "open it")(error)),
    }
    let in_place = shipped == target;
    let mut changed = !in_place;
    for line in append {
        if !in_place || !text.lines().any(|present| present == line) {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(line);
            text.push('\n');
            changed = true;
        }
    }
    if !changed {
        return Ok(());
    }
    let (directory, name) = split(target).map_err(failed(target, "find its directory"))?;
    let (folder, _) =
        Folder::make(directory, 0o755).map_err(|error| failed(directory, "make the directory")(error.into()))?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
    let mut out =
        folder.file(name, flags, Mode::from_bits_truncate(0o644)).map_err(failed(target, "open it for writing"))?;
    out.write_all(text.as_bytes()).map_err(failed(target, "write it"))?;
    out.set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(failed(target, "set its mode"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(shipped: &Path, target: &Path, line: &str) -> LibvirtFiles {
        let file = ConfigFile { shipped: shipped.into(), target: target.into(), append: vec![line.into()] };
        LibvirtFiles { files: vec![file] }
    }

    #[test]
    fn copy_is_made_anew_and_a_file_in_place_grows_once() {
        let folder = tempfile::tempdir().unwrap();
        let (shipped, copy) = (folder.path().join("a.conf"), folder.path().join("deep/b.conf"));
        std::fs::write(&shipped, "x = 1").unwrap();
        for _ in 0..2 {
            write_files(&plan(&shipped, &copy, "y = 2")).unwrap();
            assert_eq!(std::fs::read_to_string(&copy).unwrap(), "x = 1\ny = 2\n");
            write_files(&plan(&shipped, &shipped, "z = 3")).unwrap();
            assert_eq!(std::fs::read_to_string(&shipped).unwrap(), "x = 1\nz = 3\n");
            std::fs::write(&shipped, "x = 1").unwrap();
        }
        write_files(&plan(&shipped, &shipped, "z = 3")).unwrap();
        write_files(&plan(&shipped, &shipped, "z = 3")).unwrap();
        assert_eq!(std::fs::read_to_string(&shipped).unwrap(), "x = 1\nz = 3\n");
    }

    #[test]
    fn link_in_the_targets_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (shipped, victim, link) =
            (folder.path().join("a"), folder.path().join("victim"), folder.path().join("link"));
        std::fs::write(&shipped, "x").unwrap();
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let error = write_files(&plan(&shipped, &link, "y")).unwrap_err().to_string();
        assert!(error.contains("link"), "{error}");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }
}
