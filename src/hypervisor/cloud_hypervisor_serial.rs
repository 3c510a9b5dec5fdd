//! The serial port: Cloud Hypervisor takes one client, which must read everything and stay (contract/cloud-hypervisor.md
//! 6.4). That client is here: it writes the console's log and serves `virt-serial0` to virt-handler's users, any number of
//! them, one after the other or at once.
//!
//! What the reader can rely on: bytes are never taken from the guest without going to the log and to every user who is
//! connected; what comes while nobody is connected is kept, up to a bound, for the next one.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, watch};

use crate::domain::DomainSpec;

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
    /// The VMM's own socket.
    pub vmm: PathBuf,
    /// `virt-serial0`, which virt-handler opens.
    pub users: PathBuf,
    /// The console's log; present if the VMI has one.
    pub log: Option<PathBuf>,
}

impl SerialPaths {
    /// Those of a domain that has a serial port.
    pub(super) fn of(xml: &str) -> Option<Self> {
        let domain = DomainSpec::from_xml(xml).ok()?;
        let serial = domain.devices.serials.first()?;
        let vmm = PathBuf::from(&serial.source.as_ref()?.path);
        let users = vmm.parent()?.join("virt-serial0");
        let log = serial.log.as_ref().map(|log| PathBuf::from(&log.file));
        Some(SerialPaths { vmm, users, log })
    }

    /// Removes the VMM's socket: one that a killed VMM left keeps the next from starting.
    pub(super) fn clear(&self) {
        match std::fs::remove_file(&self.vmm) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{}: cannot remove it: {error}", self.vmm.display());
            }
            Ok(()) | Err(_) => {}
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
    /// Serves the port as long as `alive` says that there is a VMM. Problems are told; a VM runs without its console.
    pub(super) fn serve(paths: &SerialPaths, owner: (u32, u32), alive: watch::Receiver<bool>) {
        let output = Output { kept: VecDeque::new(), users: broadcast::Sender::new(LAG) };
        let serial = Arc::new(Serial { paths: paths.clone(), output: Mutex::new(output) });
        tokio::spawn(serial.run(owner, alive));
    }

    async fn run(self: Arc<Self>, owner: (u32, u32), alive: watch::Receiver<bool>) {
        let listener = match listen(&self.paths.users, owner) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(reason = %error, "no serial console at {}", self.paths.users.display());
                return;
            }
        };
        let (input, typed) = mpsc::channel::<Vec<u8>>(64);
        let (stop, stopped) = watch::channel(false);
        let users = tokio::spawn(Arc::clone(&self).accept(listener, input, stopped));
        self.read(typed, alive).await;
        stop.send_replace(true);
        // Closes the users' ends once they have everything.
        self.output.lock().unwrap_or_else(PoisonError::into_inner).users = broadcast::Sender::new(1);
        let _ = tokio::time::timeout(FAREWELL, users).await;
        let _ = std::fs::remove_file(&self.paths.users);
    }

    /// Reads the VMM's socket, again after every reboot of the guest, until there is neither a VMM nor anything to read.
    async fn read(&self, mut typed: mpsc::Receiver<Vec<u8>>, alive: watch::Receiver<bool>) {
        let mut log = self.paths.log.as_deref().and_then(open_log);
        loop {
            let Ok(mut stream) = UnixStream::connect(&self.paths.vmm).await else {
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

fn listen(path: &Path, (uid, gid): (u32, u32)) -> std::io::Result<UnixListener> {
    // One of an earlier launcher.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    }
    Ok(listener)
}

fn open_log(path: &Path) -> Option<tokio::fs::File> {
    match std::fs::OpenOptions::new().create(true).append(true).open(path) {
        Ok(file) => Some(tokio::fs::File::from_std(file)),
        Err(error) => {
            tracing::error!(reason = %error, "no log of the serial console at {}", path.display());
            None
        }
    }
}
