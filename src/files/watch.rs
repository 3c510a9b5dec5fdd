//! Changes of files and directories, told by the kernel.
//!
//! One inotify instance serves all that is watched here: a user may have only a few (128 by default) on a node, and the
//! launchers of all its VMs run as the same user. (What waits for a path to appear has its own: `Appearance`.)
//! Where the kernel refuses one, or a watch, the path is looked at every [`LOOK_AGAIN`] instead.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InotifyEvent, WatchDescriptor};
use tokio::sync::Notify;

use super::inotify::Events;

/// Between two looks at a path that the kernel cannot watch.
pub const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Somebody who waits for a name in a directory.
struct Subscriber {
    id: u64,
    name: OsString,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Table {
    subscribers: HashMap<WatchDescriptor, Vec<Subscriber>>,
    last_id: u64,
}

struct Inner {
    events: Option<Arc<Events>>,
    table: Arc<Mutex<Table>>,
    reader: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

fn locked(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // The table is whole at every step, so a panic elsewhere cannot have torn it.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process's watcher; clones share the one instance.
#[derive(Clone)]
pub struct Watcher {
    inner: Arc<Inner>,
}

impl Watcher {
    /// Needs a tokio runtime. Never fails: see the module's text.
    pub fn new() -> Self {
        let table = Arc::default();
        match Events::open() {
            Ok(events) => {
                let events = Arc::new(events);
                let reader = tokio::spawn(deliver(Arc::clone(&events), Arc::clone(&table)));
                Watcher { inner: Arc::new(Inner { events: Some(events), table, reader: Some(reader) }) }
            }
            Err(error) => {
                tracing::warn!(reason = %error, "no inotify instance; files are looked at every {LOOK_AGAIN:?}");
                Watcher { inner: Arc::new(Inner { events: None, table, reader: None }) }
            }
        }
    }

    /// Watches `path`, which need not exist, nor its directory: what happens to it from now on is not missed.
    pub fn path(&self, path: &Path) -> PathWatch {
        let mut watch = PathWatch {
            inner: Arc::clone(&self.inner),
            path: path.to_owned(),
            changed: Arc::new(Notify::new()),
            armed: None,
        };
        watch.arm();
        watch
    }
}

impl Default for Watcher {
    fn default() -> Self {
        Watcher::new()
    }
}

async fn deliver(events: Arc<Events>, table: Arc<Mutex<Table>>) {
    while let Ok(batch) = events.next().await {
        let mut table = locked(&table);
        batch.iter().for_each(|event| notify(&mut table, event));
    }
}

fn notify(table: &mut Table, event: &InotifyEvent) {
    if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
        // Events were lost: anything may have changed.
        table.subscribers.values().flatten().for_each(|subscriber| subscriber.changed.notify_one());
        return;
    }
    if let Some(subscribers) = table.subscribers.get(&event.wd) {
        for subscriber in subscribers {
            // An event without a name is about the directory itself.
            if event.name.as_ref().is_none_or(|name| *name == subscriber.name) {
                subscriber.changed.notify_one();
            }
        }
    }
    if event.mask.contains(AddWatchFlags::IN_IGNORED) {
        table.subscribers.remove(&event.wd);
    }
}

/// Where a path watch listens.
struct Armed {
    wd: WatchDescriptor,
    id: u64,
}

/// A watched path. The loop around it looks at the path first and then waits for `changed`.
pub struct PathWatch {
    inner: Arc<Inner>,
    path: PathBuf,
    changed: Arc<Notify>,
    armed: Option<Armed>,
}

impl PathWatch {
    /// Returns when something may have happened to the path since the watch was made or this was last called: it
    /// appeared, changed, was renamed or removed, or a directory above it did. Cancel-safe.
    pub async fn changed(&mut self) {
        match self.armed {
            Some(_) => self.changed.notified().await,
            None => tokio::time::sleep(LOOK_AGAIN).await,
        }
        self.arm();
    }

    /// Listens at the nearest directory that exists on the way to the path.
    fn arm(&mut self) {
        let inner = Arc::clone(&self.inner);
        let Some(events) = &inner.events else { return };
        loop {
            let Some((directory, name)) = nearest(&self.path) else { return self.disarm() };
            let mut table = locked(&inner.table);
            let wd = match events.watch(&directory, interest()) {
                Ok(wd) => wd,
                Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => continue,
                Err(_cannot_watch) => {
                    drop(table);
                    return self.disarm();
                }
            };
            let subscribed = self.armed.as_ref().is_some_and(|armed| {
                armed.wd == wd
                    && table.subscribers.get(&wd).is_some_and(|all| {
                        all.iter().any(|subscriber| subscriber.id == armed.id && subscriber.name == name)
                    })
            });
            if !subscribed {
                table.last_id += 1;
                let id = table.last_id;
                let subscriber = Subscriber { id, name, changed: Arc::clone(&self.changed) };
                table.subscribers.entry(wd).or_default().push(subscriber);
                drop(table);
                self.disarm();
                self.armed = Some(Armed { wd, id });
            } else {
                drop(table);
            }
            // A directory that was made before the watch above it began has told nobody.
            if nearest(&self.path).is_some_and(|(now, _)| now == directory) {
                return;
            }
        }
    }

    fn disarm(&mut self) {
        let (Some(armed), Some(events)) = (self.armed.take(), &self.inner.events) else { return };
        let mut table = locked(&self.inner.table);
        let Some(subscribers) = table.subscribers.get_mut(&armed.wd) else { return };
        subscribers.retain(|subscriber| subscriber.id != armed.id);
        if subscribers.is_empty() {
            table.subscribers.remove(&armed.wd);
            events.forget(armed.wd);
        }
    }
}

impl Drop for PathWatch {
    fn drop(&mut self) {
        self.disarm();
    }
}

fn interest() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR
}

/// The deepest existing directory above `path`, and the name in it that leads to `path`.
fn nearest(path: &Path) -> Option<(PathBuf, OsString)> {
    let mut path = path;
    loop {
        let name = path.file_name()?.to_owned();
        let directory = match path.parent()? {
            empty if empty.as_os_str().is_empty() => Path::new("."),
            parent => parent,
        };
        if directory.is_dir() {
            return Some((directory.to_owned(), name));
        }
        path = directory;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn soon(watch: &mut PathWatch) {
        tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.expect("no change was told");
    }

    #[tokio::test]
    async fn path_is_watched_from_before_its_directories_exist() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        let watcher = Watcher::new();
        let mut watch = watcher.path(&path);
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(&path, "one").unwrap();
        while !path.exists() || watch.armed.is_none() {
            soon(&mut watch).await;
        }
        soon(&mut watch).await;
        std::fs::write(&path, "two").unwrap();
        soon(&mut watch).await;
        std::fs::remove_dir_all(folder.path().join("a")).unwrap();
        while nearest(&path).unwrap().0 != folder.path() {
            soon(&mut watch).await;
        }
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        soon(&mut watch).await;
    }

    #[tokio::test]
    async fn watches_of_one_directory_do_not_disturb_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let watcher = Watcher::new();
        let mut one = watcher.path(&folder.path().join("one"));
        let two = watcher.path(&folder.path().join("two"));
        std::fs::write(folder.path().join("two"), "").unwrap();
        drop(two);
        std::fs::write(folder.path().join("one"), "").unwrap();
        soon(&mut one).await;
        // All events of the above have been delivered once a later one has.
        let mut last = watcher.path(&folder.path().join("last"));
        std::fs::write(folder.path().join("last"), "").unwrap();
        soon(&mut last).await;
        drop(last);
        assert_eq!(locked(&one.inner.table).subscribers.len(), 1);
        drop(one);
        assert!(locked(&watcher.inner.table).subscribers.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn without_inotify_the_path_is_looked_at_now_and_then() {
        let inner = Arc::new(Inner { events: None, table: Arc::default(), reader: None });
        let mut watch = Watcher { inner }.path(Path::new("/nonexistent/file"));
        let before = tokio::time::Instant::now();
        watch.changed().await;
        assert_eq!(before.elapsed(), LOOK_AGAIN);
    }
}
