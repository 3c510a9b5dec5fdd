//! VirtualMachineMemoryDump (contract/cmd-server.md 7.2): the guest's memory as a file on a volume of the pod.

use std::path::Path;
use std::time::Duration;

use super::Jobs;
use crate::domain::{KubeVirtMetadata, MemoryDumpMetadata, Time};
use crate::files::with_deadline;
use crate::hypervisor::ControlError;
use crate::launcher::error::Error;
use crate::launcher::vm::metadata::MetadataCache;

/// What the names of dumps have in common; older ones make room for the new one.
const DUMP_FILE: &str = "memory.dump";
/// How long the removal of older dumps may take.
const REMOVAL: Duration = Duration::from_secs(10);

impl Jobs {
    /// Begins to write the guest's memory to `path`, unless a dump is being written or this one is done. The outcome
    /// appears in the metadata.
    pub fn memory_dump(&self, path: String) -> Result<(), Error> {
        let Some(file) = Path::new(&path).file_name().map(|name| name.to_string_lossy().into_owned()) else {
            return Err(Error::vmi(format!("memory dump: {path:?} does not name a file")));
        };
        let Ok(dumping) = std::sync::Arc::clone(&self.dumping).try_lock_owned() else { return Ok(()) };
        if !begin(&self.vm.metadata, &file) {
            return Ok(());
        }
        let vm = self.vm.clone();
        tokio::spawn(async move {
            let _dumping = dumping;
            tracing::info!("dumping the guest's memory to {path}");
            let beside = path.clone();
            let removed = with_deadline(REMOVAL, move || remove_old(&beside).map_err(|error| error.to_string())).await;
            if let Ok(Err(why)) | Err(why) = removed {
                tracing::warn!("cannot look for older memory dumps beside {path}: {why}");
            }
            let result = vm.control.dump_memory(&path).await.map_err(reason);
            if let Err(reason) = &result {
                tracing::error!(reason = %reason, "the guest's memory cannot be dumped to {path}");
            }
            vm.metadata.edit(|metadata| end(metadata, &file, result.err()));
        });
        Ok(())
    }
}

/// Notes that a dump begins; false if this file is done already, well or not. One that another process began and did not
/// end is begun again.
fn begin(cache: &MetadataCache, file: &str) -> bool {
    let mut due = false;
    cache.edit(|metadata| {
        due = !metadata.memory_dump.as_ref().is_some_and(|dump| dump.completed && dump.file_name == file);
        if due {
            metadata.memory_dump = Some(MemoryDumpMetadata {
                file_name: file.to_owned(),
                start_timestamp: Some(Time::now()),
                ..Default::default()
            });
        }
    });
    due
}

fn end(metadata: &mut KubeVirtMetadata, file: &str, failure: Option<String>) {
    let Some(dump) = metadata.memory_dump.as_mut().filter(|dump| dump.file_name == file) else { return };
    dump.completed = true;
    dump.end_timestamp = Some(Time::now());
    dump.failed = failure.is_some();
    dump.failure_reason = failure.unwrap_or_default();
}

fn reason(error: ControlError) -> String {
    format!("Domain memory dump failed: {error}")
}

/// Removes what earlier dumps left in the same folder. A file that stays costs room; whether that matters shows itself.
#[expect(clippy::disallowed_methods, reason = "runs within `files::with_deadline`")]
fn remove_old(path: &str) -> std::io::Result<()> {
    let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().contains(DUMP_FILE)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!("cannot remove {}: {error}", entry.path().display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dump_is_made_once_for_each_file_name_and_an_unfinished_one_again() {
        let cache = MetadataCache::default();
        assert!(begin(&cache, "a"));
        let noted = cache.snapshot().memory_dump.unwrap();
        assert!(noted.start_timestamp.is_some() && noted.end_timestamp.is_none() && !noted.completed);
        assert!(begin(&cache, "a"), "a launcher that died left it unfinished");
        cache.edit(|metadata| end(metadata, "a", Some("Domain memory dump failed: no space".into())));
        let noted = cache.snapshot().memory_dump.unwrap();
        assert!(noted.completed && noted.failed && noted.end_timestamp.is_some());
        assert_eq!(noted.failure_reason, "Domain memory dump failed: no space");
        assert!(!begin(&cache, "a"));
        assert!(begin(&cache, "b"));
        cache.edit(|metadata| end(metadata, "a", None));
        assert!(!cache.snapshot().memory_dump.unwrap().completed, "the end of another dump is not this one's");
    }

    #[test]
    fn older_dumps_make_room_and_other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vm-20260101-memory.dump", "memory.dump.1", "disk.img"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        remove_old(folder.path().join("vm-20260102-memory.dump").to_str().unwrap()).unwrap();
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["disk.img"]);
        assert!(remove_old("/nowhere/at/all/memory.dump").is_err());
    }
}
