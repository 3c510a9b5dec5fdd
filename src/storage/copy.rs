//! Self-contained copies of images, for hypervisors that follow no backing chain.

use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

use super::inspection::{Names, check_own};
use super::tool::{Limits, Tools, confined};
use super::{Owner, Staged, StorageError};
use crate::logging::{Share, share};

/// Steps of progress that the log hears of, in percent.
const STEP: u32 = 10;
/// Without progress for so long, the copy is given up: the storage hangs.
const STALLED: Duration = Duration::from_secs(300);
/// Most of the tool's complaint that is kept, in bytes.
const COMPLAINT: u64 = 64 * 1024;

/// Copies `source` (format `format`, see `inspect`) to a qcow2 image at `path` unless there is one. Holes stay
/// holes. qcow2, whatever the source is: a guest may write sector 0 of such an image, which Cloud Hypervisor refuses for a
/// raw one whose format it had to guess (contract/cloud-hypervisor.md 6.2).
pub async fn copy_image(
    tools: &Tools,
    path: &Path,
    source: &Path,
    format: &str,
    volume: &str,
    owner: Owner,
) -> Result<(), StorageError> {
    if tokio::fs::try_exists(path).await.map_err(StorageError::io(path, "look at it"))? {
        return check_own(tools, path, Names::None).await;
    }
    let staged = Staged::new(path, owner, 0o640).await?;
    let began = Instant::now();
    tracing::info!("copying volume {volume} from {} to {}", source.display(), path.display());
    share(Share::Images, convert(tools, source, format, &staged, volume)).await?;
    staged.publish().await?;
    tracing::info!("volume {volume} copied in {:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

async fn convert(
    tools: &Tools,
    source: &Path,
    format: &str,
    staged: &Staged,
    volume: &str,
) -> Result<(), StorageError> {
    let failed =
        |output: String| StorageError::Tool { tool: "qemu-img", what: "copy", path: source.to_owned(), output };
    let mut command = confined(&tools.qemu_img, Some(staged));
    Limits { address_space_bytes: tools.image_memory, ..Limits::default() }.apply(&mut command);
    let mut child = command
        .args(["convert", "-p", "-f", format, "-O", "qcow2"])
        .args([source, &staged.at()])
        .spawn()
        .map_err(|error| failed(format!("cannot start {}: {error}", tools.qemu_img.display())))?;
    let (mut out, err) = (child.stdout.take(), child.stderr.take());
    let complaint = tokio::spawn(async move {
        let mut text = Vec::new();
        if let Some(err) = err {
            // An unreadable stream is an empty one: the exit status decides.
            let _ = err.take(COMPLAINT).read_to_end(&mut text).await;
        }
        String::from_utf8_lossy(&text).trim().to_owned()
    });
    let (mut progress, mut buffer) = (Progress::default(), [0; 512]);
    while let Some(stream) = &mut out {
        match timeout(STALLED, stream.read(&mut buffer)).await {
            Err(_) => {
                let seconds = STALLED.as_secs();
                return Err(StorageError::TooSlow {
                    tool: "qemu-img",
                    what: "go on copying",
                    path: source.to_owned(),
                    seconds,
                });
            }
            Ok(Ok(0) | Err(_)) => out = None,
            Ok(Ok(read)) => {
                for percent in progress.add(buffer.get(..read).unwrap_or_default()) {
                    tracing::info!("copying volume {volume}: {percent} %");
                }
            }
        }
    }
    match timeout(STALLED, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(format!("{} ({status})", complaint.await.unwrap_or_default()))),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("it closed its output and does not end".to_owned())),
    }
}

/// Reads what `qemu-img -p` prints: `    (12.50/100%)` and a carriage return, again and again.
#[derive(Default)]
struct Progress {
    line: Vec<u8>,
    told: u32,
}

impl Progress {
    /// Steps that `bytes` complete.
    fn add(&mut self, bytes: &[u8]) -> Vec<u32> {
        let mut steps = Vec::new();
        for byte in bytes {
            if !matches!(byte, b'\r' | b'\n') {
                if self.line.len() < 64 {
                    self.line.push(*byte);
                }
                continue;
            }
            let line = String::from_utf8_lossy(&self.line).into_owned();
            self.line.clear();
            let whole =
                line.trim().strip_prefix('(').and_then(|rest| rest.split(['.', '/']).next()?.parse::<u32>().ok());
            let Some(percent) = whole.filter(|percent| *percent <= 100) else { continue };
            if percent >= self.told + STEP {
                self.told = percent - percent % STEP;
                steps.push(self.told);
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::super::inspect;
    use super::*;

    #[test]
    fn progress_is_reported_in_steps() {
        let mut progress = Progress::default();
        assert_eq!(progress.add(b"    (0.00/100%)\r    (9.99/100%)\r    (10.0"), Vec::<u32>::new());
        assert_eq!(progress.add(b"1/100%)\r    (11.00/100%)\rnonsense\r"), [10]);
        assert_eq!(progress.add(b"    (57.00/100%)\r    (100.00/100%)\r"), [50, 100]);
    }

    #[tokio::test]
    async fn copy_has_no_backing_file_stays_sparse_and_is_made_once() {
        use std::os::unix::fs::{FileExt, MetadataExt};
        let folder = tempfile::tempdir().unwrap();
        let (source, copy) = (folder.path().join("disk_0.img"), folder.path().join("disk-data/v/disk.qcow2"));
        let raw = std::fs::File::create(&source).unwrap();
        raw.set_len(64 << 20).unwrap();
        raw.write_all_at(b"boot", 0).unwrap();
        let tools = Tools::default();
        copy_image(&tools, &copy, &source, "raw", "v", Owner::me()).await.unwrap();
        let info = inspect(&tools, &copy).await.unwrap();
        assert_eq!((info.format.as_str(), info.backing_file.as_str(), info.virtual_size), ("qcow2", "", 64 << 20));
        assert!(std::fs::metadata(&copy).unwrap().blocks() * 512 < 4 << 20);
        let nowhere = Tools { qemu_img: "/nonexistent/qemu-img".into(), ..Tools::default() };
        copy_image(&nowhere, &copy, &source, "raw", "v", Owner::me()).await.unwrap();
    }

    #[tokio::test]
    async fn copy_that_fails_names_source_and_cause_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (source, copy) = (folder.path().join("missing.img"), folder.path().join("d/disk.qcow2"));
        let error =
            copy_image(&Tools::default(), &copy, &source, "raw", "v", Owner::me()).await.unwrap_err().to_string();
        assert!(error.contains("missing.img") && error.contains("No such file"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path().join("d")).unwrap().count(), 0);
    }
}
