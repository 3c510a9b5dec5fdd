//! ISO 9660 images made by xorrisofs.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use tokio::io::AsyncReadExt;

use super::tool::{Job, Limits, Makes, Tools, confined, read, run, within};
use super::{Owner, Staged, StorageError};

const TOOL: &str = "xorrisofs";
const WHAT: &str = "make";
/// ECMA-119 6.1.2.
const SECTOR: usize = 2048;
/// Where the primary volume descriptor begins (ECMA-119 6.2.1).
const PRIMARY_DESCRIPTOR: usize = 16 * SECTOR;
/// Folders in one another that a kubelet volume has at most: `..data`, and those of keys with items' paths.
const DEPTH: usize = 8;
/// Largest image of files that this process has in memory, too: cloud-init data is at most a few MiB.
const LARGEST: usize = 64 << 20;

/// Makes what is to be `iso`, with volume label `label`, from the files of `directory` (contract/lifecycle.md 9.5), which
/// no other process writes.
///
/// xorrisofs sleeps for a tenth of a second after its last byte. The image says itself how long it is, so that nothing has
/// to wait for that.
pub(super) async fn make_iso_of_directory(
    tools: &Tools,
    iso: &Path,
    label: &str,
    directory: &Path,
    owner: Owner,
) -> Result<Staged, StorageError> {
    let staged = Staged::new(iso, owner, 0o644).await?;
    let written = written(tools, arguments(label, &[], [directory.into()]));
    let image = within((TOOL, WHAT, iso), tools.timings.iso, written).await?;
    staged.write(move |mut file| file.write_all(&image)).await
}

/// The image that xorrisofs writes to its standard output.
async fn written(tools: &Tools, arguments: Vec<OsString>) -> Result<Vec<u8>, String> {
    let program = &tools.xorrisofs;
    // Killed once the image is whole.
    let mut child = confined(program, None)
        .args(arguments)
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    let complaints = tokio::spawn(read(child.stderr.take()));
    let mut output = child.stdout.take().ok_or("its output is missing")?;
    let mut image = Vec::new();
    while size(&image).is_none_or(|size| image.len() < size) {
        if image.len() > LARGEST {
            return Err(format!("it makes more than {LARGEST} bytes"));
        }
        if output.read_buf(&mut image).await.map_err(|error| error.to_string())? == 0 {
            let status = child.wait().await.map_err(|error| error.to_string())?;
            return Err(format!("{} ({status})", complaints.await.unwrap_or_default().trim()));
        }
    }
    Ok(image)
}

/// Bytes of an image by its own account (ECMA-119 8.4.8), once so much of it is there.
fn size(image: &[u8]) -> Option<usize> {
    let descriptor = image.get(PRIMARY_DESCRIPTOR..PRIMARY_DESCRIPTOR + SECTOR)?.strip_prefix(b"\x01CD001")?;
    let sectors: [u8; 4] = descriptor.get(74..78)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(sectors)).ok()?.checked_mul(SECTOR)
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
    let staged = Staged::new(iso, owner, 0o640).await?;
    // Until its end: what the kubelet changes meanwhile is an error.
    let job = Job { tool: TOOL, what: WHAT, path: iso, deadline: tools.timings.iso, makes: Makes::Output(&staged) };
    let arguments = arguments(label, &["-follow-links", "-graft-points"], grafts);
    if let Err(error) = run(&tools.xorrisofs, arguments, job, Limits::default()).await {
        let directory = directory.to_owned();
        // The tool says it in the middle of much else.
        let cause = tokio::task::spawn_blocking(move || unreadable(&directory, DEPTH)).await.ok().flatten();
        return Err(cause.unwrap_or(error));
    }
    Ok(staged)
}

/// The first file below the directory that cannot be read, through links as the tool follows them. Blocking.
fn unreadable(directory: &Path, depth: usize) -> Option<StorageError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return Some(StorageError::io(directory, "list it")(error)),
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().find_map(|path| match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => (depth > 0).then(|| unreadable(&path, depth - 1)).flatten(),
        // A FIFO would be waited for.
        Ok(found) if !found.is_file() => None,
        Ok(_) => std::fs::File::open(&path).err().map(StorageError::io(&path, "read it")),
        Err(error) => Some(StorageError::io(&path, "read it")(error)),
    })
}

/// In a graft point a backslash takes the meaning off `=` and of itself.
fn escaped(path: &[u8]) -> Vec<u8> {
    path.iter().flat_map(|byte| matches!(byte, b'=' | b'\\').then_some(b'\\').into_iter().chain([*byte])).collect()
}

fn arguments(label: &str, options: &[&str], content: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["-volid".into(), label.into()];
    arguments.extend(options.iter().map(OsString::from));
    arguments.extend(["-joliet", "-rock", "-partition_cyl_align", "on"].map(OsString::from));
    arguments.extend(content);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(script: &str, folder: &Path) -> Tools {
        let program = folder.join("xorrisofs");
        // By another process: a child of another test could inherit a descriptor that is open for writing, and nobody could
        // execute the file.
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\"";
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", write]).args([program.as_os_str(), script.as_ref()]);
        assert!(shell.status().unwrap().success());
        Tools { xorrisofs: program, ..Tools::default() }
    }

    #[tokio::test]
    async fn image_is_taken_when_it_is_whole_and_never_before() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("user-data"), vec![b'x'; 3 << 20]).unwrap();
        let (iso, real) = (folder.path().join("out/seed.iso"), folder.path().join("real.iso"));
        let whole = run(
            Path::new("xorrisofs"),
            [&["-output".into(), real.clone().into()][..], &arguments("cidata", &[], [data.clone().into()])].concat(),
            Job { tool: TOOL, what: WHAT, path: &real, deadline: Tools::default().timings.iso, makes: Makes::Nothing },
            Limits::default(),
        );
        whole.await.unwrap();
        // One that never ends after its last byte.
        let patient = tools(&format!("cat {}; exec sleep 1000", real.display()), folder.path());
        let made = make_iso_of_directory(&patient, &iso, "cidata", &data, Owner::me()).await.unwrap();
        made.publish().await.unwrap();
        assert!(std::fs::read(&iso).unwrap() == std::fs::read(&real).unwrap(), "the same bytes");
        std::fs::remove_file(&iso).unwrap();
        for size in [2 << 20, 100] {
            let script = format!("head -c {size} {}; echo no space >&2; exit 5", real.display());
            let failing = tools(&script, folder.path());
            let made = make_iso_of_directory(&failing, &iso, "cidata", &data, Owner::me()).await;
            let text = made.unwrap_err().to_string();
            assert!(
                text.contains("no space") && text.contains("exit status: 5") && text.contains("seed.iso"),
                "{text}"
            );
        }
        assert_eq!(std::fs::read_dir(iso.parent().unwrap()).unwrap().count(), 0);
    }
}
