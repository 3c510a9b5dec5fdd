//! Double of virt-handler's two migration proxies in one (contract/migration.md 3.1, 3.2), because the real ones need a
//! cluster: it listens in the source's pod and dials the sockets of the target's pod, without retries; it can be told to be
//! slow, to refuse and to break.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::chown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

/// User and group of QEMU and libvirt in a pod that is not run as root.
const QEMU: u32 = 107;
/// How soon a thread sees that it is to end.
const TICK: Duration = Duration::from_millis(50);
/// What is copied at once.
const PIECE: usize = 64 << 10;
/// Pieces in a second over a link that is slow.
const PIECES: u64 = 50;

/// What a socket of a migration carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    /// libvirt's protocol.
    Control,
    /// Memory and state of the devices: n = 49152.
    Memory,
    /// Disks that are copied: n = 49153.
    Disks,
}

impl Line {
    pub const PLAIN: [Line; 2] = [Line::Control, Line::Memory];
    pub const BLOCK: [Line; 3] = [Line::Control, Line::Memory, Line::Disks];

    /// The file below the share directory in the source's pod.
    fn file(self, uid: &str) -> String {
        match self {
            Line::Control => format!("{uid}-source.sock"),
            Line::Memory => format!("{uid}-49152-source.sock"),
            Line::Disks => format!("{uid}-49153-source.sock"),
        }
    }

    fn target(self, root: &Path, uid: &str) -> PathBuf {
        match self {
            Line::Control => root.join("var/run/libvirt/virtqemud-sock"),
            Line::Memory | Line::Disks => proxies(root).join(self.file(uid)),
        }
    }
}

fn proxies(root: &Path) -> PathBuf {
    root.join("var/run/kubevirt/migrationproxy")
}

/// What is wrong with a line; nothing by default. A change counts from the next piece, or the next connection.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Before each piece.
    pub delay: Duration,
    /// Of all connections of the line together, in both directions.
    pub bytes_per_second: Option<u64>,
    /// Ends all connections of the line once so many bytes went to the target; those that come later end at once.
    pub cut_after: Option<u64>,
    /// Breaks connections so that the peers see ECONNRESET where they would see the end.
    pub resets: bool,
    /// Connections that are accepted and closed, as if the target could not be dialled; from 1.
    pub refuses: Vec<usize>,
}

/// What went over a line so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counted {
    /// Connections that the source made.
    pub connections: usize,
    /// Of these, the ones that were closed at once: refused here, or by the target.
    pub refused: usize,
    /// Bytes from the source to the target.
    pub to_target: u64,
    pub to_source: u64,
}

#[derive(Default)]
struct Inside {
    faults: Faults,
    counted: Counted,
    open: Vec<Arc<Connection>>,
    /// When the link is free again.
    free: Option<Instant>,
    stopped: bool,
}

/// One line.
struct Proxy {
    line: Line,
    target: PathBuf,
    inside: Mutex<Inside>,
    ended: Condvar,
    log: Arc<Log>,
}

/// What happened, for messages.
struct Log {
    begun: Instant,
    lines: Mutex<Vec<String>>,
}

impl Log {
    fn note(&self, what: String) {
        lock(&self.lines).push(format!("{:8.3} {what}", self.begun.elapsed().as_secs_f64()));
    }
}

/// Two sockets that end together.
struct Connection {
    number: usize,
    near: UnixStream,
    far: UnixStream,
    /// How it ended: in order, or not.
    end: Mutex<Option<End>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Closed,
    Reset,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Carries one migration between two pods on this machine, until it is dropped.
pub struct Bridge {
    proxies: BTreeMap<Line, Arc<Proxy>>,
    sockets: Vec<PathBuf>,
    threads: Vec<JoinHandle<()>>,
    log: Arc<Log>,
}

impl Bridge {
    /// Listens in the pod of `source`, dials into the pod of `target`: pids of processes that see the pods' files. `uid` is
    /// the VMI's.
    pub fn between(source: u32, target: u32, uid: &str, lines: &[Line]) -> Bridge {
        let root = |pid| PathBuf::from(format!("/proc/{pid}/root"));
        let folder = proxies(&root(source));
        if !folder.exists() {
            fs::create_dir(&folder).unwrap();
            chown(&folder, Some(QEMU), Some(QEMU)).unwrap();
        }
        let log = Arc::new(Log { begun: Instant::now(), lines: Mutex::default() });
        let mut bridge =
            Bridge { proxies: BTreeMap::new(), sockets: Vec::new(), threads: Vec::new(), log: Arc::clone(&log) };
        for line in lines {
            let socket = folder.join(line.file(uid));
            let _ = fs::remove_file(&socket);
            let listener = UnixListener::bind(&socket).unwrap();
            listener.set_nonblocking(true).unwrap();
            chown(&socket, Some(QEMU), Some(QEMU)).unwrap();
            let proxy = Arc::new(Proxy {
                line: *line,
                target: line.target(&root(target), uid),
                inside: Mutex::default(),
                ended: Condvar::new(),
                log: Arc::clone(&log),
            });
            bridge.sockets.push(socket);
            bridge.proxies.insert(*line, Arc::clone(&proxy));
            bridge.threads.push(std::thread::spawn(move || proxy.serve(&listener)));
        }
        bridge
    }

    /// Changes what is wrong with a line.
    pub fn faults(&self, line: Line, faults: Faults) {
        lock(&self.proxies[&line].inside).faults = faults;
    }

    /// Ends all connections of all lines, and refuses others.
    pub fn cut(&self) {
        for proxy in self.proxies.values() {
            lock(&proxy.inside).faults.cut_after = Some(0);
            proxy.cut(End::Closed);
        }
    }

    pub fn counted(&self, line: Line) -> Counted {
        self.proxies.get(&line).map(|proxy| lock(&proxy.inside).counted.clone()).unwrap_or_default()
    }

    /// What happened so far, with the seconds since the bridge was made.
    pub fn log(&self) -> String {
        let counted = self.proxies.iter().map(|(line, proxy)| format!("{line:?}: {:?}", lock(&proxy.inside).counted));
        lock(&self.log.lines).iter().cloned().chain(counted).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for proxy in self.proxies.values() {
            lock(&proxy.inside).stopped = true;
            proxy.cut(End::Closed);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for socket in &self.sockets {
            let _ = fs::remove_file(socket);
        }
    }
}

impl Proxy {
    fn serve(self: Arc<Self>, listener: &UnixListener) {
        let timeout = PollTimeout::try_from(TICK).unwrap();
        while !lock(&self.inside).stopped {
            use std::os::fd::AsFd;
            let _ = poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], timeout);
            match listener.accept() {
                Ok((near, _)) => self.carry(near),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => self.log.note(format!("{:?}: accept: {error}", self.line)),
            }
        }
    }

    fn carry(self: &Arc<Self>, near: UnixStream) {
        let (number, refused) = {
            let mut inside = lock(&self.inside);
            inside.counted.connections += 1;
            let number = inside.counted.connections;
            (number, inside.faults.refuses.contains(&number) || inside.faults.cut_after == Some(0))
        };
        let dialled = if refused { Err("refused here".to_owned()) } else { dial(&self.target) };
        let far = match dialled {
            Ok(far) => far,
            Err(why) => {
                lock(&self.inside).counted.refused += 1;
                return self.log.note(format!("{:?} {number}: {why}", self.line));
            }
        };
        self.log.note(format!("{:?} {number}: connected", self.line));
        for stream in [&near, &far] {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(TICK)).unwrap();
            stream.set_write_timeout(Some(TICK)).unwrap();
        }
        let connection = Arc::new(Connection { number, near, far, end: Mutex::new(None) });
        lock(&self.inside).open.push(Arc::clone(&connection));
        for to_target in [true, false] {
            let (proxy, connection) = (Arc::clone(self), Arc::clone(&connection));
            std::thread::spawn(move || proxy.pump(&connection, to_target));
        }
    }

    /// Copies one direction until either end has ended.
    fn pump(&self, connection: &Connection, to_target: bool) {
        let Connection { near, far, .. } = connection;
        let (mut from, mut to) = if to_target { (near, far) } else { (far, near) };
        let mut buffer = vec![0; PIECE];
        let why = loop {
            if connection.is_over() {
                return;
            }
            let room = self.room();
            let length = match from.read(&mut buffer[..room]) {
                Ok(0) => break "the end".to_owned(),
                Ok(length) => length,
                Err(error) if patience(error.kind()) => continue,
                Err(error) => break error.to_string(),
            };
            self.take_time(connection, length);
            if let Some(end) = self.count(length, to_target) {
                return self.cut(end);
            }
            if let Err(error) = send(&mut to, &buffer[..length], connection) {
                break error;
            }
        };
        let whose = if to_target { "source" } else { "target" };
        self.log.note(format!("{:?} {}: {why}, seen at the side of the {whose}", self.line, connection.number));
        self.end(connection, End::Closed);
    }

    /// How much is copied at once.
    fn room(&self) -> usize {
        let limit = lock(&self.inside).faults.bytes_per_second;
        limit.map_or(PIECE, |rate| usize::try_from(rate / PIECES).unwrap().clamp(1, PIECE))
    }

    /// Waits as long as a piece takes over the line, or until the connection has ended.
    fn take_time(&self, connection: &Connection, length: usize) {
        let mut inside = lock(&self.inside);
        let Faults { delay, bytes_per_second, .. } = inside.faults.clone();
        let now = Instant::now();
        let mut due = now + delay;
        if let Some(rate) = bytes_per_second {
            let takes = Duration::from_secs_f64(length as f64 / rate as f64);
            let free = inside.free.unwrap_or(now).max(now) + takes;
            inside.free = Some(free);
            due = due.max(free);
        }
        while !connection.is_over() {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            inside = self.ended.wait_timeout(inside, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How the line is to end now, if it is.
    fn count(&self, length: usize, to_target: bool) -> Option<End> {
        let mut inside = lock(&self.inside);
        let direction = if to_target { &mut inside.counted.to_target } else { &mut inside.counted.to_source };
        *direction += length as u64;
        let over = inside.faults.cut_after.is_some_and(|limit| inside.counted.to_target >= limit);
        over.then_some(if inside.faults.resets { End::Reset } else { End::Closed })
    }

    /// Ends all connections; the ones that come later are refused.
    fn cut(&self, end: End) {
        let open = {
            let mut inside = lock(&self.inside);
            inside.faults.cut_after = Some(0);
            inside.open.clone()
        };
        for connection in open {
            self.log.note(format!("{:?} {}: cut, {end:?}", self.line, connection.number));
            if end == End::Reset {
                // A socket that is closed with bytes unread resets its peer.
                wait_unread(&connection.near);
            }
            self.end(&connection, end);
        }
    }

    fn end(&self, connection: &Connection, end: End) {
        lock(&connection.end).get_or_insert(end);
        if end == End::Closed {
            for stream in [&connection.near, &connection.far] {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
        lock(&self.inside).open.retain(|open| open.number != connection.number);
        self.ended.notify_all();
    }
}

impl Connection {
    fn is_over(&self) -> bool {
        lock(&self.end).is_some()
    }
}

fn dial(target: &Path) -> Result<UnixStream, String> {
    UnixStream::connect(target).map_err(|error| format!("{}: {error}", target.display()))
}

fn patience(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Writes all, unless the connection ends meanwhile.
fn send(to: &mut &UnixStream, mut bytes: &[u8], connection: &Connection) -> Result<(), String> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if patience(error.kind()) && !connection.is_over() => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

fn wait_unread(stream: &UnixStream) {
    // Within the stream's time-out; a peer that is silent sees the end instead.
    for _ in 0..20 {
        if recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK).is_ok() {
            return;
        }
    }
}
