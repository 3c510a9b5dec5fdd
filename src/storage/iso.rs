//! ISO 9660 images made by xorrisofs.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::tool::{Job, Makes, Tools, run};
use super::{Owner, Staged, StorageError};

/// Makes what is to be `iso`, with volume label `label`, from the files of `directory` (contract/lifecycle.md 9.5).
pub(super) async fn make_iso_of_directory(
    tools: &Tools,
    iso: &Path,
    label: &str,
    directory: &Path,
    owner: Owner,
) -> Result<Staged, StorageError> {
    make(tools, iso, label, &[], vec![directory.as_os_str().to_owned()], (owner, 0o644)).await
}

/// Makes what is to be `iso` from what the entries of a kubelet volume lead to (contract/lifecycle.md 9.6). Such a volume is made of
/// symbolic links through `..data`; they are followed, and the kubelet's own entries are on the disk too, as the
/// original has it. The content may be secret: only the owner and its group may read the image.
pub(super) async fn make_iso_of_entries(
    tools: &Tools,
    iso: &Path,
    label: &str,
    directory: &Path,
    owner: Owner,
) -> Result<Staged, StorageError> {
    let read = |what| StorageError::io(directory, what);
    let mut grafts = Vec::new();
    let mut entries = tokio::fs::read_dir(directory).await.map_err(read("list it"))?;
    while let Some(entry) = entries.next_entry().await.map_err(read("list it"))? {
        let mut graft = escaped(entry.file_name().as_bytes());
        graft.push(b'=');
        graft.extend(escaped(entry.path().as_os_str().as_bytes()));
        grafts.push(OsString::from_vec(graft));
    }
    grafts.sort();
    make(tools, iso, label, &["-follow-links", "-graft-points"], grafts, (owner, 0o640)).await
}

/// In a graft point a backslash takes the meaning off `=` and of itself.
fn escaped(path: &[u8]) -> Vec<u8> {
    path.iter().flat_map(|byte| matches!(byte, b'=' | b'\\').then_some(b'\\').into_iter().chain([*byte])).collect()
}

async fn make(
    tools: &Tools,
    iso: &Path,
    label: &str,
    options: &[&str],
    content: Vec<OsString>,
    (owner, mode): (Owner, u32),
) -> Result<Staged, StorageError> {
    let staged = Staged::new(iso, owner, mode).await?;
    let mut arguments: Vec<OsString> = vec!["-volid".into(), label.into()];
    arguments.extend(options.iter().map(OsString::from));
    arguments.extend(["-joliet", "-rock", "-partition_cyl_align", "on"].map(OsString::from));
    arguments.extend(content);
    let job =
        Job { tool: "xorrisofs", what: "make", path: iso, deadline: tools.timings.iso, makes: Makes::Output(&staged) };
    run(&tools.xorrisofs, arguments, job, None).await?;
    Ok(staged)
}
