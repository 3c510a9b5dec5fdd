//! The state file: what a launcher leaves for the next one should it die. It is written before an answer is given that depends
//! on it, whole or not at all, below the VM's private directory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::domain::{Domain, FsFreeze, KubeVirtMetadata};
use crate::files::Folder;
use crate::guest_agent::Introduction;
use crate::launcher::publish::faults::Panics;
use crate::process::adoption::STATE_FILE as FILE;
use crate::process::{ProcessId, identify};

/// The last document that GetDomain answered; by itself, since the next launcher can do without it.
const DOMAIN_FILE: &str = "launcher-domain.json";
/// The migration that is under way; by itself, since it holds a whole VMI and seldom changes.
const MIGRATION_FILE: &str = "launcher-migration.json";
/// No state is that large; a larger file is not ours.
const LIMIT: u64 = 1024 * 1024;
/// The format. A launcher of another image never reads it: an image does not change while its container runs.
const VERSION: u32 = 1;

/// The state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavedState {
    version: u32,
    /// What virt-handler is told with every document.
    pub metadata: KubeVirtMetadata,
    /// UIDs of VMIs that were paused on purpose.
    pub paused: BTreeSet<String>,
    /// The hypervisor's process, once it was seen.
    pub process: Option<ProcessId>,
    /// When the guest's file systems are to be thawed in any case, in seconds since 1970.
    #[serde(default)]
    pub thaw_at: Option<u64>,
    /// Sizes of claims in bytes when they were last told to the guest, by source path.
    #[serde(default)]
    pub claim_sizes: BTreeMap<String, u64>,
    /// Overlays of disks that the guest still has to let go of, by the device's alias in libvirt.
    #[serde(default)]
    pub leaving_overlays: BTreeMap<String, PathBuf>,
    /// What the guest's agent told last of its file systems; of what it has told, the document of GetDomain lacks this.
    #[serde(default)]
    pub freeze: FsFreeze,
    /// virt-handler has acknowledged a notification.
    #[serde(default)]
    pub virt_handler_heard: bool,
    /// What the guest's agent told last of itself, to this launcher or to a previous one.
    #[serde(default)]
    pub agent: Introduction,
    /// The guest's panics that were told.
    #[serde(default)]
    pub panics: Panics,
    /// The VM comes here from another node by the migration of the record, which has not ended.
    #[serde(default)]
    pub incoming: bool,
    /// The VM has gone to another node, and libvirt, whose daemon ended meanwhile, does not know it.
    #[serde(default)]
    pub left: bool,
}

impl Default for SavedState {
    fn default() -> Self {
        SavedState {
            version: VERSION,
            metadata: KubeVirtMetadata::default(),
            paused: BTreeSet::new(),
            process: None,
            thaw_at: None,
            claim_sizes: BTreeMap::new(),
            leaving_overlays: BTreeMap::new(),
            freeze: FsFreeze::default(),
            virt_handler_heard: false,
            agent: Introduction::default(),
            panics: Panics::default(),
            incoming: false,
            left: false,
        }
    }
}

impl SavedState {
    /// Whether the hypervisor that was seen has ended since.
    pub fn hypervisor_ended(&self) -> bool {
        self.process.is_some_and(|process| identify(process.pid) != Some(process))
    }
}

/// What the previous launcher of this pod left, read once, and the file that is written from now on. Everything that survives a
/// launcher's death is in here.
#[derive(Debug, Clone, Default)]
pub struct Restored {
    /// The file. What begins as the previous launcher left it goes on there.
    pub file: StateFile,
    /// The state at the start of this launcher; the default for a pod's first one.
    pub state: SavedState,
    /// Whether the hypervisor that the previous launcher saw is alive.
    pub hypervisor_lives: bool,
    /// What GetDomain answered last.
    pub document: Option<Document>,
}

/// A document that GetDomain answers.
#[derive(Debug, Clone)]
pub struct Document {
    /// As a value.
    pub domain: Arc<Domain>,
    /// As JSON.
    pub json: Arc<str>,
}

impl Restored {
    /// What is in `directory`; nothing for a launcher that does not adopt. Its state file is there from now on.
    pub fn open(directory: &Path, adopts: bool) -> Self {
        let file = StateFile::open(directory, adopts);
        let (state, json) = (file.state(), file.kept_domain());
        let document = json.and_then(|json| {
            let read = serde_json::from_str(&json).inspect_err(|error| {
                tracing::warn!(reason = %error, "what the previous launcher showed of the domain cannot be read");
            });
            Some(Document { domain: Arc::new(read.ok()?), json })
        });
        Restored { hypervisor_lives: state.process.is_some() && !state.hypervisor_ended(), file, state, document }
    }

    /// Whether the previous launcher saw the hypervisor.
    pub fn was_started(&self) -> bool {
        self.state.process.is_some()
    }
}

struct Inner {
    directory: Option<Folder>,
    state: SavedState,
    domain: Option<Arc<str>>,
    /// The last failure, so that it is told once.
    complaint: Option<io::ErrorKind>,
}

/// The one writer of the file; clones share it.
#[derive(Clone)]
pub struct StateFile {
    inner: Arc<Mutex<Inner>>,
}

impl std::fmt::Debug for StateFile {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("StateFile").finish_non_exhaustive()
    }
}

impl Default for StateFile {
    /// Remembers, but writes nothing.
    fn default() -> Self {
        StateFile::with(None, SavedState::default())
    }
}

impl StateFile {
    fn with(directory: Option<Folder>, state: SavedState) -> Self {
        StateFile { inner: Arc::new(Mutex::new(Inner { directory, state, domain: None, complaint: None })) }
    }

    /// The file in `directory`. The first launcher of a pod begins with nothing; one that `adopts` takes what is there. A
    /// directory or a file that cannot be used is told, and costs what would have been remembered.
    fn open(directory: &Path, adopts: bool) -> Self {
        let path = directory.join(FILE);
        let directory = match Folder::open(directory) {
            Ok(directory) => directory,
            Err(error) => {
                tracing::warn!(reason = %error, "the next launcher will know nothing: {}", path.display());
                return StateFile::default();
            }
        };
        let state = match adopts {
            true => load(&directory).unwrap_or_else(|error| {
                tracing::warn!(reason = %error, "{} cannot be used, the previous launcher left nothing", path.display());
                SavedState::default()
            }),
            // A file would only be there if the pod's first launcher were not the first.
            false => SavedState::default(),
        };
        for file in [DOMAIN_FILE, MIGRATION_FILE] {
            if !adopts && let Err(error) = directory.remove(file) {
                tracing::warn!(reason = %error, "cannot remove {file}");
            }
        }
        let store = StateFile::with(Some(directory), state);
        // From now on there is something to adopt, and the monitor sees it.
        store.write(&mut store.locked());
        store
    }

    fn locked(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present state.
    pub fn state(&self) -> SavedState {
        self.locked().state.clone()
    }

    /// Changes the state; when this returns, the next launcher would know it.
    ///
    /// The file is small and goes to the page cache, which outlives the launcher; nothing here waits for a disk.
    pub fn change<T>(&self, change: impl FnOnce(&mut SavedState) -> T) -> T {
        let mut inner = self.locked();
        let before = inner.state.clone();
        let answer = change(&mut inner.state);
        if inner.state != before {
            self.write(&mut inner);
        }
        answer
    }

    /// Keeps the document that GetDomain answers from now on; none for no domain.
    pub fn keep_domain(&self, document: Option<&Arc<str>>) {
        let mut inner = self.locked();
        if inner.domain.as_ref() == document {
            return;
        }
        inner.domain = document.cloned();
        let Some(directory) = &inner.directory else { return };
        // A stale file is worse than no file.
        let kept = match document {
            Some(document) => {
                directory.replace(DOMAIN_FILE, document.as_bytes()).or_else(|_| directory.remove(DOMAIN_FILE))
            }
            None => directory.remove(DOMAIN_FILE),
        };
        if let Err(error) = kept {
            tracing::warn!(reason = %error, "cannot write {DOMAIN_FILE}; the next launcher may show an old state first");
        }
    }

    /// The document that the previous launcher answered last.
    fn kept_domain(&self) -> Option<Arc<str>> {
        let inner = self.locked();
        let bytes = inner.directory.as_ref()?.read(DOMAIN_FILE, LIMIT).ok()?;
        String::from_utf8(bytes).ok().map(Arc::from)
    }

    /// Keeps what a later launcher needs to go on with a migration; none when it has ended.
    pub fn keep_migration(&self, migration: Option<&[u8]>) {
        let inner = self.locked();
        let Some(directory) = &inner.directory else { return };
        let kept = match migration {
            Some(migration) => directory.replace(MIGRATION_FILE, migration),
            None => directory.remove(MIGRATION_FILE),
        };
        if let Err(error) = kept {
            tracing::warn!(reason = %error, "cannot write {MIGRATION_FILE}; the next launcher may not go on with the migration");
        }
    }

    /// What an earlier launcher kept of a migration.
    pub fn kept_migration(&self) -> Option<Vec<u8>> {
        self.locked().directory.as_ref()?.read(MIGRATION_FILE, LIMIT).ok()
    }

    fn write(&self, inner: &mut Inner) {
        let Some(directory) = &inner.directory else { return };
        let written =
            serde_json::to_vec(&inner.state).map_err(io::Error::from).and_then(|bytes| directory.replace(FILE, &bytes));
        match written {
            Ok(()) => inner.complaint = None,
            Err(error) => {
                if inner.complaint.replace(error.kind()) != Some(error.kind()) {
                    tracing::warn!(reason = %error, "cannot write {FILE}; the next launcher would not know everything");
                }
            }
        }
    }
}

fn load(directory: &Folder) -> io::Result<SavedState> {
    let bytes = match directory.read(FILE, LIMIT) {
        // The previous launcher died before there was anything to remember.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(SavedState::default()),
        result => result?,
    };
    let state: SavedState = serde_json::from_slice(&bytes)?;
    match state.version {
        VERSION => Ok(state),
        other => Err(io::Error::other(format!("its version is {other}, not {VERSION}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::GracePeriodMetadata;

    #[test]
    fn what_was_changed_is_there_for_the_next_and_gone_for_a_first_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = StateFile::open(folder.path(), false);
        assert!(folder.path().join(FILE).exists(), "the monitor sees that there is something to adopt");
        let own = identify(i32::try_from(std::process::id()).unwrap()).unwrap();
        store.change(|state| {
            state.metadata.uid = "u".into();
            state.metadata.grace_period =
                Some(GracePeriodMetadata { marked_for_graceful_shutdown: Some(true), ..Default::default() });
            state.paused.insert("u".into());
            state.process = Some(own);
        });
        let next = Restored::open(folder.path(), true).state;
        assert_eq!(next, store.state());
        assert!(!next.hypervisor_ended());
        let ended = SavedState { process: Some(ProcessId { started: own.started + 1, ..own }), ..next };
        assert!(ended.hypervisor_ended(), "another process with the same number");
        assert_eq!(Restored::open(folder.path(), false).state, SavedState::default());
        assert_eq!(Restored::open(folder.path(), true).state, SavedState::default());
    }

    #[test]
    fn last_document_is_there_for_the_next_until_there_is_no_domain() {
        let folder = tempfile::tempdir().unwrap();
        let document: Arc<str> = Arc::from("{}");
        StateFile::open(folder.path(), false).keep_domain(Some(&document));
        let next = StateFile::open(folder.path(), true);
        assert_eq!(next.kept_domain(), Some(document.clone()));
        next.keep_domain(None);
        next.keep_domain(Some(&document));
        next.keep_domain(None);
        assert_eq!(next.kept_domain(), None);
        next.keep_domain(Some(&document));
        assert_eq!(StateFile::open(folder.path(), false).kept_domain(), None, "the first launcher begins with nothing");
    }

    #[test]
    fn nonsense_and_a_missing_directory_cost_only_what_was_remembered() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "{", "{\"version\":1}", "{\"version\":99,\"metadata\":{},\"paused\":[],\"process\":null}"] {
            std::fs::write(folder.path().join(FILE), text).unwrap();
            assert_eq!(Restored::open(folder.path(), true).state, SavedState::default(), "{text}");
        }
        let nowhere = StateFile::open(&folder.path().join("missing"), true);
        nowhere.change(|state| state.metadata.uid = "u".into());
        assert_eq!(nowhere.state().metadata.uid, "u");
    }
}
