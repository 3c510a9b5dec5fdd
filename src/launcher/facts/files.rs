//! Small files below a root directory, read with a limit.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Most bytes that are taken of one file.
const MOST_BYTES: u64 = 4 << 20;
/// Most entries that are taken of one directory.
const MOST_ENTRIES: usize = 1 << 16;

/// An absolute path of the pod, below `root`.
pub(crate) fn below(root: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The content of a file; `None` if there is none. What keeps an existing file from being read goes to the log: a fact
/// is missing then, and the conversion says what it is missed for.
pub(super) fn text(path: &Path) -> Option<String> {
    match read(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!("{}: cannot be read: {error}", path.display());
            None
        }
    }
}

/// [`text`] without white space around it, empty if there is none.
pub(super) fn word(path: &Path) -> String {
    text(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let taken = std::fs::File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if taken as u64 > MOST_BYTES {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {MOST_BYTES} bytes")));
    }
    Ok(text)
}

/// Names in a directory, sorted; none if there is no such directory.
pub(super) fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let names = entries.take(MOST_ENTRIES).filter_map(Result::ok).map(|entry| entry.file_name().into_string());
    let mut names: Vec<String> = names.filter_map(Result::ok).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_below_the_root_and_up_to_a_limit() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/sys")).unwrap();
        for (name, content) in [("b", vec![b'x'; 8]), ("a", b"word\n".to_vec()), ("c", vec![b'x'; (4 << 20) + 1])] {
            std::fs::write(root.path().join("proc/sys").join(name), content).unwrap();
        }
        assert_eq!(names(&below(root.path(), "/proc/sys")), ["a", "b", "c"]);
        assert_eq!(word(&below(root.path(), "/proc/sys/a")), "word");
        assert_eq!(text(&below(root.path(), "/proc/sys/b")).unwrap().len(), 8);
        assert_eq!(text(&below(root.path(), "/proc/sys/c")), None);
        assert_eq!(text(&below(root.path(), "/proc/nothing")), None);
        assert_eq!(names(&below(root.path(), "/proc/nothing")), Vec::<String>::new());
    }
}
