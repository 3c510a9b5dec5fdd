//! Disk images: inspection, overlays, empty disks (contract/lifecycle.md 9.2, 9.3, 9.4).

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::tool::{Job, Limits, Makes, Tools, run};
use super::{Owner, Staged, StorageError};
use crate::logging::{Share, share};

/// What `qemu-img info` says of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// `raw` or `qcow2`.
    pub format: String,
    /// Its backing file, empty if it has none.
    #[serde(default, rename = "backing-filename")]
    pub backing_file: String,
    /// Bytes on disk.
    #[serde(default, rename = "actual-size")]
    pub actual_size: u64,
    /// Bytes the guest sees.
    #[serde(default, rename = "virtual-size")]
    pub virtual_size: u64,
}

/// What inspection of an untrusted image may use.
#[derive(Debug, Clone, Copy)]
pub struct InspectionLimits {
    /// `--disk-memory-limit`, bytes of address space.
    pub address_space_bytes: u64,
}

/// CPU seconds for one inspection.
const INSPECTION_CPU_SECONDS: u64 = 10;

/// Inspects a container disk's image, which is the user's and therefore untrusted: limited memory and time, and only a
/// raw image or a qcow2 without backing file is accepted.
pub async fn inspect(tools: &Tools, path: &Path, limits: InspectionLimits) -> Result<ImageInfo, StorageError> {
    let limits = Limits { cpu_seconds: INSPECTION_CPU_SECONDS, address_space_bytes: limits.address_space_bytes };
    let job = Job { tool: "qemu-img", what: "inspect", path, deadline: tools.timings.image, makes: Makes::Nothing };
    let arguments = ["info".as_ref(), path.as_os_str(), "--output".as_ref(), "json".as_ref()];
    let text = share(Share::Images, run(&tools.qemu_img, arguments, job, Some(limits))).await?;
    let info: ImageInfo = serde_json::from_str(&text).map_err(|error| StorageError::Tool {
        tool: "qemu-img",
        what: "inspect",
        path: path.to_owned(),
        output: format!("its answer cannot be read: {error}"),
    })?;
    match info.format.as_str() {
        "raw" => Ok(info),
        "qcow2" if info.backing_file.is_empty() => Ok(info),
        "qcow2" => Err(StorageError::Image(format!("expected no backing file, but found {}", info.backing_file))),
        other => Err(StorageError::Image(format!("unsupported image format: {other}"))),
    }
}

/// Makes a qcow2 overlay over `backing` (format `format`) unless there is one.
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
    create(tools, overlay, owner, "make the overlay", arguments).await
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
    create(tools, disk, owner, "make the empty disk", arguments).await
}

/// Grows a raw image to `bytes`. One that is allocated as a whole stays so: its new blocks are allocated too.
pub async fn grow_image(tools: &Tools, path: &Path, bytes: u64, allocated: bool) -> Result<(), StorageError> {
    let preallocation = if allocated { "--preallocation=falloc" } else { "--preallocation=off" };
    let bytes = bytes.to_string();
    // The format is named: a guest that wrote the header of another one must not be believed.
    let arguments =
        ["resize".as_ref(), "-f".as_ref(), "raw".as_ref(), preallocation.as_ref(), path.as_os_str(), bytes.as_ref()];
    let job = Job { tool: "qemu-img", what: "grow", path, deadline: tools.timings.growth, makes: Makes::Nothing };
    share(Share::Images, run(&tools.qemu_img, arguments, job, None)).await.map(drop)
}

async fn create(
    tools: &Tools,
    path: &Path,
    owner: Owner,
    what: &'static str,
    arguments: impl FnOnce(&Path) -> Vec<std::ffi::OsString>,
) -> Result<(), StorageError> {
    if tokio::fs::try_exists(path).await.map_err(StorageError::io(path, "look at it"))? {
        return Ok(());
    }
    let staged = Staged::new(path, owner, 0o640).await?;
    let job = Job { tool: "qemu-img", what, path, deadline: tools.timings.image, makes: Makes::At(&staged) };
    share(Share::Images, run(&tools.qemu_img, arguments(&staged.at()), job, None)).await?;
    staged.publish().await
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: InspectionLimits = InspectionLimits { address_space_bytes: 2_097_152_000 };

    #[tokio::test]
    async fn overlays_are_made_once_and_inspected() {
        let folder = tempfile::tempdir().unwrap();
        let tools = Tools::default();
        let (backing, overlay) = (folder.path().join("disk_0.img"), folder.path().join("disk-data/v/disk.qcow2"));
        create_empty_disk(&tools, &backing, "v", (3 << 20) + 77, Owner::me()).await.unwrap();
        let info = inspect(&tools, &backing, LIMITS).await.unwrap();
        assert_eq!((info.format.as_str(), info.virtual_size), ("qcow2", 3 << 20));
        create_overlay(&tools, &overlay, &backing, "qcow2", Owner::me()).await.unwrap();
        let refused = inspect(&tools, &overlay, LIMITS).await.unwrap_err().to_string();
        assert!(refused.starts_with("expected no backing file, but found "), "{refused}");
        std::fs::write(&overlay, "kept").unwrap();
        create_overlay(&tools, &overlay, &backing, "qcow2", Owner::me()).await.unwrap();
        assert_eq!(std::fs::read(&overlay).unwrap(), b"kept");
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
        let text = inspect(&nowhere, &missing, LIMITS).await.unwrap_err().to_string();
        assert!(text.contains("/nonexistent/qemu-img"), "{text}");
    }

    #[tokio::test]
    async fn a_full_disk_is_named_and_leaves_no_half_overlay() {
        // /dev/full's errors cannot be had through a directory; a file size limit stands in for the full disk.
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("qemu-img");
        std::fs::write(&script, "#!/bin/sh\nulimit -f 0\ntrap '' XFSZ\nexec qemu-img \"$@\"\n").unwrap();
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let tools = Tools { qemu_img: script, ..Tools::default() };
        let disk = folder.path().join("empty/v.qcow2");
        let text = create_empty_disk(&tools, &disk, "v", 8 << 20, Owner::me()).await.unwrap_err().to_string();
        assert!(text.contains("v.qcow2") && text.contains("too large"), "{text}");
        assert_eq!(std::fs::read_dir(folder.path().join("empty")).unwrap().count(), 0);
    }
}
