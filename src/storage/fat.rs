//! FAT images, made in this process: nothing is staged outside the image.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

use super::{Owner, Staged, StorageError};

/// Room beside the files: what Cloud Hypervisor's own examples give a seed, and far more than the tables need. The file is
/// sparse.
const ROOM: u64 = 8 << 20;
/// Length of a FAT volume label.
const LABEL: usize = 11;

/// Makes what is to be the image `path`, labelled `label` (at most 11 bytes), with `files` by their paths.
pub(super) async fn make_fat_image(
    path: &Path,
    label: &'static str,
    files: Vec<(&'static str, Vec<u8>)>,
    owner: Owner,
) -> Result<Staged, StorageError> {
    Staged::new(path, owner, 0o640).await?.write(move |file| write(file, label, &files)).await
}

fn write(mut image: &File, label: &str, files: &[(&str, Vec<u8>)]) -> std::io::Result<()> {
    let content: u64 = files.iter().map(|(_, content)| content.len() as u64).sum();
    image.set_len((content + ROOM).next_multiple_of(1 << 20))?;
    let mut name = [b' '; LABEL];
    for (to, from) in name.iter_mut().zip(label.bytes()) {
        *to = from;
    }
    fatfs::format_volume(image, FormatVolumeOptions::new().volume_label(name))?;
    image.seek(SeekFrom::Start(0))?;
    let system = FileSystem::new(&mut image, FsOptions::new())?;
    {
        let root = system.root_dir();
        for (path, content) in files {
            for (end, _) in path.match_indices('/') {
                root.create_dir(path.get(..end).unwrap_or_default())?;
            }
            let mut file = root.create_file(path)?;
            file.truncate()?;
            file.write_all(content)?;
            file.flush()?;
        }
    }
    system.unmount()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[tokio::test]
    async fn files_labels_and_folders_are_there_and_the_image_is_sparse() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ns/vm/configdrive.img");
        let data = "x".repeat(3 << 20);
        let files = vec![
            ("openstack/latest/meta_data.json", b"{}".to_vec()),
            ("openstack/latest/user_data", data.clone().into_bytes()),
        ];
        make_fat_image(&path, "config-2", files, Owner::me()).await.unwrap().publish().await.unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert!(found.blocks() * 512 < found.len() / 2, "{} of {} bytes", found.blocks() * 512, found.len());
        assert_eq!((found.mode() & 0o777, found.len() % (1 << 20)), (0o640, 0));
        let image = std::fs::File::open(&path).unwrap();
        let system = FileSystem::new(ReadOnly(image), FsOptions::new()).unwrap();
        assert_eq!(system.volume_label(), "config-2");
        assert_eq!(system.read_volume_label_from_root_dir().unwrap().as_deref(), Some("config-2"));
        let mut text = String::new();
        system.root_dir().open_file("openstack/latest/user_data").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, data);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
    }

    /// The crate wants to write; a guest's seed is read-only.
    struct ReadOnly(std::fs::File);

    impl Read for ReadOnly {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Write for ReadOnly {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl Seek for ReadOnly {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
}
