//! Files that appear under their name only once they are whole.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Owner, StorageError, blocking};
use crate::files::{Folder, split};

/// A file that is made under another name than its own. Dropped before it is published, it is removed: a half-made one must
/// not be taken for a disk next time.
///
/// It is open from its beginning on and is written through its descriptor, by tools too ([`Staged::at`]): whoever has
/// access to the folder cannot lead them to another file, whatever they do to the name.
#[derive(Debug)]
pub struct Staged {
    folder: Folder,
    file: File,
    name: String,
    path: PathBuf,
    owner: Owner,
    mode: u32,
}

impl Staged {
    /// An empty file that is to become `path`, whose folder is made if need be.
    pub(super) async fn new(path: &Path, owner: Owner, mode: u32) -> Result<Self, StorageError> {
        let path = path.to_owned();
        blocking(move || {
            let made = || -> io::Result<_> {
                let (folder, name) = split(&path)?;
                let (folder, _) = Folder::make(folder, 0o755)?;
                let name = format!("{name}.staging");
                let file = folder.create(&name)?;
                Ok((folder, file, name))
            };
            let (folder, file, name) = made().map_err(StorageError::io(&path, "make it"))?;
            Ok(Staged { folder, file, name, path, owner, mode })
        })
        .await
    }

    /// The file, to read and write.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Lets `write` make its content, in a thread that may wait for storage.
    pub(super) async fn write(
        self,
        write: impl FnOnce(&File) -> io::Result<()> + Send + 'static,
    ) -> Result<Self, StorageError> {
        blocking(move || {
            write(&self.file).map_err(StorageError::io(&self.path, "write it"))?;
            Ok(self)
        })
        .await
    }

    /// The path by which a tool that inherits [`Staged::file`] finds it.
    pub(super) fn at(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Gives the finished file to its owner and its name, in place of an earlier one.
    pub async fn publish(self) -> Result<(), StorageError> {
        blocking(move || {
            let Staged { folder, file, name, path, owner, mode } = &self;
            file.set_permissions(Permissions::from_mode(*mode)).map_err(StorageError::io(path, "set its mode"))?;
            own(file, *owner).map_err(StorageError::io(path, "change its owner"))?;
            let (_, finally) = split(path).map_err(StorageError::io(path, "find its name"))?;
            folder.rename(name, finally).map_err(StorageError::io(path, "give the finished file its name"))
        })
        .await
    }
}

/// chown, only where it changes something.
fn own(file: &File, owner: Owner) -> io::Result<()> {
    let found = file.metadata()?;
    if (found.uid(), found.gid()) == (owner.uid, owner.gid) {
        return Ok(());
    }
    std::os::unix::fs::fchown(file, Some(owner.uid), Some(owner.gid))
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After its publication it is not there; what cannot be removed is when the next one is made.
        let _ = self.folder.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn file_has_its_name_when_it_is_published_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disks/disk.img");
        let names = || std::fs::read_dir(folder.path().join("disks")).unwrap().map(|entry| entry.unwrap().file_name());
        let staged = Staged::new(&path, Owner::me(), 0o640).await.unwrap();
        staged.file().write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(staged);
        assert_eq!(names().count(), 0);
        let staged = Staged::new(&path, Owner::me(), 0o640).await.unwrap();
        assert!(std::fs::read(staged.at()).unwrap().is_empty(), "nothing of the one before");
        staged.file().write_all(b"whole").unwrap();
        staged.publish().await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(names().collect::<Vec<_>>(), ["disk.img"]);
    }

    #[tokio::test]
    async fn whoever_changes_the_name_leads_nobody_elsewhere() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (victim, path) = (outside.path().join("victim"), folder.path().join("disk.img"));
        std::fs::write(&victim, "precious").unwrap();
        let name = folder.path().join("disk.img.staging");
        std::os::unix::fs::symlink(&victim, &name).unwrap();
        let staged = Staged::new(&path, Owner::me(), 0o640).await.unwrap();
        std::fs::remove_file(&name).unwrap();
        std::os::unix::fs::symlink(&victim, &name).unwrap();
        std::fs::write(staged.at(), "content").unwrap();
        staged.publish().await.unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_ne!(std::fs::metadata(&victim).unwrap().mode() & 0o777, 0o640);
    }
}
