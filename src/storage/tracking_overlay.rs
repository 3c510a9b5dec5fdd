//! Overlays for changed block tracking (contract/cmd-server.md 7.4): a qcow2 file that holds bitmaps and leaves the data in
//! the raw image behind it. qemu-img would make that image anew and lose what is in it, so qemu-storage-daemon does it.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout};

use super::inspection::{Names, check_own};
use super::tool::{Tools, confined, within};
use super::{Owner, Staged, StorageError};
use crate::files::with_deadline;

/// Bytes that one bit of a cluster's allocation stands for.
const CLUSTER: u64 = 256 * 1024;
const TOOL: &str = "qemu-storage-daemon";
const WHAT: &str = "make the overlay";
/// Most of the tool's complaints that is kept.
const OUTPUT: u64 = 64 * 1024;

/// Makes an overlay over the raw image or device `data`, unless there is one; the data stays as it is.
pub async fn create_tracking_overlay(
    tools: &Tools,
    overlay: &Path,
    data: &Path,
    owner: Owner,
) -> Result<(), StorageError> {
    if tokio::fs::try_exists(overlay).await.map_err(StorageError::io(overlay, "look at it"))? {
        return check_own(tools, overlay, Names::DataFile).await;
    }
    let staged = Staged::new(overlay, owner, 0o640).await?;
    let made = async {
        let looked = data.to_owned();
        let size = with_deadline(tools.timings.image, move || size(&looked)).await?;
        let (bytes, driver) = size.map_err(|error| error.to_string())?;
        create(tools, &staged, data, driver, bytes).await
    };
    within((TOOL, WHAT, overlay), tools.timings.image, made).await?;
    staged.publish().await
}

/// Bytes of an image or device, and how QEMU opens it.
fn size(data: &Path) -> Result<(u64, &'static str), StorageError> {
    use std::io::{Seek, SeekFrom};
    use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
    let mut file = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(data)
        .map_err(StorageError::io(data, "open it"))?;
    let found = file.metadata().map_err(StorageError::io(data, "look at it"))?;
    let driver = if found.file_type().is_block_device() { "host_device" } else { "file" };
    Ok((file.seek(SeekFrom::End(0)).map_err(StorageError::io(data, "find its size"))?, driver))
}

async fn create(tools: &Tools, staged: &Staged, data: &Path, driver: &str, bytes: u64) -> Result<(), String> {
    let node = |driver: &str, name: &str, path: &Path| {
        json!({ "driver": driver, "node-name": name, "filename": path.display().to_string() }).to_string()
    };
    let program = &tools.qemu_storage_daemon;
    let mut child = confined(program, Some(staged))
        .args(["--chardev", "stdio,id=stdio", "--monitor", "stdio"])
        .args(["--blockdev", &node("file", "file", &staged.at()), "--blockdev", &node(driver, "data-file", data)])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err("its pipes are missing".to_owned());
    };
    let mut monitor = Monitor { input, output: BufReader::new(output).lines() };
    let complaints = async {
        let mut text = String::new();
        // What cannot be read was not said.
        let _ = errors.take(OUTPUT).read_to_string(&mut text).await;
        text
    };
    let (made, complaints) =
        tokio::join!(async { monitor.make(bytes).await.inspect_err(|_| drop(child.start_kill())) }, complaints);
    let ended = child.wait().await.map_err(|error| error.to_string());
    made.map_err(|why| format!("{why} {}", complaints.trim()).trim().to_owned())?;
    ended.map(drop)
}

/// QEMU's monitor protocol, one JSON object a line.
struct Monitor {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Monitor {
    async fn make(&mut self, bytes: u64) -> Result<(), String> {
        self.ask("qmp_capabilities", json!({})).await?;
        let options = json!({
            "driver": "qcow2", "file": "file", "data-file": "data-file", "data-file-raw": true,
            "size": bytes, "cluster-size": CLUSTER,
        });
        self.ask("blockdev-create", json!({ "job-id": "create", "options": options })).await?;
        loop {
            let event = self.next().await?;
            let (kind, data) = (event.get("event").and_then(Value::as_str), event.get("data"));
            let status = data.and_then(|data| data.get("status")).and_then(Value::as_str);
            if (kind, status) == (Some("JOB_STATUS_CHANGE"), Some("concluded")) {
                break;
            }
        }
        let jobs = self.ask("query-jobs", json!({})).await?;
        let error = jobs.as_array().and_then(|jobs| jobs.iter().find_map(|job| job.get("error")));
        if let Some(error) = error {
            return Err(error.as_str().map_or_else(|| error.to_string(), str::to_owned));
        }
        self.ask("job-dismiss", json!({ "id": "create" })).await?;
        self.ask("quit", json!({})).await.map(drop)
    }

    /// Sends a command; its answer. Events before it are passed over, as none of a job can come before its command.
    async fn ask(&mut self, command: &str, arguments: Value) -> Result<Value, String> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.input.write_all(line.as_bytes()).await.map_err(|error| format!("{command}: {error}"))?;
        loop {
            let mut answer = self.next().await?;
            if let Some(error) = answer.get("error") {
                let text = error.get("desc").and_then(Value::as_str).unwrap_or_default();
                return Err(format!("{command}: {text}"));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }

    async fn next(&mut self) -> Result<Value, String> {
        let line = self.output.next_line().await.map_err(|error| error.to_string())?;
        let line = line.ok_or("it ended too early")?;
        serde_json::from_str(&line).map_err(|error| format!("it says {line:?}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::testing::write_program;

    #[tokio::test]
    async fn overlay_is_made_once_over_data_that_stays() {
        let folder = tempfile::tempdir().unwrap();
        // A comma, and a header of another format that a guest wrote.
        let (data, overlay) = (folder.path().join("disk,1.img"), folder.path().join("cbt/v.qcow2"));
        let mut content = vec![7; 3 << 20];
        content[..4].copy_from_slice(b"QFI\xfb");
        std::fs::write(&data, &content).unwrap();
        create_tracking_overlay(&Tools::default(), &overlay, &data, Owner::me()).await.unwrap();
        assert!(std::fs::read(&data).unwrap() == content, "the data has changed");
        let info =
            std::process::Command::new("qemu-img").args(["info", "--output", "json"]).arg(&overlay).output().unwrap();
        let info: Value = serde_json::from_slice(&info.stdout).unwrap();
        assert_eq!((info["virtual-size"].as_u64(), info["cluster-size"].as_u64()), (Some(3 << 20), Some(CLUSTER)));
        let specific = &info["format-specific"]["data"];
        assert_eq!(specific["data-file"].as_str(), data.to_str());
        assert_eq!(specific["data-file-raw"], true);
        let nowhere = Tools { qemu_storage_daemon: "/nonexistent/qsd".into(), ..Tools::default() };
        create_tracking_overlay(&nowhere, &overlay, &data, Owner::me()).await.unwrap();
    }

    #[tokio::test]
    async fn failures_name_overlay_and_cause_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (data, overlay) = (folder.path().join("disk.img"), folder.path().join("cbt/v.qcow2"));
        let make = |tools: Tools| {
            let (data, overlay) = (data.clone(), overlay.clone());
            async move { create_tracking_overlay(&tools, &overlay, &data, Owner::me()).await.unwrap_err().to_string() }
        };
        let text = make(Tools::default()).await;
        assert!(text.contains("disk.img") && text.contains("No such file"), "{text}");
        std::fs::write(&data, vec![0; 4096]).unwrap();
        let text = make(Tools { qemu_storage_daemon: "/nonexistent/qsd".into(), ..Tools::default() }).await;
        assert!(text.contains("v.qcow2") && text.contains("/nonexistent/qsd"), "{text}");
        let text = make(Tools { qemu_storage_daemon: "/bin/false".into(), ..Tools::default() }).await;
        assert!(text.starts_with("qemu-storage-daemon could not make the overlay "), "{text}");
        let slow = super::super::Timings { image: std::time::Duration::from_millis(50), ..Default::default() };
        let script = folder.path().join("slow");
        write_program(&script, "#!/bin/sh\nexec sleep 60\n");
        let text = make(Tools { qemu_storage_daemon: script, timings: slow, ..Tools::default() }).await;
        assert!(text.contains("did not make the overlay"), "{text}");
        assert_eq!(std::fs::read_dir(folder.path().join("cbt")).unwrap().count(), 0);
    }
}
