//! The serial port: Cloud Hypervisor takes one client, which must read everything and stay (contract/cloud-hypervisor.md
//! 6.4). That client is here: it writes the console's log and serves `virt-serial0` to virt-handler's users, any number of
//! them, one after the other or at once.
//!
//! What the reader can rely on: bytes are never taken from the guest without going to the log and to every user who is
//! connected; output without a connected client is kept, up to a bound, for the next one. The files are in a directory
//! of the VMM's user, and the launcher may be root: their names are fixed, and it opens and makes them through no link.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, fchown, fchownat, geteuid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, watch};

use crate::domain::DomainSpec;
use crate::files::Folder;

/// The VMM's own socket.
const VMM: &str = "vmm-serial0";
/// What virt-handler opens.
const USERS: &str = "virt-serial0";
/// The console's log.
const LOG: &str = "virt-serial0-log";

/// Output that is kept for the next user while there is none, in bytes.
const KEPT: usize = 256 * 1024;
/// Pieces of output that a slow user may lag behind before it is cut off.
const LAG: usize = 1024;
/// Between two attempts to reach the VMM, whose socket is made while it starts and anew when the guest reboots.
const PAUSE: Duration = Duration::from_millis(20);
/// How long users may take for the last output.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where the serial port's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SerialPaths {
    /// The VM's private directory.
    private: PathBuf,
    /// Whether the VMI has a log of the console.
    has_log: bool,
}

impl SerialPaths {
    /// Those of a domain that has a serial port. The XML says what there is, not where: it may have been changed.
    pub(super) fn of(xml: &str, private: &Path) -> Option<Self> {
        let domain = DomainSpec::from_xml(xml).ok()?;
        let serial = domain.devices.serials.first()?;
        let paths = SerialPaths { private: private.to_owned(), has_log: serial.log.is_some() };
        let (is, must_be) = (Path::new(&serial.source.as_ref()?.path), paths.vmm());
        if is != must_be {
            tracing::warn!("no serial console: the VM has its port at {}, not at {}", is.display(), must_be.display());
            return None;
        }
        Some(paths)
    }

    /// The VMM's own socket.
    fn vmm(&self) -> PathBuf {
        self.private.join(VMM)
    }

    /// Whether the VMM's socket is there.
    pub(super) fn is_there(&self) -> bool {
        self.vmm().symlink_metadata().is_ok()
    }

    /// Removes the VMM's socket: one that a killed VMM left keeps the next from starting.
    pub(super) fn clear(&self) {
        if let Err(error) = Folder::open(&self.private).and_then(|folder| folder.remove(VMM)) {
            tracing::warn!("{}: cannot remove it: {error}", self.vmm().display());
        }
    }
}

/// What came from the guest and has no user yet, and the way to those who are there.
struct Output {
    kept: VecDeque<u8>,
    users: broadcast::Sender<Arc<[u8]>>,
}

/// The one reader of the VMM's socket.
pub(super) struct Serial {
    paths: SerialPaths,
    output: Mutex<Output>,
}

impl Serial {
    /// Serves the port as long as `alive` says that there is a VMM. Problems are logged; a VM runs without its console.
    pub(super) fn serve(paths: &SerialPaths, owner: (u32, u32), alive: watch::Receiver<bool>) {
        let output = Output { kept: VecDeque::new(), users: broadcast::Sender::new(LAG) };
        let serial = Arc::new(Serial { paths: paths.clone(), output: Mutex::new(output) });
        tokio::spawn(serial.run(owner, alive));
    }

    async fn run(self: Arc<Self>, owner: (u32, u32), alive: watch::Receiver<bool>) {
        let listener = match listen(&self.paths.private, owner) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(reason = %error, "no serial console {USERS} in {}", self.paths.private.display());
                return;
            }
        };
        let (input, typed) = mpsc::channel::<Vec<u8>>(64);
        let (stop, stopped) = watch::channel(false);
        let users = tokio::spawn(Arc::clone(&self).accept(listener, input, stopped));
        self.read(owner, typed, alive).await;
        // At once: later there may be the socket of another start.
        let _ = Folder::open(&self.paths.private).and_then(|folder| folder.remove(USERS));
        stop.send_replace(true);
        // Closes the users' ends once they have everything.
        self.output.lock().unwrap_or_else(PoisonError::into_inner).users = broadcast::Sender::new(1);
        let _ = tokio::time::timeout(FAREWELL, users).await;
    }

    /// Reads the VMM's socket, again after every reboot of the guest, until there is neither a VMM nor anything to read.
    async fn read(&self, owner: (u32, u32), mut typed: mpsc::Receiver<Vec<u8>>, alive: watch::Receiver<bool>) {
        let (mut log, vmm) = (self.log(owner), self.paths.vmm());
        loop {
            let Ok(mut stream) = UnixStream::connect(&vmm).await else {
                if !*alive.borrow() {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let mut buffer = vec![0; 16 * 1024];
            loop {
                tokio::select! {
                    read = stream.read(&mut buffer) => match read {
                        Ok(0) | Err(_) => break,
                        Ok(length) => self.emit(buffer.get(..length).unwrap_or_default(), &mut log).await,
                    },
                    Some(bytes) = typed.recv() => {
                        // What is typed while the guest reboots is lost, as on a real line.
                        let _ = stream.write_all(&bytes).await;
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn log(&self, owner: (u32, u32)) -> Option<tokio::fs::File> {
        if !self.paths.has_log {
            return None;
        }
        let opened = open_log(&self.paths.private, owner).map(tokio::fs::File::from_std);
        let told = |error: &io::Error| {
            tracing::error!(reason = %error, "no log of the serial console {LOG} in {}", self.paths.private.display());
        };
        opened.inspect_err(told).ok()
    }

    async fn emit(&self, bytes: &[u8], log: &mut Option<tokio::fs::File>) {
        if let Some(file) = log {
            let written = async {
                file.write_all(bytes).await?;
                file.flush().await
            };
            if let Err(error) = written.await {
                tracing::error!(reason = %error, "the serial console's log ends here");
                *log = None;
            }
        }
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if output.users.send(bytes.into()).is_err() {
            output.kept.extend(bytes);
            let excess = output.kept.len().saturating_sub(KEPT);
            output.kept.drain(..excess);
        }
    }

    async fn accept(
        self: Arc<Self>,
        listener: UnixListener,
        input: mpsc::Sender<Vec<u8>>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut users = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                () = async { drop(stopped.wait_for(|stopped| *stopped).await) } => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (first, more) = self.subscribe();
                        users.spawn(user(stream, first, more, input.clone()));
                    }
                    Err(error) => {
                        tracing::warn!("a user of the serial console was lost: {error}");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = users.join_next() => {}
            }
        }
        while users.join_next().await.is_some() {}
    }

    /// What was kept, and what comes from now on, without a gap.
    fn subscribe(&self) -> (Vec<u8>, broadcast::Receiver<Arc<[u8]>>) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        let first = output.kept.drain(..).collect();
        (first, output.users.subscribe())
    }
}

/// One user, until either side ends.
async fn user(
    mut stream: UnixStream,
    first: Vec<u8>,
    mut more: broadcast::Receiver<Arc<[u8]>>,
    input: mpsc::Sender<Vec<u8>>,
) {
    let (mut from_user, mut to_user) = stream.split();
    let to_user = async {
        to_user.write_all(&first).await.ok()?;
        // A user who lags too far behind is cut off rather than shown a gap.
        while let Ok(bytes) = more.recv().await {
            to_user.write_all(&bytes).await.ok()?;
        }
        Some(())
    };
    let from_user = async {
        let mut buffer = vec![0; 1024];
        while let Ok(length @ 1..) = from_user.read(&mut buffer).await {
            if input.send(buffer.get(..length).unwrap_or_default().to_vec()).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        _ = to_user => {}
        _ = from_user => {}
    }
}

/// Makes `virt-serial0` for the VMM's user.
fn listen(private: &Path, owner: (u32, u32)) -> io::Result<UnixListener> {
    let folder = Folder::open(private)?;
    // One of a previous launcher.
    folder.remove(USERS)?;
    let directory = folder.itself()?;
    // There is no bindat(2). bind(2) does not follow a link at the end of a path.
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{USERS}", directory.as_raw_fd()))?;
    if geteuid().is_root() {
        give_socket(&directory, owner)?;
    }
    Ok(listener)
}

/// Gives the socket that was just made to the VMM's user, who may have put something else in its place meanwhile: what
/// changes hands is what was looked at.
fn give_socket(directory: &File, (uid, gid): (u32, u32)) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let socket = File::from(openat(directory, USERS, flags, Mode::empty())?);
    let found = socket.metadata()?;
    if !found.file_type().is_socket() || found.uid() != geteuid().as_raw() || found.nlink() != 1 {
        return Err(io::Error::other("something else is in the place of the socket that was made"));
    }
    Ok(fchownat(&socket, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::AT_EMPTY_PATH)?)
}

/// Opens the console's log to append to it, and makes it if it is not there. In a root pod the log is the VMM's user's:
/// what is not could be any file of root's that this user has moved to the log's place.
fn open_log(private: &Path, (uid, gid): (u32, u32)) -> io::Result<File> {
    let folder = Folder::open(private)?;
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND;
    let root = geteuid().is_root();
    match folder.file(LOG, flags | OFlag::O_CREAT | OFlag::O_EXCL, Mode::from_bits_truncate(0o644)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = folder.file(LOG, flags, Mode::empty())?;
            let found = file.metadata()?;
            if root && (found.uid() != uid || found.nlink() != 1) {
                return Err(io::Error::other(format!("{LOG} is a file of user {}", found.uid())));
            }
            Ok(file)
        }
        made => {
            let file = made?;
            if root {
                fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            }
            Ok(file)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;

    fn own() -> (u32, u32) {
        (geteuid().as_raw(), nix::unistd::getegid().as_raw())
    }

    #[test]
    fn xml_does_not_say_where_the_files_are() {
        let xml = |serial: &str| format!("<domain type='kvm'><name>d</name><devices>{serial}</devices></domain>");
        let private = Path::new("/private/u");
        let port = "<serial type='unix'><source mode='bind' path='/private/u/vmm-serial0'/><target port='0'/>";
        let paths = SerialPaths::of(&xml(&format!("{port}</serial>")), private).unwrap();
        assert_eq!((paths.vmm().as_path(), paths.has_log), (Path::new("/private/u/vmm-serial0"), false));
        let logged = SerialPaths::of(&xml(&format!("{port}<log file='/etc/cron.d/x'/></serial>")), private).unwrap();
        assert_eq!(logged, SerialPaths { has_log: true, ..paths });
        let elsewhere = port.replace("vmm-serial0", "../root/socket");
        for xml in [xml(&format!("{elsewhere}</serial>")), xml(""), String::new()] {
            assert_eq!(SerialPaths::of(&xml, private), None, "{xml}");
        }
    }

    #[test]
    fn log_is_a_file_of_the_vms_and_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let (log, victim) = (folder.path().join(LOG), folder.path().join("victim"));
        for text in ["one", " two"] {
            open_log(folder.path(), own()).unwrap().write_all(text.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "one two");
        std::fs::write(&victim, "precious").unwrap();
        let refused = |why: &str| {
            let error = open_log(folder.path(), own()).unwrap_err().to_string();
            assert!(error.contains(LOG), "{why}: {error}");
            std::fs::remove_file(&log).unwrap();
        };
        std::fs::remove_file(&log).unwrap();
        symlink(&victim, &log).unwrap();
        refused("a link");
        nix::unistd::mkfifo(&log, Mode::S_IRWXU).unwrap();
        // It has no reader.
        assert!(open_log(folder.path(), own()).is_err());
        std::fs::remove_file(&log).unwrap();
        if geteuid().is_root() {
            std::fs::hard_link(&victim, &log).unwrap();
            refused("a second name");
            std::fs::write(&log, "").unwrap();
            let error = open_log(folder.path(), (107, 107)).unwrap_err().to_string();
            assert!(error.contains("user 0"), "{error}");
            std::fs::remove_file(&log).unwrap();
            let made = open_log(folder.path(), (107, 107)).unwrap().metadata().unwrap();
            assert_eq!((made.uid(), made.gid()), (107, 107));
        }
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[tokio::test]
    async fn socket_takes_the_place_of_a_link_and_nothing_else_changes_hands() {
        let folder = tempfile::tempdir().unwrap();
        let (socket, victim) = (folder.path().join(USERS), folder.path().join("victim"));
        std::fs::write(&victim, "precious").unwrap();
        symlink(&victim, &socket).unwrap();
        let owner = if geteuid().is_root() { (107, 107) } else { own() };
        let listener = listen(folder.path(), owner).unwrap();
        let (connected, accepted) = tokio::join!(UnixStream::connect(&socket), listener.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        let made = socket.symlink_metadata().unwrap();
        assert_eq!((made.uid(), made.gid()), owner);
        // A process that is quick enough gains nothing by it.
        let directory = Folder::open(folder.path()).unwrap().itself().unwrap();
        for put in
            [|victim: &Path, at: &Path| symlink(victim, at), |victim: &Path, at: &Path| std::fs::hard_link(victim, at)]
        {
            std::fs::remove_file(&socket).unwrap();
            put(&victim, &socket).unwrap();
            assert!(give_socket(&directory, (107, 107)).is_err());
        }
        assert_eq!(victim.metadata().unwrap().uid(), own().0);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    }
}
