//! Container disks and boot artefacts out of image volumes (contract/lifecycle.md 9.3): the kubelet mounts the image,
//! links give its files the names that the domain uses. Blocking: looks at a few directory entries.

use std::path::{Component, Path, PathBuf};

use super::{StorageError, volume_component};
use crate::files::Folder;

/// Where a container disk's image is looked for if the VMI gives no path and the root has more than one entry.
const DISK_DIRECTORY: &str = "disk";

/// The disk's file in an image volume: the one at `path`, which is absolute in the image, or without a path the only one.
/// Never outside the volume, wherever links in the image lead.
pub fn find_disk_file(volume: &Path, path: &str) -> Result<PathBuf, StorageError> {
    if !path.is_empty() {
        return artefact(volume, path);
    }
    match only_file(volume) {
        Ok(file) => Ok(file),
        Err(_) => only_file(&volume.join(DISK_DIRECTORY)),
    }
    .and_then(|file| stays_inside(volume, file))
}

/// A file of an image volume by its absolute path in the image.
pub fn artefact(volume: &Path, path: &str) -> Result<PathBuf, StorageError> {
    let mut file = volume.to_owned();
    for component in Path::new(path).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => file.push(name),
            Component::ParentDir | Component::Prefix(_) => return Err(outside(volume, Path::new(path))),
        }
    }
    stays_inside(volume, file)
}

/// Links `directory/name` to `target`, the directory included. A link that is there already is left as it is.
pub fn link(directory: &Path, name: &str, target: &Path) -> Result<(), StorageError> {
    let (folder, _) = Folder::make(directory, 0o755)
        .map_err(|error| StorageError::io(directory, "make the directory")(error.into()))?;
    let name = volume_component(name)?;
    match folder.link(name, target) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(StorageError::io(&directory.join(name), "make the link")),
    }
}

/// The entry of a directory that has a single one, if that is a file.
fn only_file(directory: &Path) -> Result<PathBuf, StorageError> {
    let refused = |what| StorageError::NoSingleFile { directory: directory.to_owned(), what };
    let mut entries = std::fs::read_dir(directory).map_err(StorageError::io(directory, "look for the disk's image"))?;
    let first = entries.next().ok_or_else(|| refused("it is empty"))?;
    let first = first.map_err(StorageError::io(directory, "list it"))?.path();
    if entries.next().is_some() {
        return Err(refused("it has more than one entry"));
    }
    if first.is_file() { Ok(first) } else { Err(refused("its entry is not a file")) }
}

fn stays_inside(volume: &Path, file: PathBuf) -> Result<PathBuf, StorageError> {
    let real = |path: &Path| std::fs::canonicalize(path).map_err(StorageError::io(path, "find it in the image volume"));
    if real(&file)?.starts_with(real(volume)?) { Ok(file) } else { Err(outside(volume, &file)) }
}

fn outside(volume: &Path, path: &Path) -> StorageError {
    StorageError::OutsideVolume { path: path.to_owned(), volume: volume.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn volume(files: &[&str]) -> tempfile::TempDir {
        let volume = tempfile::tempdir().unwrap();
        for file in files {
            let path = volume.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, file).unwrap();
        }
        volume
    }

    #[test]
    fn disk_is_found_by_path_or_as_the_only_file() {
        for (files, path, wanted) in [
            (&["disk/a.img", "disk/b.img"][..], "/disk/b.img", "disk/b.img"),
            (&["only.qcow2"], "", "only.qcow2"),
            (&["etc/passwd", "disk/a.img"], "", "disk/a.img"),
            (&["disk/a.img"], "", "disk/a.img"),
        ] {
            let volume = volume(files);
            assert_eq!(find_disk_file(volume.path(), path).unwrap(), volume.path().join(wanted), "{files:?}");
        }
    }

    #[test]
    fn what_is_not_a_single_file_in_the_volume_is_refused_by_name() {
        for (files, path, wanted) in [
            (&["a", "b"][..], "", "disk: cannot look for the disk's image"),
            (&["x/y", "disk/a", "disk/b"], "", "more than one entry"),
            (&["disk/sub/a"], "", "not a file"),
            (&["a"], "/missing", "missing"),
            (&["a"], "/../a", "leads out of"),
        ] {
            let volume = volume(files);
            let text = find_disk_file(volume.path(), path).unwrap_err().to_string();
            assert!(text.contains(wanted), "{text}");
        }
        let secret = volume(&["host-file"]);
        let image = volume(&["disk/link-target"]);
        symlink(secret.path().join("host-file"), image.path().join("out")).unwrap();
        symlink("disk/link-target", image.path().join("in")).unwrap();
        let text = find_disk_file(image.path(), "/out").unwrap_err().to_string();
        assert!(text.contains("leads out of"), "{text}");
        assert_eq!(find_disk_file(image.path(), "/in").unwrap(), image.path().join("in"));
    }

    #[test]
    fn links_are_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("kernel-boot");
        link(&directory, "vmlinuz", Path::new("/a")).unwrap();
        link(&directory, "vmlinuz", Path::new("/b")).unwrap();
        assert_eq!(std::fs::read_link(directory.join("vmlinuz")).unwrap(), Path::new("/a"));
        assert!(link(&directory, "../x", Path::new("/a")).is_err());
    }
}
