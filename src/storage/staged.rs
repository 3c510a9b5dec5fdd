//! Files that appear under their name only once they are whole.

use std::path::{Path, PathBuf};

use super::{Owner, StorageError, make_directory, own, staging};

/// A file that is made under another name than its own. Dropped before it is published, it is removed: a half-made one must
/// not be taken for a disk next time.
#[derive(Debug)]
pub struct Staged {
    at: PathBuf,
    path: PathBuf,
    owner: Owner,
    mode: u32,
}

impl Staged {
    /// A file that is to be made at [`Staged::at`] and to become `path`, whose folder is made if need be. Whoever has access
    /// to the folder finds no way to lead the maker elsewhere: nothing is there yet.
    pub(super) async fn new(path: &Path, owner: Owner, mode: u32) -> Result<Self, StorageError> {
        if let Some(directory) = path.parent() {
            make_directory(directory).await?;
        }
        Ok(Staged { at: staging(path), path: path.to_owned(), owner, mode })
    }

    /// Where to make it.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    /// Gives the finished file to its owner and its name, in place of an earlier one.
    pub async fn publish(self) -> Result<(), StorageError> {
        use std::os::unix::fs::PermissionsExt;
        let at = &self.at;
        tokio::fs::set_permissions(at, std::fs::Permissions::from_mode(self.mode))
            .await
            .map_err(StorageError::io(at, "set its mode"))?;
        own(at, self.owner)?;
        tokio::fs::rename(at, &self.path).await.map_err(StorageError::io(&self.path, "give the finished file its name"))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After its publication it is not there; what cannot be removed is when the next one is made.
        let _ = std::fs::remove_file(&self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::super::me;
    use super::*;

    #[tokio::test]
    async fn a_file_has_its_name_when_it_is_published_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disks/disk.img");
        let names = || std::fs::read_dir(folder.path().join("disks")).unwrap().map(|entry| entry.unwrap().file_name());
        let staged = Staged::new(&path, me(), 0o640).await.unwrap();
        std::fs::write(staged.at(), "half").unwrap();
        assert!(!path.exists());
        drop(staged);
        assert_eq!(names().count(), 0);
        let staged = Staged::new(&path, me(), 0o640).await.unwrap();
        std::fs::write(staged.at(), "whole").unwrap();
        staged.publish().await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(names().collect::<Vec<_>>(), ["disk.img"]);
    }
}
