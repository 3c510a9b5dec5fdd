//! Disk images: overlays, empty disks, growth (contract/lifecycle.md 9.2, 9.4, 9.8).

use std::ffi::OsString;
use std::path::Path;

use super::inspection::{Names, check_own};
use super::tool::{Job, Limits, Makes, Tools, run};
use super::{Owner, Staged, StorageError};
use crate::logging::{Share, share};

/// Processor time for looking at one image, in seconds (contract/lifecycle.md 9.3).
const CPU_SECONDS: u64 = 10;

/// Makes a qcow2 overlay over `backing`, whose format is `format` (see `inspect`), unless there is one.
pub async fn create_overlay(
    tools: &Tools,
    overlay: &Path,
    backing: &Path,
    format: &str,
    owner: Owner,
) -> Result<(), StorageError> {
    let arguments = |staged: &Path| {
        vec![
            "create".into(),
            "-f".into(),
            "qcow2".into(),
            "-b".into(),
            backing.as_os_str().to_owned(),
            "-F".into(),
            format.into(),
            staged.as_os_str().to_owned(),
        ]
    };
    // The tool opens the backing file.
    let limits = Limits { cpu_seconds: Some(CPU_SECONDS), address_space_bytes: tools.image_memory };
    let work = Work { what: "make the overlay", names: Names::Backing(backing), limits };
    create(tools, overlay, owner, work, arguments).await
}

/// Makes an empty qcow2 disk of `bytes`, rounded down to whole MiB, unless there is one.
pub async fn create_empty_disk(
    tools: &Tools,
    disk: &Path,
    volume: &str,
    bytes: u64,
    owner: Owner,
) -> Result<(), StorageError> {
    let size = bytes & !((1 << 20) - 1);
    if size == 0 {
        return Err(StorageError::TooSmall { volume: volume.to_owned() });
    }
    let arguments = |staged: &Path| {
        vec!["create".into(), "-f".into(), "qcow2".into(), staged.as_os_str().to_owned(), size.to_string().into()]
    };
    let work = Work { what: "make the empty disk", names: Names::None, limits: Limits::default() };
    create(tools, disk, owner, work, arguments).await
}

/// Grows a raw image to `bytes`. One that is allocated as a whole stays so: its new blocks are allocated too.
pub async fn grow_image(tools: &Tools, path: &Path, bytes: u64, allocated: bool) -> Result<(), StorageError> {
    let preallocation = if allocated { "--preallocation=falloc" } else { "--preallocation=off" };
    let bytes = bytes.to_string();
    // The format is named: a guest that wrote the header of another one must not be believed.
    let arguments =
        ["resize".as_ref(), "-f".as_ref(), "raw".as_ref(), preallocation.as_ref(), path.as_os_str(), bytes.as_ref()];
    let job = Job { tool: "qemu-img", what: "grow", path, deadline: tools.timings.growth, makes: Makes::Nothing };
    share(Share::Images, run(&tools.qemu_img, arguments, job, Limits::default())).await.map(drop)
}

/// What is made.
struct Work<'a> {
    /// For messages.
    what: &'static str,
    /// What the image names.
    names: Names<'a>,
    limits: Limits,
}

/// Lets qemu-img make the image at `path`. One that is there is kept if it is what would be made.
async fn create(
    tools: &Tools,
    path: &Path,
    owner: Owner,
    work: Work<'_>,
    arguments: impl FnOnce(&Path) -> Vec<OsString>,
) -> Result<(), StorageError> {
    if tokio::fs::try_exists(path).await.map_err(StorageError::io(path, "look at it"))? {
        return check_own(tools, path, work.names).await;
    }
    let staged = Staged::new(path, owner, 0o640).await?;
    let job = Job { tool: "qemu-img", what: work.what, path, deadline: tools.timings.image, makes: Makes::At(&staged) };
    share(Share::Images, run(&tools.qemu_img, arguments(&staged.at()), job, work.limits)).await?;
    staged.publish().await
}

#[cfg(test)]
mod tests {
    use super::super::inspect;
    use super::*;
    use crate::process::testing::write_program;

    #[tokio::test]
    async fn overlays_are_made_once_and_inspected() {
        let folder = tempfile::tempdir().unwrap();
        let tools = Tools::default();
        let (backing, overlay) = (folder.path().join("disk_0.img"), folder.path().join("disk-data/v/disk.qcow2"));
        create_empty_disk(&tools, &backing, "v", (3 << 20) + 77, Owner::me()).await.unwrap();
        let info = inspect(&tools, &backing).await.unwrap();
        assert_eq!((info.format.as_str(), info.virtual_size), ("qcow2", 3 << 20));
        create_overlay(&tools, &overlay, &backing, "qcow2", Owner::me()).await.unwrap();
        let refused = inspect(&tools, &overlay).await.unwrap_err().to_string();
        assert!(refused.starts_with("expected no backing file, but found "), "{refused}");
        let nowhere = Tools { qemu_img: "/nonexistent/qemu-img".into(), ..Tools::default() };
        create_overlay(&nowhere, &overlay, &backing, "qcow2", Owner::me()).await.unwrap();
    }

    #[tokio::test]
    async fn failures_name_file_and_cause_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let tools = Tools::default();
        let (missing, overlay) = (folder.path().join("disk_0.img"), folder.path().join("d/disk.qcow2"));
        let text = create_overlay(&tools, &overlay, &missing, "raw", Owner::me()).await.unwrap_err().to_string();
        assert!(text.contains("disk_0.img") && text.contains("No such file"), "{text}");
        assert_eq!(std::fs::read_dir(folder.path().join("d")).unwrap().count(), 0);
        let small = create_empty_disk(&tools, &overlay, "v", (1 << 20) - 1, Owner::me()).await.unwrap_err().to_string();
        assert_eq!(small, "the size for volume v is too low");
        let nowhere = Tools { qemu_img: "/nonexistent/qemu-img".into(), ..Tools::default() };
        let text = create_empty_disk(&nowhere, &overlay, "v", 1 << 20, Owner::me()).await.unwrap_err().to_string();
        assert!(text.contains("/nonexistent/qemu-img"), "{text}");
        let text = inspect(&tools, &missing).await.unwrap_err().to_string();
        assert!(text.contains("disk_0.img") && text.contains("No such file"), "{text}");
    }

    #[tokio::test]
    async fn full_disk_is_named_and_leaves_no_half_overlay() {
        // /dev/full's errors cannot be had through a directory; a file size limit stands in for the full disk.
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("qemu-img");
        write_program(&script, "#!/bin/sh\nulimit -f 0\ntrap '' XFSZ\nexec qemu-img \"$@\"\n");
        let tools = Tools { qemu_img: script, ..Tools::default() };
        let disk = folder.path().join("empty/v.qcow2");
        let text = create_empty_disk(&tools, &disk, "v", 8 << 20, Owner::me()).await.unwrap_err().to_string();
        assert!(text.contains("v.qcow2") && text.contains("too large"), "{text}");
        assert_eq!(std::fs::read_dir(folder.path().join("empty")).unwrap().count(), 0);
    }
}
