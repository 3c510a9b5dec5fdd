//! ISO 9660 images made by xorrisofs.

use std::ffi::OsString;
use std::path::Path;

use super::tool::{Job, Tools, run};
use super::{Owner, StorageError, finish, make_directory, staging};

/// Makes `iso` with volume label `label` from the files of `directory` (contract/lifecycle.md 9.5).
pub async fn make_iso_of_directory(
    tools: &Tools,
    iso: &Path,
    label: &str,
    directory: &Path,
    owner: Owner,
) -> Result<(), StorageError> {
    if let Some(parent) = iso.parent() {
        make_directory(parent).await?;
    }
    let staged = staging(iso);
    let arguments: Vec<OsString> = vec![
        "-output".into(),
        staged.clone().into(),
        "-volid".into(),
        label.into(),
        "-joliet".into(),
        "-rock".into(),
        "-partition_cyl_align".into(),
        "on".into(),
        directory.as_os_str().to_owned(),
    ];
    let job = Job { tool: "xorrisofs", what: "make", path: iso, deadline: tools.timings.iso };
    let made = match run(&tools.xorrisofs, arguments, job, None).await {
        Ok(_) => finish(&staged, iso, owner, 0o644).await,
        Err(error) => Err(error),
    };
    if made.is_err() {
        // The error that matters is the first.
        let _ = tokio::fs::remove_file(&staged).await;
    }
    made
}
