//! The gate for untrusted images: container disks, image volumes, whatever a user made and the launcher hands to QEMU,
//! to its tools or to the copier (contract/lifecycle.md 9.3, where the original refuses a backing file alone).
//!
//! What the reader can rely on: the image is opened once, without blocking, and looked at by that descriptor; no other
//! program and no other file is involved. It is accepted if it is a regular file that is raw, or a qcow2 whose header
//! holds nothing but what `qcow2` lists as harmless. Everything that uses the image afterwards is given the format that was
//! found here, so that nothing guesses it again from what a guest may have written.

use std::fs::{File, FileType, Metadata};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::tool::Tools;
use super::{StorageError, probe, qcow2};
use crate::files::with_deadline;

/// What an image is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageInfo {
    /// `raw` or `qcow2`.
    pub format: String,
    /// Its backing file, empty if it has none.
    pub backing_file: String,
    /// Bytes on disk.
    pub actual_size: u64,
    /// Bytes the guest sees.
    pub virtual_size: u64,
}

/// Other files that an image may name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Names<'a> {
    /// None: the image is untrusted, or stands for itself.
    None,
    /// This backing file.
    Backing(&'a Path),
    /// Any data file. Who uses the image says where its data are, and that counts
    /// (`dataStore`, contract/domain-xml-qemu.md 8.6).
    DataFile,
}

/// Bytes in a unit of `st_blocks`.
const STAT_BLOCK: u64 = 512;

/// Inspects an image that is the user's and therefore untrusted: only a raw image, or a qcow2 that names no other file and
/// holds nothing unknown, is accepted.
pub async fn inspect(tools: &Tools, path: &Path) -> Result<ImageInfo, StorageError> {
    // An image volume's disk is found through a link that the launcher has made.
    within_deadline(tools, path, |path| examine(path, 0, Names::None)).await
}

/// Checks an image that an earlier attempt, or a previous launcher, has made where others can write: it may name what it was
/// made with and nothing else.
pub(super) async fn check_own(tools: &Tools, path: &Path, names: Names<'_>) -> Result<(), StorageError> {
    let backing = if let Names::Backing(backing) = names { Some(backing.to_owned()) } else { None };
    let data_file = matches!(names, Names::DataFile);
    within_deadline(tools, path, move |path| {
        let names = match &backing {
            Some(backing) => Names::Backing(backing),
            None if data_file => Names::DataFile,
            None => Names::None,
        };
        match examine(path, libc::O_NOFOLLOW, names) {
            Ok(info) if info.format == "qcow2" => Ok(()),
            Ok(info) => Err(not_own(path, &format!("its format is {}", info.format))),
            Err(StorageError::Image(why)) => Err(not_own(path, &why)),
            Err(other) => Err(other),
        }
    })
    .await
}

fn not_own(path: &Path, why: &str) -> StorageError {
    StorageError::Image(format!("{} is not as it was made: {why}", path.display()))
}

async fn within_deadline<T: Send + 'static>(
    tools: &Tools,
    path: &Path,
    look: impl FnOnce(&Path) -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    let looked = path.to_owned();
    let late = |why| StorageError::Io { path: path.to_owned(), what: "inspect it", source: std::io::Error::other(why) };
    with_deadline(tools.timings.image, move || look(&looked)).await.map_err(late)?
}

fn examine(path: &Path, flags: i32, names: Names<'_>) -> Result<ImageInfo, StorageError> {
    // Not to wait for the writer of a FIFO.
    let flags = flags | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(StorageError::io(path, "open it"))?;
    let found = file.metadata().map_err(StorageError::io(path, "look at it"))?;
    if !found.is_file() {
        return Err(StorageError::Image(format!(
            "{} is {}, not a regular file",
            path.display(),
            kind(found.file_type())
        )));
    }
    let beginning = read(&file, probe::BYTES).map_err(StorageError::io(path, "read it"))?;
    match probe::format(&beginning) {
        "raw" => Ok(info("raw", found.len(), "", &found)),
        "qcow2" => {
            let length = qcow2::header_bytes(&beginning).map_err(StorageError::Image)?;
            let cluster = read(&file, length).map_err(StorageError::io(path, "read it"))?;
            let header = qcow2::read(&cluster).map_err(StorageError::Image)?;
            admit(&header, names).map_err(StorageError::Image)?;
            Ok(info("qcow2", header.virtual_size, header.backing_file.as_deref().unwrap_or_default(), &found))
        }
        other => Err(StorageError::Image(format!("unsupported image format: {other}"))),
    }
}

/// Why the image is not accepted. The text of a backing file is the original's.
fn admit(header: &qcow2::Header, names: Names<'_>) -> Result<(), String> {
    match (header.backing_file.as_deref(), names) {
        (None, Names::None | Names::DataFile) => {}
        (Some(found), Names::Backing(wanted)) if Path::new(found) == wanted => {}
        (None, Names::Backing(wanted)) => {
            return Err(format!("expected the backing file {}, but found none", wanted.display()));
        }
        (Some(found), Names::Backing(wanted)) => {
            return Err(format!("expected the backing file {}, but found {found}", wanted.display()));
        }
        (Some(found), Names::None | Names::DataFile) => {
            return Err(format!("expected no backing file, but found {found}"));
        }
    }
    match (header.data_file.as_deref(), names) {
        (None, _) | (Some(_), Names::DataFile) => {}
        (Some(""), _) => return Err("unsupported: external data file without a name".to_owned()),
        (Some(found), _) => return Err(format!("unsupported: external data file {found}")),
    }
    header.unsupported.as_ref().map_or(Ok(()), |what| Err(format!("unsupported: {what}")))
}

fn info(format: &str, virtual_size: u64, backing_file: &str, found: &Metadata) -> ImageInfo {
    ImageInfo {
        format: format.to_owned(),
        backing_file: backing_file.to_owned(),
        actual_size: found.blocks().saturating_mul(STAT_BLOCK),
        virtual_size,
    }
}

/// The first bytes of a file, at most `length`.
fn read(file: &File, length: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// What is in a file's place, for messages.
pub fn kind(found: FileType) -> &'static str {
    if found.is_dir() {
        "a directory"
    } else if found.is_fifo() {
        "a FIFO"
    } else if found.is_socket() {
        "a socket"
    } else if found.is_block_device() {
        "a block device"
    } else if found.is_char_device() {
        "a character device"
    } else {
        "a regular file"
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::*;

    /// A folder of images.
    struct Images(tempfile::TempDir);

    impl Images {
        fn new() -> Self {
            Images(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("disk_0.img")
        }

        /// `qemu-img` with these words, in which `@` is the image; what it printed.
        fn qemu_img(&self, words: &str) -> String {
            let path = self.path().display().to_string();
            let words: Vec<String> = words.split_whitespace().map(|word| word.replace('@', &path)).collect();
            let output = Command::new("qemu-img").args(&words).current_dir(self.0.path()).output().unwrap();
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        }

        /// A new image of this format and these options.
        fn create(&self, words: &str) {
            let _ = std::fs::remove_file(self.path());
            self.qemu_img(&format!("create -q {words} @ 1M"));
        }

        /// A new qcow2 image with bytes changed.
        fn patch(&self, patches: &[(usize, &[u8])]) {
            self.create("-f qcow2");
            self.change(patches);
        }

        fn change(&self, patches: &[(usize, &[u8])]) {
            let mut image = std::fs::read(self.path()).unwrap();
            for (at, bytes) in patches {
                image[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            std::fs::write(self.path(), image).unwrap();
        }

        /// A new image whose external data file has this name.
        fn with_data_file(&self, name: &str) {
            let placeholder = "p".repeat(name.len());
            self.create(&format!("-f qcow2 -o data_file={placeholder}"));
            std::fs::remove_file(self.0.path().join(&placeholder)).unwrap();
            let image = std::fs::read(self.path()).unwrap();
            let at = image.windows(name.len()).position(|bytes| bytes == placeholder.as_bytes()).unwrap();
            self.change(&[(at, name.as_bytes())]);
        }

        async fn inspect(&self) -> Result<ImageInfo, String> {
            inspect(&Tools::default(), &self.path()).await.map_err(|error| error.to_string())
        }

        async fn refused(&self) -> String {
            self.inspect().await.unwrap_err()
        }

        fn info(&self) -> serde_json::Value {
            serde_json::from_str(&self.qemu_img("info --output=json @")).unwrap()
        }
    }

    /// Where the header's extensions begin in what qemu-img makes.
    const EXTENSIONS: usize = 112;

    #[tokio::test]
    async fn what_names_nothing_is_accepted_as_qemu_img_sees_it() {
        let images = Images::new();
        for options in [
            "-f raw",
            "-f qcow2 -o compat=0.10",
            "-f qcow2",
            "-f qcow2 -o lazy_refcounts=on",
            "-f qcow2 -o extended_l2=on",
            "-f qcow2 -o compression_type=zstd",
            "-f qcow2 -o cluster_size=512",
            "-f qcow2 -o cluster_size=2M,refcount_bits=64",
            "-f qcow2 -o preallocation=metadata,refcount_bits=1",
        ] {
            images.create(options);
            let (found, seen) = (images.inspect().await.unwrap(), images.info());
            assert_eq!(found.format, seen["format"].as_str().unwrap(), "{options}");
            assert_eq!(Some(found.virtual_size), seen["virtual-size"].as_u64(), "{options}");
            assert_eq!(Some(found.actual_size), seen["actual-size"].as_u64(), "{options}");
        }
        // Internal snapshots and bitmaps are tables of this file.
        images.create("-f qcow2");
        images.qemu_img("snapshot -c one @");
        images.qemu_img("bitmap --add @ tracked");
        assert_eq!(images.inspect().await.unwrap().format, "qcow2");
        // Compressed clusters.
        for kind in ["zlib", "zstd"] {
            let source = images.0.path().join("source");
            std::fs::write(&source, vec![b'x'; 1 << 20]).unwrap();
            let options = format!("convert -q -c -O qcow2 -o compression_type={kind} source @");
            images.qemu_img(&options);
            assert_eq!(images.inspect().await.unwrap().virtual_size, 1 << 20, "{kind}");
        }
        // A damaged image, and one that was not closed: QEMU reads both.
        images.patch(&[(79, &[0b11])]);
        assert_eq!(images.inspect().await.unwrap().format, "qcow2");
        // What a guest may have written into a raw image, and odd sizes.
        for content in [&b""[..], b"x", &[0; 513], b"\x7fELF", b"# a script\n", b"QFI\xfa\0\0\0\x03"] {
            std::fs::write(images.path(), content).unwrap();
            let found = images.inspect().await.unwrap();
            assert_eq!((found.format.as_str(), found.virtual_size), ("raw", content.len() as u64));
        }
    }

    #[tokio::test]
    async fn name_of_another_file_is_refused_whatever_it_is() {
        let images = Images::new();
        for name in [
            "/etc/passwd",
            "/dev/fdset/3",
            "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}",
            "nbd://localhost:10809/x",
            "ssh://root@localhost/etc/passwd",
            "http://localhost/x",
            "fd:3",
            "blkdebug::/etc/passwd",
        ] {
            images.create(&format!("-f qcow2 -u -b {} -F raw", name.replace('@', "%40")));
            let found = name.replace('@', "%40");
            assert_eq!(images.refused().await, format!("expected no backing file, but found {found}"));
            images.create(&format!("-f qcow2 -o compat=0.10 -u -b {found} -F raw"));
            assert_eq!(images.refused().await, format!("expected no backing file, but found {found}"));
            images.with_data_file(name);
            assert_eq!(images.refused().await, format!("unsupported: external data file {name}"));
        }
        // The feature without a name, the name without the feature.
        images.patch(&[(79, &[0b100])]);
        assert_eq!(images.refused().await, "unsupported: external data file without a name");
        images.with_data_file("/etc/passwd");
        images.change(&[(79, &[0])]);
        assert_eq!(images.refused().await, "unsupported: external data file /etc/passwd");
        // A message has one line.
        images.with_data_file("a\nb");
        assert_eq!(images.refused().await, "unsupported: external data file a\\nb");
    }

    #[tokio::test]
    async fn what_is_not_known_to_be_harmless_is_refused() {
        let images = Images::new();
        // Followed by the end of the list.
        let extension = |kind: u32| [kind.to_be_bytes(), [0; 4], [0; 4], [0; 4]].concat();
        let (encryption, unknown) = (extension(qcow2::ENCRYPTION_HEADER), extension(0x1234_5678));
        let long = [0x1234_5678_u32.to_be_bytes(), u32::MAX.to_be_bytes()].concat();
        /// Bytes at their offsets that are written into a good image.
        type Patches<'a> = &'a [(usize, &'a [u8])];
        let cases: [(Patches<'_>, &str); 21] = [
            (&[(35, &[1])], "unsupported: encryption (AES)"),
            (&[(35, &[2])], "unsupported: encryption (LUKS)"),
            (&[(35, &[9])], "unsupported: encryption (method 9)"),
            (&[(EXTENSIONS, &encryption)], "unsupported: an encryption header"),
            (&[(EXTENSIONS, &unknown)], "unsupported: header extension 0x12345678"),
            (&[(EXTENSIONS, &long)], "bad qcow2 header: an extension 0x12345678 of 4294967295 bytes"),
            (&[(79, &[1 << 5])], "unsupported: incompatible features 0x20"),
            (&[(72, &[1 << 7])], "unsupported: incompatible features 0x8000000000000000"),
            (&[(87, &[1 << 1])], "unsupported: compatible features 0x2"),
            (&[(95, &[1 << 1])], "unsupported: autoclear features 0x2"),
            (&[(104, &[7])], "unsupported: compression type 7"),
            (&[(79, &[1 << 3])], "unsupported: compression type 0"),
            (&[(105, &[1])], "unsupported: unknown header fields"),
            (&[(7, &[4])], "unsupported: qcow2 version 4"),
            (&[(23, &[30])], "bad qcow2 header: clusters of 2^30 bytes"),
            (&[(103, &[0x69])], "bad qcow2 header: a length of 105 bytes"),
            (
                &[(24, &[0x80])],
                "bad qcow2 header: 9223372036855824384 bytes for the guest, and an L1 table of 1 entries",
            ),
            (&[(36, &[0x80])], "bad qcow2 header: L1 entries 2147483649"),
            (&[(47, &[1])], "bad qcow2 header: an L1 table at 196609"),
            (&[(56, &[1])], "bad qcow2 header: clusters of the refcount table 16777217"),
            (&[(60, &[1])], "bad qcow2 header: snapshots 16777216"),
        ];
        for (patches, said) in cases {
            images.patch(patches);
            assert_eq!(images.refused().await, said);
        }
        images.create("-f qcow2 --object secret,id=s,data=abc -o encrypt.format=luks,encrypt.key-secret=s");
        assert_eq!(images.refused().await, "unsupported: encryption (LUKS)");
        for length in [8, 20, 71, 80] {
            images.patch(&[]);
            std::fs::File::options().write(true).open(images.path()).unwrap().set_len(length).unwrap();
            let found = images.refused().await;
            assert!(found.starts_with("bad qcow2 header: it ends at byte "), "{length}: {found}");
        }
    }

    #[tokio::test]
    async fn other_formats_are_refused_by_qemus_names() {
        let images = Images::new();
        let formats = ["qcow", "qed", "vdi", "vhdx", "vpc", "parallels", "vmdk", "vmdk -o subformat=monolithicFlat"];
        for format in formats {
            images.create(&format!("-f {format}"));
            let seen = images.info()["format"].as_str().unwrap().to_owned();
            assert_eq!(images.refused().await, format!("unsupported image format: {seen}"), "{format}");
        }
        images.create("-f luks --object secret,id=s,data=abc -o key-secret=s");
        assert_eq!(images.refused().await, "unsupported image format: luks");
        let mut bochs = b"Bochs Virtual HD Image".to_vec();
        bochs.resize(512, 0);
        for (content, format) in [
            // Extents are files of any name; qemu-img would open them to look at the image.
            (&b"# Disk DescriptorFile\nversion=1\nRW 1 FLAT \"/etc/passwd\" 0\n"[..], "vmdk"),
            (b"\r\n# x\r\n\r\nversion=3\r\n", "vmdk"),
            (b"COWD", "vmdk"),
            (&bochs, "bochs"),
            (b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0", "cloop"),
            (b"QFI\xfb\0\0\0\x01", "qcow"),
        ] {
            std::fs::write(images.path(), content).unwrap();
            assert_eq!(images.refused().await, format!("unsupported image format: {format}"));
        }
    }

    #[tokio::test]
    async fn what_is_not_a_file_is_refused_without_waiting_for_it() {
        let images = Images::new();
        nix::unistd::mkfifo(&images.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(images.refused().await, format!("{} is a FIFO, not a regular file", images.path().display()));
        std::fs::remove_file(images.path()).unwrap();
        std::os::unix::fs::symlink("/dev/null", images.path()).unwrap();
        let text = images.refused().await;
        assert!(text.ends_with("is a character device, not a regular file"), "{text}");
    }

    #[tokio::test]
    async fn image_of_the_launchers_own_names_what_it_was_made_with() {
        let images = Images::new();
        let own = async |names: Names<'_>| {
            let checked = check_own(&Tools::default(), &images.path(), names).await;
            checked.map_err(|error| error.to_string().split_once(" is not as it was made: ").unwrap().1.to_owned())
        };
        let base = Path::new("/containers/disk_0.img");
        images.create("-f qcow2 -u -b /containers/disk_0.img -F qcow2");
        assert_eq!(own(Names::Backing(base)).await, Ok(()));
        let other = "expected no backing file, but found /containers/disk_0.img";
        assert_eq!(own(Names::None).await, Err(other.to_owned()));
        assert_eq!(own(Names::DataFile).await, Err(other.to_owned()));
        let wanted = "expected the backing file /containers/disk_1.img, but found /containers/disk_0.img";
        assert_eq!(own(Names::Backing(Path::new("/containers/disk_1.img"))).await, Err(wanted.to_owned()));
        images.with_data_file("/volumes/disk.img");
        assert_eq!(own(Names::DataFile).await, Ok(()));
        let data = "unsupported: external data file /volumes/disk.img";
        assert_eq!(own(Names::None).await, Err(data.to_owned()));
        images.create("-f qcow2");
        assert_eq!(own(Names::None).await, Ok(()));
        let none = "expected the backing file /containers/disk_0.img, but found none";
        assert_eq!(own(Names::Backing(base)).await, Err(none.to_owned()));
        images.create("-f raw");
        assert_eq!(own(Names::None).await, Err("its format is raw".to_owned()));
        std::fs::remove_file(images.path()).unwrap();
        std::os::unix::fs::symlink(images.0.path().join("other"), images.path()).unwrap();
        let link = check_own(&Tools::default(), &images.path(), Names::None).await.unwrap_err().to_string();
        assert!(link.contains("disk_0.img: cannot open it: "), "{link}");
    }
}
